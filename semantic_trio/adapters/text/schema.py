"""JSON schemas made such that answers can be held to them.

Knows JSON Schema. What a grammar cannot express is left out, for a weaker demand is better than a
refused request; who asked is told in the log.
"""

import json
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from semantic_trio.domain.errors import InvalidRequestError

# No blanks: on weak models they never end. What is not understood is left out instead of refused.
OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": True,
}
# Keywords that stop a schema from being compiled although the rest of it could be, by family, those
# that mean least first.
PATTERNS = frozenset({"pattern", "patternProperties"})
NUMBERS = frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
REFERENCES = frozenset({"$ref", "$dynamicRef"})
# What goes everywhere where nothing is wrong with any one of them.
LADDER = (PATTERNS, NUMBERS, REFERENCES, PATTERNS | NUMBERS, PATTERNS | NUMBERS | REFERENCES)
# Keywords whose keys are names and whose values are schemas.
MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
# Keywords whose values are no schemas.
DATA = frozenset({"enum", "const", "default", "examples"})
# Where one of these stands anywhere, it is not looked into which properties are meant.
UNCLEAR = frozenset(
    {
        "allOf",
        "if",
        "dependentSchemas",
        "dependentRequired",
        "unevaluatedProperties",
        "propertyNames",
    }
)
# Where one of these stands beside properties, others than those that are named are meant too.
BESIDE = frozenset({"anyOf", "oneOf", "$ref", "$dynamicRef", "patternProperties"})
ANY_OBJECT = '{"type":"object"}'
TOO_LARGE = ("too large", "too big", "recursion limit")
UNSATISFIABLE = "Unsatisfiable schema"

Schema = dict[str, object]
# of a schema's text: what is wrong, and what is left out
Complaint = Callable[[str], tuple[str, list[str]]]


def expressible(schema: str, complaint: Complaint, field: str) -> tuple[str, list[str]]:
    """A schema that can be compiled and asks for as much of the given one as possible, as text; and
    what of that is missing in it.

    Raises `InvalidRequestError` for one that nothing satisfies, that is too large, and for what is
    no schema.
    """
    try:
        return _expressed(_read(schema, field), complaint, field)
    except RecursionError as error:
        raise InvalidRequestError(
            "the schema is too large: it is nested too deeply", field
        ) from error


def _expressed(given: Schema, complaint: Complaint, field: str) -> tuple[str, list[str]]:
    for candidate, missing in _candidates(given, complaint):
        closed, as_it_is = (_text(form) for form in (_closed(candidate), candidate))
        wanted = as_it_is if complaint(closed)[0] else closed
        wrong, ignored = complaint(wanted)
        if not wrong:
            return wanted, missing + ignored
        if any(sign in wrong for sign in TOO_LARGE):
            raise InvalidRequestError(f"the schema is too large: {wrong}", field)
        if UNSATISFIABLE in wrong and candidate is given:
            raise InvalidRequestError(f"nothing satisfies the schema: {wrong}", field)
    raise AssertionError("any JSON can be asked for")


def _text(schema: Schema) -> str:
    return json.dumps({**schema, "x-guidance": OPTIONS})


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


def _candidates(schema: Schema, complaint: Complaint) -> Iterator[tuple[Schema, list[str]]]:
    """The schema, and what is left of it, less and less; and what each is without."""
    yield schema, []
    missing: list[str] = []
    mended = _mended(schema, "", schema, complaint, missing)
    yield mended, missing
    reason = complaint(_text(mended))[0]
    for keywords in LADDER:
        yield (
            _without(mended, keywords),
            [*missing, f"{', '.join(sorted(keywords))} wherever they stand: {reason}"],
        )
    yield (
        {"type": schema["type"]} if isinstance(schema.get("type"), str) else {},
        [f"everything but the type: {reason}"],
    )
    yield {}, [f"everything: {reason}"]


