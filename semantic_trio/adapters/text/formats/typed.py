"""Values of arguments that a format writes without their types: read by the schema of their tool.

A value that may be a string stays one. Only a whole object or array, and `null`, are read as such
where the schema allows them beside strings.
"""

import ast
import json
import math
from collections.abc import Callable, Iterator, Mapping

from semantic_trio.domain.conversation import Tool

Schema = Mapping[str, object]
# References and unions in a schema are followed this deep.
MOST_LEVELS = 8
ALL_TYPES = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
COMBINED = ("anyOf", "oneOf", "allOf")


def properties(tool: Tool | None) -> tuple[Schema, dict[str, Schema]]:
    """The schema of a tool's arguments, and the schema of each; empty where the schema has none."""
    try:
        schema = json.loads(tool.parameters) if tool else {}
    except (ValueError, RecursionError):
        schema = {}
    schema = schema if isinstance(schema, dict) else {}
    found = schema.get("properties")
    schemas = found if isinstance(found, dict) else {}
    return schema, {
        name: value if isinstance(value, dict) else {} for name, value in schemas.items()
    }


def value(raw: str, schema: Schema, root: Schema) -> object:
    """Return the value of a text; the text itself where the schema allows no other value."""
    types, choices = types_of(schema, root), _choices(schema)
    if types == {"string"} or raw in choices:
        return raw
    if raw in {"null", "None"} and "null" in types and types != ALL_TYPES:
        return None
    found = _literal(raw.strip())
    if isinstance(found, dict | list) and types & {
        "object" if isinstance(found, dict) else "array"
    }:
        return found
    if "string" in types and not (choices and _is_among(found, choices)):
        return raw
    read = _fitting(found, types)
    return raw if read is _NOTHING else read


def types_of(schema: object, root: Schema, level: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows; all of them where it does not say."""
    if not isinstance(schema, dict) or level > MOST_LEVELS:
        return ALL_TYPES
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return types_of(resolved(reference, root), root, level + 1)
    types = schema.get("type")
    if isinstance(types, str | list):
        return (
            frozenset(
                one
                for one in ([types] if isinstance(types, str) else types)
                if isinstance(one, str)
            )
            & ALL_TYPES
            or ALL_TYPES
        )
    choices = _choices(schema)
    if choices:
        return frozenset(_type(choice) for choice in choices)
    return _of_parts(schema, root, level)


def _of_parts(schema: Schema, root: Schema, level: int) -> frozenset[str]:
    """The types of a union, or those that all parts of a conjunction allow."""
    found = ALL_TYPES
    for name in COMBINED:
        parts = schema.get(name)
        if isinstance(parts, list) and parts:
            types = [types_of(part, root, level + 1) for part in parts]
            found &= frozenset.intersection(*types) if name == "allOf" else frozenset.union(*types)
    if found == ALL_TYPES and isinstance(schema.get("properties"), dict):
        return frozenset({"object"})
    return found


def resolved(reference: str, root: Schema) -> object:
    """The part of a schema that a reference leads to; None where it leads to nothing."""
    found: object = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = (
            found.get(step.replace("~1", "/").replace("~0", "~"))
            if isinstance(found, dict)
            else None
        )
    return found


def _choices(schema: Schema) -> list[object]:
    choices = schema.get("enum")
    if isinstance(choices, list):
        return choices
    return [schema["const"]] if "const" in schema else []


def _is_among(found: object, choices: list[object]) -> bool:
    return any(type(found) is type(choice) and found == choice for choice in choices)


def _type(found: object) -> str:
    kinds = {
        str: "string",
        bool: "boolean",
        int: "integer",
        float: "number",
        dict: "object",
        list: "array",
    }
    return kinds.get(type(found), "null")


_NOTHING = object()


def _literal(raw: str) -> object:
    """A text as JSON or as a Python literal, in which some templates write arguments."""
    readers: tuple[Callable[[str], object], ...] = (
        lambda text: json.loads(text, parse_constant=_refused),
        ast.literal_eval,
    )
    for read in readers:
        try:
            # tuples become arrays, keys become strings
            found = json.loads(json.dumps(read(raw), allow_nan=False))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        return found
    return {"true": True, "false": False, "null": None}.get(raw.lower(), _NOTHING)


def _refused(name: str) -> object:
    raise ValueError(f"JSON has no {name}")


def _fitting(found: object, types: frozenset[str]) -> object:
    """A literal as one of the types, `_NOTHING` where it is none of them."""
    return next(_fits(found, types), _NOTHING)


def _fits(found: object, types: frozenset[str]) -> Iterator[object]:
    kind = "nothing" if found is _NOTHING else _type(found)
    if kind in types or (kind == "integer" and "number" in types):
        yield found
    if (
        isinstance(found, float)
        and "integer" in types
        and math.isfinite(found)
        and found == int(found)
    ):
        yield int(found)
