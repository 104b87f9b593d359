"""Calls as Gemma writes them: names without quotes, strings between quotes that are tokens of their
own.
"""

import json
import re
from collections.abc import Sequence

import attrs

from semantic_trio.adapters.text.formats.unfinished import UnfinishedError
from semantic_trio.adapters.text.syntax import Begun, CallsRead, Ending
from semantic_trio.domain.conversation import Tool

HEAD = re.compile(r"\s*call:\s*([^\s{]+)\s*\{")
LITERAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null|True|False|None")
NAME = re.compile(r"[^\s:,{}\[\]<>\"]+")
WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


@attrs.frozen
class GemmaCalls:
    """`call:name{key:value}`, one or several, between `start` and `end`."""

    format: str
    start: str
    end: str
    quote: str

    @property
    def openings(self) -> tuple[str, ...]:
        """See `ToolSyntax.openings`."""
        return (self.start,)

    @property
    def fronts(self) -> tuple[str, ...]:
        """See `ToolSyntax.fronts`."""
        return ()

    @property
    def delimiters(self) -> tuple[str, ...]:
        """See `ToolSyntax.delimiters`."""
        return (self.quote,)

    def begun(self, text: str, tools: Sequence[Tool], behind: int = 0) -> Begun | None:
        """See `ToolSyntax.begun`. The end of a string is certain only with what follows it."""
        return None

    def read(self, text: str, tools: Sequence[Tool], ending: Ending) -> CallsRead | None:
        """See `ToolSyntax.read`.

        Text that no call begins with is skipped. While the answer is open, calls count only when
        their end delimiter has come. Values that cannot be read are skipped up to it.
        """
        rest = text[len(self.start) :].lstrip()
        if not (rest.startswith("call:") or "call:".startswith(rest)):
            return CallsRead((), len(self.start))
        if ending is Ending.OPEN and self.end not in text:
            return None
        values = _Values(text, self.quote, self.end)
        try:
            calls, used = values.calls(len(self.start))
        except UnfinishedError:
            return None if ending is Ending.OPEN else CallsRead((), len(text))
        except (ValueError, RecursionError):
            end = text.find(self.end)
            return CallsRead((), len(text) if end < 0 else end + len(self.end))
        behind = text[used:].lstrip()
        if behind.startswith(self.end):
            return CallsRead(calls, len(text) - len(behind) + len(self.end))
        if self.end.startswith(behind):
            return None if ending is Ending.OPEN else CallsRead(calls, len(text))
        end = text.find(self.end, used)
        return (
            None
            if end < 0 and ending is Ending.OPEN
            else CallsRead((), len(text) if end < 0 else end + len(self.end))
        )


@attrs.frozen
class _Values:
    """Values read from one text.

    All raise `UnfinishedError` where it ends within one, `ValueError` where there is none.
    """

    _text: str
    _quote: str
    _end: str

    def calls(self, at: int) -> tuple[tuple[tuple[str, str], ...], int]:
        """Calls in a row, and where the last ends."""
        calls: list[tuple[str, str]] = []
        while (head := HEAD.match(self._text, at)) is not None:
            given, at = self._object(head.end())
            calls.append((head[1], json.dumps(given, ensure_ascii=False, allow_nan=False)))
        if not calls:
            raise (
                UnfinishedError("no arguments yet")
                if "{" not in self._text[at:]
                else ValueError("no call")
            )
        return tuple(calls), at

    def _value(self, at: int) -> tuple[object, int]:
        at = self._blanks(at)
        if self._text.startswith(self._quote, at):
            return self._string(at + len(self._quote))
        if self._text.startswith("{", at):
            return self._object(at + 1)
        if self._text.startswith("[", at):
            return self._array(at + 1)
        literal = LITERAL.match(self._text, at)
        if literal is None:
            raise self._fault(at)
        word = literal[0]
        return WORDS[word] if word in WORDS else json.loads(word), literal.end()

    def _string(self, at: int) -> tuple[str, int]:
        """A string up to the first quote that something may follow that is no string: nothing is
        escaped in one.
        """
        quote = re.escape(self._quote)
        item = rf",\s*(?:{quote}|[\[{{]|[-0-9]|true|false|null|[^\s:,{{}}\[\]<>\"]+:)"
        closing = rf"\}}\s*(?:[,\]}}]|call:|{re.escape(self._end)}|\Z)"
        follows = rf"\s*(?:{item}|\]|{closing})"
        found = re.compile(rf"{quote}(?={follows})").search(self._text, at)
        if found is None:
            raise UnfinishedError("a string has no end")
        return self._text[at : found.start()], found.end()

    def _object(self, at: int) -> tuple[dict[str, object], int]:
        given: dict[str, object] = {}
        at = self._blanks(at)
        while not self._text.startswith("}", at):
            key, at = self._key(at)
            if key in given:
                raise ValueError("two values for one name")
            given[key], at = self._value(at)
            at = self._next(at, "}")
        return given, at + 1

    def _array(self, at: int) -> tuple[list[object], int]:
        found: list[object] = []
        at = self._blanks(at)
        while not self._text.startswith("]", at):
            value, at = self._value(at)
            found.append(value)
            at = self._next(at, "]")
        return found, at + 1

    def _key(self, at: int) -> tuple[str, int]:
        if self._text.startswith(self._quote, at):
            end = self._text.find(self._quote, at + len(self._quote))
            key, at = self._text[at + len(self._quote) : max(end, 0)], end + len(self._quote)
            if end < 0:
                raise UnfinishedError("a name has no end")
        else:
            name = NAME.match(self._text, at)
            if name is None:
                raise self._fault(at)
            key, at = name[0].strip('"'), name.end()
        at = self._blanks(at)
        if not self._text.startswith(":", at):
            raise self._fault(at)
        return key, at + 1

    def _next(self, at: int, close: str) -> int:
        """The place of what follows a value: behind a comma, or at the bracket that closes."""
        at = self._blanks(at)
        if self._text.startswith(",", at):
            return self._blanks(at + 1)
        if not self._text.startswith(close, at):
            raise self._fault(at)
        return at

    def _fault(self, at: int) -> ValueError:
        rest = self._text[at:]
        is_begun = any(word.startswith(rest) for word in (self._quote, *WORDS)) or not rest
        return UnfinishedError("more is to come") if is_begun else ValueError("no value")

    def _blanks(self, at: int) -> int:
        while at < len(self._text) and self._text[at].isspace():
            at += 1
        return at
