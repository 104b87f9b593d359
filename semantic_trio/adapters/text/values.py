"""Ways in which a value of an argument may be written, by its schema: as a text without quotes, as
one of some texts, as JSON.

Knows JSON Schema. Knows nothing of grammars or formats. Unions, references and lists of types are
taken apart; what cannot be is a weaker demand.
"""

import json
from collections.abc import Iterator, Mapping

import attrs

from semantic_trio.adapters.text.formats.typed import (
    ALL_TYPES,
    MOST_LEVELS,
    Schema,
    resolved,
    types_of,
)

# Parts of the whole schema that references in a part of it lead to.
DEFINITIONS = ("$defs", "definitions")


@attrs.frozen
class RawText:
    """A text as it is."""

    shortest: int = 0
    longest: int | None = None
    pattern: str = ""


@attrs.frozen
class Exactly:
    """Exactly one text."""

    text: str


@attrs.frozen
class JsonValue:
    """JSON of a schema."""

    schema: str
    types: frozenset[str]


Way = RawText | Exactly | JsonValue


def ways(schema: object, root: Schema, level: int = 0) -> Iterator[Way]:
    """The ways to write a value of a schema, which is part of `root`; none where nothing satisfies
    it.
    """
    if schema is False:
        return
    if not isinstance(schema, dict) or level > MOST_LEVELS:
        yield RawText()
        return
    parts = _parts(schema, root)
    if parts is not None:
        for part in parts:
            yield from ways(part, root, level + 1)
        return
    choices = (
        schema["enum"]
        if isinstance(schema.get("enum"), list)
        else [schema["const"]]
        if "const" in schema
        else None
    )
    yield from _of_type(schema, root) if choices is None else _of_choices(choices)


def _parts(schema: Schema, root: Schema) -> list[object] | None:
    """The schemas that a union, a conjunction or a reference stands for; None for a schema that is
    none of these.
    """
    reference = schema.get("$ref")
    if isinstance(reference, str):
        found = resolved(reference, root)
        return (
            [{**_without(schema, "$ref"), **found}]
            if isinstance(found, dict)
            else [_without(schema, "$ref")]
        )
    for name in ("anyOf", "oneOf"):
        if isinstance(union := schema.get(name), list) and union:
            return [
                {**_without(schema, name), **part} if isinstance(part, dict) else part
                for part in union
            ]
    if (
        isinstance(every := schema.get("allOf"), list)
        and every
        and all(isinstance(part, dict) for part in every)
    ):
        merged = dict(_without(schema, "allOf"))
        for part in every:
            merged |= part
        return [merged]
    return None


def _of_type(schema: Schema, root: Schema) -> Iterator[Way]:
    types = types_of(schema, root)
    if "string" in types:
        least, most, pattern = (
            schema.get("minLength"),
            schema.get("maxLength"),
            schema.get("pattern"),
        )
        yield RawText(
            least if isinstance(least, int) else 0,
            most if isinstance(most, int) else None,
            pattern if isinstance(pattern, str) else "",
        )
    others = types - {"string"}
    if others and types != ALL_TYPES:
        definitions = {name: root[name] for name in DEFINITIONS if name in root}
        yield JsonValue(json.dumps({**definitions, **schema, "type": sorted(others)}), others)


def _of_choices(choices: list[object]) -> Iterator[Way]:
    yield from (Exactly(choice) for choice in choices if isinstance(choice, str))
    others = [choice for choice in choices if not isinstance(choice, str)]
    if others:
        yield JsonValue(json.dumps({"enum": others}), types_of({"enum": others}, {}))


def _without(schema: Schema, name: str) -> Mapping[str, object]:
    return {key: value for key, value in schema.items() if key != name}
