"""What form an answer is to have, in the words of OpenAI's APIs.

Knows the wire. Knows nothing of grammars.
"""

from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.domain.errors import InvalidRequestError

FORMAT_NAME = r"^[A-Za-z0-9_-]{1,64}$"
ANY_OBJECT = '{"type":"object"}'

FormatName = Annotated[str, msgspec.Meta(pattern=FORMAT_NAME)]


@attrs.frozen
class JsonSchemaFormat:
    """A named schema. It is kept to whether it is `strict` or not."""

    name: FormatName
    schema: dict[str, object] | None = None
    description: str | None = None
    strict: bool | None = None


@attrs.frozen
class ResponseFormat:
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


def schema_of(wanted: ResponseFormat | None) -> str | None:
    """The schema of an answer; None where it may say anything. Raises `InvalidRequestError`."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.json_schema is None:
        raise InvalidRequestError("a json_schema has to be given", "response_format.json_schema")
    return schema_text(wanted.json_schema.schema)


def schema_text(schema: dict[str, object] | None) -> str:
    """A schema as text, its keys in their order; of none, that of any object."""
    return ANY_OBJECT if schema is None else msgspec.json.encode(schema).decode()
