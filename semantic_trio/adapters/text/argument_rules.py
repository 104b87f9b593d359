"""Grammar of arguments that a format writes one by one: texts as they are up to the end delimiter,
all other values as JSON.

Names come in the order of the tool's schema: those that it requires, and as many of the others as
the model likes. A text never holds the delimiter that ends it, nor the beginning of another
argument, so that the call is read back in one way.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

import attrs
import structlog

from semantic_trio.adapters.text.argument_shape import ArgumentShape
from semantic_trio.adapters.text.formats.typed import Schema, properties
from semantic_trio.adapters.text.lark import Lark, exactly
from semantic_trio.adapters.text.values import DEFINITIONS, Exactly, JsonValue, RawText, Way, ways
from semantic_trio.domain.conversation import Tool
from semantic_trio.domain.errors import InvalidRequestError

log = structlog.get_logger(__name__)

# A name that no schema has.
ANY_NAME = "/[A-Za-z_][A-Za-z0-9_]{0,63}/"
# Texts that are read as JSON where the schema allows an array or an object beside a text.
NO_JSON = " & ~/\\s*[\\[{](.|\\n)*/"
# Choices of one schema.
MOST_TEXTS = 5_000
JSON_TYPES = frozenset({"array", "object"})
ANYTHING = "{}"
NOTHING = '""'
ANY = "(.|\\n)*"


@attrs.frozen(eq=False)
class ArgumentRules:
    """Writes rules for the arguments of tools in one format."""

    _lark: Lark
    _shape: ArgumentShape

    def held(self, tool: Tool) -> str:
        """The arguments as the tool's schema has them.

        Raises `InvalidRequestError` where nothing satisfies the schema of one that it requires.
        """
        root, schemas = argument_schemas(tool)
        required = required_names(root)
        rules: list[tuple[str, bool]] = []
        for name, schema in schemas.items():
            try:
                rules.append((self._named(exactly(name), schema, root), name in required))
            except InvalidRequestError:
                if name in required:
                    raise
        return self._sequence(rules) if schemas else self._unnamed(root)

    def free(self) -> str:
        """Return the rule for any arguments."""
        one = self._named(ANY_NAME, {}, {})
        return f"({one} ({self._lark.literal(self._shape.between)} {one})*)?"

    def _unnamed(self, root: Schema) -> str:
        """One argument or none, where the schema names none and does not forbid others: two of one
        name would be no call.
        """
        more = root.get("additionalProperties")
        return (
            NOTHING
            if more is False or "properties" in root
            else f"({self._named(ANY_NAME, more, root)})?"
        )

    def _sequence(self, rules: Sequence[tuple[str, bool]]) -> str:
        """Arguments in their order, each with True if it is required."""
        between = self._lark.literal(self._shape.between)
        first = after = NOTHING  # what may come where nothing, or something, has come before
        for rule, is_required in reversed(rules):
            behind = self._lark.rule(after)
            came, came_later = f"{rule} {behind}", f"{between} {rule} {behind}"
            first, after = (
                (came, came_later)
                if is_required
                else (f"({came} | {first})", f"({came_later} | {behind})")
            )
        return first

    def _named(self, name: str, schema: object, root: Schema) -> str:
        return self._lark.rule(
            f"{self._lark.literal(self._shape.before)} {name} {self._value(schema, root)}"
        )

    def _value(self, schema: object, root: Schema) -> str:
        """A value with the delimiters around it, but for its name."""
        shape = self._shape
        if shape.is_quoted:
            return self._json(shape.other[0], JsonValue(_whole(schema, root), frozenset()))
        return self._one_of(list(ways(schema, root)), shape.text[0], shape.other[0])

    def _one_of(self, found: Sequence[Way], text_start: str, other_start: str) -> str:
        """A value written in one of some ways."""
        shape = self._shape
        values, texts = (
            [way for way in found if isinstance(way, JsonValue)],
            [way for way in found if not isinstance(way, JsonValue)],
        )
        if any(isinstance(way, RawText) for way in texts) and not shape.is_typed:
            # all others are read as texts
            values = [way for way in values if way.types & JSON_TYPES]
        alternatives = [one for way in values for one in self._satisfiable(other_start, way)]
        if texts:
            terminal = self._text(texts, is_beside_json=bool(values) and not shape.is_typed)
            alternatives.append(
                f"{self._lark.literal(text_start)} {self._lark.ended(terminal, shape.text[1])}"
            )
        if not alternatives:
            raise InvalidRequestError("nothing satisfies the schema of an argument", "tools")
        return f"({' | '.join(alternatives)})"

    def _satisfiable(self, start: str, way: JsonValue) -> Iterator[str]:
        """The JSON of one way, nothing where no JSON satisfies its schema."""
        with contextlib.suppress(InvalidRequestError):
            yield self._json(start, way)

    def _json(self, start: str, way: JsonValue) -> str:
        value = self._nested(way) if self._shape.nests else self._lark.json(way.schema, "tools")
        return f"{self._lark.literal(start)} {value} {self._lark.literal(self._shape.other[1])}"

    # ------------------------------------------------------------ formats with objects of their own

    def _nested(self, way: JsonValue) -> str:
        """A value of a schema in a format that writes arrays and objects in its own way."""
        schema: Schema = json.loads(way.schema)
        alternatives = []
        if plain := way.types - JSON_TYPES:
            alternatives.append(
                self._lark.json(json.dumps({**schema, "type": sorted(plain)}), "tools")
            )
        if "array" in way.types:
            alternatives.append(self._array(schema))
        if "object" in way.types:
            fields = (
                self.held(Tool("", parameters=way.schema))
                if "properties" in schema
                else self.free()
            )
            alternatives.append(f'"{{" {fields} "}}"')
        return f"({' | '.join(alternatives)})"

    def _array(self, schema: Schema) -> str:
        shape = self._shape
        item = self._lark.rule(
            self._one_of(
                list(ways(schema.get("items"), schema)),
                shape.text[0].removeprefix(shape.other[0]),
                "",
            )
        )
        least, most = schema.get("minItems"), schema.get("maxItems")
        least, most = (
            least if isinstance(least, int) else 0,
            most if isinstance(most, int) else None,
        )
        if most == 0:
            return '"[]"'
        more = f'("," {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
        return f'"[" {item} {more} "]"' if least else f'"[" ({item} {more})? "]"'

    # ---------------------------------------------------------------------------------------- texts

    def _text(self, texts: Sequence[RawText | Exactly], *, is_beside_json: bool) -> str:
        """A terminal for one of some texts."""
        said = [
            way
            for way in texts
            if isinstance(way, RawText) or not any(text in way.text for text in self._shape.barred)
        ] or texts
        if len(said) > MOST_TEXTS:
            raise InvalidRequestError(
                (
                    f"the schema is too large: it has {len(said)} choices, at most {MOST_TEXTS} "
                    "are understood"
                ),
                "tools",
            )
        patterns = dict.fromkeys(
            f"/{self._pattern(way)}/" if isinstance(way, RawText) else exactly(way.text)
            for way in said
        )
        barred = (
            f" & {self._lark.without(self._shape.barred)}"
            if any(isinstance(way, RawText) for way in said)
            else ""
        )
        return self._lark.terminal(
            f"({' | '.join(patterns)}){barred}{NO_JSON if is_beside_json else ''}"
        )

    def _pattern(self, way: RawText) -> str:
        """The texts of a schema as a regular expression."""
        if way.pattern:
            pattern = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\/", way.pattern)
            front, back = (
                ("" if pattern.startswith("^") else ANY),
                ("" if pattern.endswith("$") else ANY),
            )
            pattern = f"{front}({pattern.removeprefix('^').removesuffix('$')}){back}"
            if self._lark.is_pattern(pattern):
                return pattern
            log.warning(
                "schema is not expressed in full",
                missing=[f"pattern: {way.pattern}"],
                field="tools",
            )
        return (
            f"(.|\\n){{{way.shortest},{'' if way.longest is None else way.longest}}}"
            if way.shortest or way.longest is not None
            else ANY
        )


def argument_schemas(tool: Tool) -> tuple[Schema, Mapping[str, object]]:
    """The schema of a tool's arguments, and that of each argument, those included that are required
    and not described.
    """
    root, _ = properties(tool)
    described = root.get("properties")
    schemas: dict[str, object] = described if isinstance(described, dict) else {}
    return root, {**schemas, **{name: {} for name in required_names(root) if name not in schemas}}


def required_names(root: Schema) -> list[str]:
    """The names of the arguments that a schema requires."""
    required = root.get("required")
    return (
        [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    )


def _whole(schema: object, root: Schema) -> str:
    """A part of a schema with what its references lead to."""
    if not isinstance(schema, dict):
        return ANYTHING
    return json.dumps({**{name: root[name] for name in DEFINITIONS if name in root}, **schema})
