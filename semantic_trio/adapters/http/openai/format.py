"""What form an answer is to have, in the words of OpenAI's APIs.

Knows the wire. Knows nothing of grammars.
"""

from typing import Annotated

import attrs
import msgspec

FORMAT_NAME = r"^[A-Za-z0-9_-]{1,64}$"
ANY_OBJECT = '{"type":"object"}'

FormatName = Annotated[str, msgspec.Meta(pattern=FORMAT_NAME)]


@attrs.frozen
class NamedSchema:
    """A schema. It is kept to whether it is `strict` or not."""

    name: FormatName
    schema: dict[str, object] | None = None
    description: str | None = None
    strict: bool | None = None


class AnyTextForm(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Anything."""


class JsonObjectForm(msgspec.Struct, frozen=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class JsonSchemaForm(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON of a schema."""

    json_schema: NamedSchema


ResponseFormat = AnyTextForm | JsonObjectForm | JsonSchemaForm


def schema_of(wanted: ResponseFormat | None) -> str | None:
    """The schema of an answer; None where it may say anything."""
    match wanted:
        case JsonObjectForm():
            return ANY_OBJECT
        case JsonSchemaForm(json_schema=named):
            return schema_text(named.schema)
    return None


def schema_text(schema: dict[str, object] | None) -> str:
    """A schema as text, its keys in their order; of none, that of any object."""
    return ANY_OBJECT if schema is None else msgspec.json.encode(schema).decode()
