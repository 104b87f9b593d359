"""JSON schemas made such that answers can be held to them.

Knows JSON Schema. What a grammar cannot express is left out, for a weaker demand is better than a refused request; who asked is told in the log.
"""

import json
from collections.abc import Callable, Iterator

from semantic_trio.domain.errors import InvalidRequestError

# No blanks: on weak models they never end. What is not understood is left out instead of refused.
OPTIONS = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":", "lenient": True}
# Keywords that stop a schema from being compiled although the rest of it could be, those that mean least first.
LADDER = (
    frozenset({"pattern", "patternProperties"}),
    frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    frozenset({"$ref", "$dynamicRef"}),
)
# Keywords whose keys are names and whose values are schemas.
MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
# Keywords whose values are no schemas.
DATA = frozenset({"enum", "const", "default", "examples"})
# Where one of these stands anywhere, it is not looked into which properties are meant.
UNCLEAR = frozenset({"allOf", "if", "not", "dependentSchemas", "dependentRequired", "unevaluatedProperties", "propertyNames"})
# Where one of these stands beside properties, others than those that are named are meant too.
BESIDE = frozenset({"anyOf", "oneOf", "$ref", "$dynamicRef", "patternProperties"})
ANY_OBJECT = '{"type":"object"}'
TOO_LARGE = ("too large", "too big", "recursion limit")
UNSATISFIABLE = "Unsatisfiable schema"

Schema = dict[str, object]
Complaint = Callable[[str], tuple[str, list[str]]]  # of a schema's text: what is wrong, and what is left out


def expressible(schema: str, complaint: Complaint, field: str) -> tuple[str, list[str]]:
    """A schema that can be compiled and asks for as much of the given one as possible, as text; and what of that is missing in it.

    Raises `InvalidRequestError` for one that nothing satisfies, that is too large, and for what is no schema.
    """
    try:
        return _expressed(_read(schema, field), complaint, field)
    except RecursionError as error:
        raise InvalidRequestError("the schema is too large: it is nested too deeply", field) from error


def _expressed(given: Schema, complaint: Complaint, field: str) -> tuple[str, list[str]]:
    missing: list[str] = []
    for candidate in _candidates(given):
        closed, as_it_is = (json.dumps({**form, "x-guidance": OPTIONS}) for form in (_closed(candidate), candidate))
        wanted = as_it_is if complaint(closed)[0] else closed
        wrong, left_out = complaint(wanted)
        if not wrong:
            return wanted, missing + left_out
        if any(sign in wrong for sign in TOO_LARGE):
            raise InvalidRequestError(f"the schema is too large: {wrong}", field)
        if UNSATISFIABLE in wrong and candidate is given:
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
    less = {key: value for key, value in schema.items() if key not in keywords}
    return _changed(less, lambda one: _without(one, keywords))


def _closed(schema: Schema) -> Schema:
    """A schema whose objects have no properties but those that are named, where that is what is meant: a weak model never ends to invent some."""
    return schema if _mentions(schema, UNCLEAR) else _close(schema)


def _close(schema: Schema) -> Schema:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return _changed(schema, _close)
    if BESIDE & schema.keys():
        return schema  # what stands in its branches is part of the same object
    inner = _changed(schema, _close)
    return inner if "additionalProperties" in schema or _wants_more(schema, properties) else {**inner, "additionalProperties": False}


def _wants_more(schema: Schema, properties: dict[str, object]) -> bool:
    """Whether an object has to have properties that are not named."""
    required, least = schema.get("required"), schema.get("minProperties")
    is_unnamed = isinstance(required, list) and any(name not in properties for name in required)
    return is_unnamed or (isinstance(least, int) and least > len(properties))


def _mentions(schema: Schema, keywords: frozenset[str]) -> bool:
    """Whether one of the keywords stands anywhere in a schema."""
    if keywords & schema.keys():
        return True
    found: list[bool] = []

    def look(one: Schema) -> Schema:
        found.append(_mentions(one, keywords))
        return one

    _changed(schema, look)
    return any(found)


def _changed(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """A schema with a change made to each of those right within it."""

    def within(value: object) -> object:
        match value:
            case list():
                return [within(one) for one in value]
            case dict():
                return change(value)
        return value

    def of(key: str, value: object) -> object:
        if key in DATA:
            return value
        return {name: within(one) for name, one in value.items()} if key in MAPS and isinstance(value, dict) else within(value)

    return {key: of(key, value) for key, value in schema.items()}