def _mended(
    schema: Schema, where: str, root: Schema, complaint: Complaint, missing: list[str]
) -> Schema:
    """A schema without those keywords that cannot be compiled by themselves; `missing` is told
    where they stood, and why they are gone.
    """
    mended = _changed(
        schema, lambda one, place: _mended(one, f"{where}{place}.", root, complaint, missing)
    )
    for keyword in schema:
        if reason := _flaw(mended, keyword, root, complaint):
            missing.append(f"{where}{keyword}: {reason}")
            del mended[keyword]
    return mended


def _flaw(schema: Schema, keyword: str, root: Schema, complaint: Complaint) -> str:
    """Return what is wrong with a keyword by itself; empty where nothing is."""
    if keyword in REFERENCES:
        return "" if _resolves(schema[keyword], root) else "refers to nothing within the schema"
    if keyword not in PATTERNS | NUMBERS:
        return ""
    return complaint(
        _text({key: value for key, value in schema.items() if key in {keyword, "type"}})
    )[0]


def _resolves(reference: object, root: object) -> bool:
    """True if a value is a reference to an existing part of the same document."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return False
    found = root
    for name in unquote(reference[1:]).split("/")[1:]:
        match found:
            case dict():
                found = found.get(name.replace("~1", "/").replace("~0", "~"))
            case list():
                found = {str(place): one for place, one in enumerate(found)}.get(name)
    return isinstance(found, dict | bool)


def _without(schema: Schema, keywords: frozenset[str]) -> Schema:
    """A schema without some keywords, at any depth."""
    less = {key: value for key, value in schema.items() if key not in keywords}
    return _changed(less, lambda one, _: _without(one, keywords))


def _closed(schema: Schema) -> Schema:
    """A schema whose objects have no properties but those that are named, where that is what is
    meant: a weak model never ends to invent some.
    """
    return schema if _anywhere(schema, _is_unclear) else _close(schema)


def _is_unclear(schema: Schema) -> bool:
    """True if the properties of a schema are not known: schemas that it refers to may add some."""
    beside = {key: schema[key] for key in BESIDE & schema.keys()} if "properties" in schema else {}
    return bool(UNCLEAR & schema.keys()) or '"$ref":' in json.dumps(beside)


def _close(schema: Schema) -> Schema:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return _changed(schema, lambda one, _: _close(one))
    if BESIDE & schema.keys():
        return schema  # what stands in its branches is part of the same object
    inner = _changed(schema, lambda one, _: _close(one))
    return (
        inner
        if "additionalProperties" in schema or _wants_more(schema, properties)
        else {**inner, "additionalProperties": False}
    )


def _wants_more(schema: Schema, properties: dict[str, object]) -> bool:
    """True if an object has to have properties that are not named."""
    required, least = schema.get("required"), schema.get("minProperties")
    is_unnamed = isinstance(required, list) and any(name not in properties for name in required)
    return is_unnamed or (isinstance(least, int) and least > len(properties))


def _anywhere(schema: Schema, holds: Callable[[Schema], bool]) -> bool:
    """True if `holds` is true of a schema or of one within it."""
    if holds(schema):
        return True
    found: list[bool] = []

    def look(one: Schema, _: str) -> Schema:
        found.append(_anywhere(one, holds))
        return one

    _changed(schema, look)
    return any(found)


def _changed(schema: Schema, change: Callable[[Schema, str], Schema]) -> Schema:
    """A schema with a change made to each of those right within it, which is told where they
    stand.
    """

    def within(value: object, where: str) -> object:
        match value:
            case list():
                return [within(one, f"{where}.{place}") for place, one in enumerate(value)]
            case dict():
                return change(value, where)
        return value

    def of(key: str, value: object) -> object:
        if key in DATA:
            return value
        if key in MAPS and isinstance(value, dict):
            return {name: within(one, f"{key}.{name}") for name, one in value.items()}
        return within(value, key)

    return {key: of(key, value) for key, value in schema.items()}
