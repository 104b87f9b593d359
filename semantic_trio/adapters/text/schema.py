"""JSON schemas made such that answers can be held to them.

Knows JSON Schema. What a grammar cannot express is left out, for a weaker demand is better than a refused request; who asked is told in the log.
"""

import json
from collections.abc import Callable, Iterator

from semantic_trio.domain.errors import InvalidRequestError

# No blanks: on weak models they never end. What is not understood is left out instead of refused.
OPTIONS = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":", "lenient": True}
# Keywords that stop a schema from being compiled although the rest of it could be, those that mean least first.
LADDER = (frozenset({"pattern", "patternProperties"}), frozenset({"$ref", "$dynamicRef"}))
# Keywords whose keys are names and whose values are schemas.
MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
# Keywords whose values are no schemas.
DATA = frozenset({"enum", "const", "default", "examples"})
# Where these stand, properties that are not named beside them may be meant.
OPEN = frozenset({"allOf", "$ref", "$dynamicRef", "if", "not", "dependentSchemas", "patternProperties", "unevaluatedProperties"})
ANY_OBJECT = '{"type":"object"}'
UNSATISFIABLE = "Unsatisfiable schema"

Schema = dict[str, object]
Complaint = Callable[[str], tuple[str, list[str]]]  # of a schema's text: what is wrong, and what is left out


def expressible(schema: str, complaint: Complaint, field: str) -> tuple[str, list[str]]:
    """A schema that can be compiled and asks for as much of the given one as possible, as text; and what of that is missing in it.

    Raises `InvalidRequestError` for one that nothing satisfies, and for what is no schema.
    """
    missing: list[str] = []
    for candidate in _candidates(_read(schema, field)):
        text = json.dumps({**_closed(candidate), "x-guidance": OPTIONS})
        wrong, left_out = complaint(text)
        if not wrong:
            return text, missing + left_out
        if UNSATISFIABLE in wrong:
            raise InvalidRequestError(f"nothing satisfies the schema: {wrong}", field)
        missing.append(wrong)
    raise AssertionError("any JSON can be asked for")


def _read(schema: str, field: str) -> Schema:
    try:
        found = json.loads(schema)
    except ValueError as error:
        raise InvalidRequestError(f"the schema is no JSON: {error}", field) from error
    if found is True:
        return {}
    if not isinstance(found, dict):
        raise InvalidRequestError("a schema is an object", field)
    return found


def _candidates(schema: Schema) -> Iterator[Schema]:
    """The schema, and what is left of it, less and less."""
    yield schema
    without = frozenset[str]()
    for keywords in LADDER:
        without |= keywords
        yield _without(schema, without)
    yield {"type": schema["type"]} if isinstance(schema.get("type"), str) else {}
    yield {}


def _without(schema: Schema, keywords: frozenset[str]) -> Schema:
    """A schema without some keywords, at any depth."""
    return _changed(schema, lambda one: {key: value for key, value in one.items() if key not in keywords})


def _closed(schema: Schema) -> Schema:
    """A schema whose objects have no properties but those that are named, where it does not say itself: a weak model never ends to invent some."""
    return schema if '"allOf"' in json.dumps(schema) else _changed(schema, _without_others)


def _without_others(schema: Schema) -> Schema:
    is_open = "additionalProperties" in schema or OPEN & schema.keys() or not isinstance(schema.get("properties"), dict)
    return schema if is_open else {**schema, "additionalProperties": False}


def _changed(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """A schema with a change made to it and to every one within it, from the inside out."""

    def within(value: object) -> object:
        match value:
            case list():
                return [within(one) for one in value]
            case dict():
                return _changed(value, change)
        return value

    def of(key: str, value: object) -> object:
        if key in DATA:
            return value
        return {name: within(one) for name, one in value.items()} if key in MAPS and isinstance(value, dict) else within(value)

    return change({key: of(key, value) for key, value in schema.items()})
