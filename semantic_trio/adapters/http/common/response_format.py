"""The response format of an answer, in the words of OpenAI's APIs.

Knows the wire. Knows nothing of grammars.
"""

from typing import Annotated

import attrs
import msgspec

from semantic_trio.adapters.http.common.compatibility_fields import ANY_OBJECT
from semantic_trio.domain.errors import InvalidRequestError

FORMAT_NAME = r"^[A-Za-z0-9_-]{1,64}$"

FormatName = Annotated[str, msgspec.Meta(pattern=FORMAT_NAME)]


@attrs.frozen
class NamedSchema:
    """A schema. Answers match it whether it is `strict` or not."""

    name: FormatName
    schema: dict[str, object] | None = None
    description: str | None = None
    strict: bool | None = None


class AnyTextForm(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectForm(msgspec.Struct, frozen=True, tag_field="type", tag="json_object"):
    """Any JSON object, or one of a schema."""

    schema: dict[str, object] | None = None


class JsonSchemaForm(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that matches a schema, which is an object, or stands beside the type as in the Responses
    API.
    """

    json_schema: NamedSchema | None = None
    schema: dict[str, object] | None = None
    name: FormatName | None = None
    strict: bool | None = None


ResponseFormat = AnyTextForm | JsonObjectForm | JsonSchemaForm


def schema_of(wanted: ResponseFormat | None) -> str | None:
    """Return the schema of an answer; None for any text.

    Raises `InvalidRequestError` if a schema is announced and missing.
    """
    match wanted:
        case JsonObjectForm(schema=schema):
            return schema_text(schema)
        case JsonSchemaForm(json_schema=None, schema=None):
            raise InvalidRequestError("Field required", "response_format.json_schema", quotes=False)
        case JsonSchemaForm(json_schema=named, schema=schema):
            return schema_text(schema if named is None else named.schema)
    return None


def schema_text(schema: dict[str, object] | None) -> str:
    """Return a schema as text, its keys in their order; without a schema, that of any object."""
    return ANY_OBJECT if schema is None else msgspec.json.encode(schema).decode()
