"""Builder of grammars in llguidance's dialect of Lark: rules, terminals, and texts of a model's
format.

Knows the texts that are special tokens of the model. Knows nothing of conversations.
"""

import json
import re
from collections.abc import Collection, Iterator

import attrs
import structlog

from semantic_trio.adapters.text.guidance import Guidance
from semantic_trio.adapters.text.schema import expressible

log = structlog.get_logger(__name__)

ANY_TEXT = "/(.|\\n)*/"
DIGITS = re.compile("([0-9]+)")
# Digits of the longest number that counts calls; longer numbers are identifiers with a fixed number
# of digits.
LONGEST_COUNT = 3


@attrs.define(eq=False)
class Lark:
    """Builder of one grammar."""

    _guidance: Guidance
    _rules: dict[str, str] = attrs.field(init=False, factory=dict)
    _terminals: dict[str, str] = attrs.field(init=False, factory=dict)

    def grammar(self, start: str) -> str:
        """Return the whole grammar as text; `start`: the body of its first rule."""
        rules = "".join(f"{name}: {body}\n" for name, body in self._rules.items())
        terminals = "".join(
            f"{name}: {body}\n"
            for name, body in sorted(
                {"TEXT": ANY_TEXT, "GAP": "/\\s{0,4}/", **self._terminals}.items()
            )
        )
        return f"%llguidance {{}}\nstart: {start}\n{rules}{terminals}"

    def rule(self, body: str) -> str:
        """Return the name of a rule with this body, which is added if there is none."""
        name = next(
            (name for name, other in self._rules.items() if other == body),
            f"rule_{len(self._rules)}",
        )
        self._rules[name] = body
        return name

    def terminal(self, body: str) -> str:
        """Return the name of a terminal with this body, which is added if there is none."""
        name = next(
            (name for name, other in self._terminals.items() if other == body),
            f"TEXT_{len(self._terminals)}",
        )
        self._terminals[name] = body
        return name

    def json(self, schema: str, field: str) -> str:
        """Return a rule for the JSON of a schema.

        Logs the parts of the schema that no grammar can express.
        """
        text, missing = expressible(
            schema,
            lambda candidate: self._guidance.complaint(
                f"%llguidance {{}}\nstart: %json {candidate}\n"
            ),
            field,
        )
        if missing:
            log.warning("schema is not expressed in full", missing=missing, field=field)
        return self.rule(f"%json {text}")

    def literal(self, text: str, *, has_numbers: bool = False) -> str:
        """Return a body for exactly this text, with its special tokens.

        `has_numbers`: any numbers may stand in place of its own, long ones of as many digits.
        """
        return " ".join(self._tokens_of(text, has_numbers=has_numbers))

    def up_to(self, delimiter: str) -> str:
        """Return a body for any text and then a delimiter."""
        if delimiter in self._guidance.specials:
            return f"TEXT {self.literal(delimiter)}"
        name = f"lazy_{len(self._rules)}"
        self._rules[f"{name}[lazy]"] = f"TEXT {exactly(delimiter)}"
        return name

    def without(self, barred: Collection[str]) -> str:
        """Return a terminal for any text that holds none of the barred texts."""
        return (
            self.terminal(f"TEXT & ~(TEXT ({' | '.join(map(exactly, barred))}) TEXT)")
            if barred
            else "TEXT"
        )

    def ended(self, terminal: str, end: str) -> str:
        """Return a body for a text and the delimiter behind it, which the text does not hold."""
        first, *others = self._pieces(end)
        if first in self._guidance.specials:
            return f"{terminal} {self.literal(end)}"
        # One lexeme: a lexer reads as much as it can of a text, the beginning of its end included,
        # and does not go back.
        return " ".join(
            [self.terminal(f"{terminal} {exactly(first)}"), self.literal("".join(others))]
        )

    def is_pattern(self, pattern: str) -> bool:
        """True if a grammar can express a regular expression."""
        return not self._guidance.complaint(f"%llguidance {{}}\nstart: TEXT\nTEXT: /{pattern}/\n")[
            0
        ]

    def _tokens_of(self, text: str, *, has_numbers: bool) -> Iterator[str]:
        for piece in self._pieces(text):
            if piece in self._guidance.specials:
                yield f"<[{self._guidance.specials[piece]}]>"
            elif has_numbers:
                yield from (
                    _number(one) if one.isdigit() else exactly(one)
                    for one in DIGITS.split(piece)
                    if one
                )
            else:
                yield exactly(piece)

    def _pieces(self, text: str) -> list[str]:
        """Return a text cut at special tokens."""
        found = [special for special in self._guidance.specials if special and special in text]
        delimiters = "|".join(
            re.escape(special) for special in sorted(found, key=len, reverse=True)
        )
        return [
            piece
            for piece in (re.split(f"({delimiters})", text) if delimiters else [text])
            if piece
        ]


def exactly(text: str) -> str:
    """Return a literal for exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def _number(digits: str) -> str:
    return (
        f"/[0-9]{{{len(digits)}}}/"
        if len(digits) > LONGEST_COUNT
        else f"/[0-9]{{1,{LONGEST_COUNT}}}/"
    )
