"""Stop strings: the end of a decoded text, however the tokens cut it.

Knows text. Knows nothing of tokens: token ids that end a turn are the scheduler's own comparison.
"""

import enum
from typing import Protocol

import attrs


class TextDecoder(Protocol):
    """Turns the tokens of one generation into text, never splitting a character."""

    def push(self, token: int) -> str:
        """The text this token completes; empty while a character is incomplete."""

    def flush(self) -> str:
        """Return the text left at the end; an incomplete character becomes U+FFFD."""


@attrs.frozen
class Thoughts:
    """The delimiters of the thoughts of an answer, in which stop strings have no effect."""

    start: str
    end: str
    is_open: bool = False  # the answer begins within one


class _Place(enum.Enum):
    TEXT = enum.auto()
    THOUGHT = enum.auto()
    GAP = enum.auto()  # blanks behind a thought: no text


@attrs.define
class StopStrings:
    """Finds the first of several stop strings in text that arrives in pieces.

    Text that might be the beginning of a stop string, or of a delimiter, is held back until it
    cannot be one any more.
    """

    stops: tuple[str, ...]
    thoughts: Thoughts | None = None
    found: str | None = attrs.field(init=False, default=None)
    _held: str = attrs.field(init=False, default="")
    _place: _Place = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._place = (
            _Place.THOUGHT if self.thoughts is not None and self.thoughts.is_open else _Place.TEXT
        )

    def push(self, piece: str) -> str:
        """The text that is safe to show now. Once `found` is set nothing more is."""
        if self.found is not None or not self.stops:
            return "" if self.found is not None else piece
        self._held += piece
        shown, before = "", None
        while before is not self._place and self.found is None:
            before = self._place
            shown += self._step()
        return shown

    def flush(self) -> str:
        """The text held back, when no more can come."""
        held, self._held = self._held, ""
        return held

    def _step(self) -> str:
        """Return the text that is certain before the place changes."""
        match self._place:
            case _Place.THOUGHT:
                return self._thought()
            case _Place.GAP:
                return self._gap()
            case _Place.TEXT:
                return self._text()

    def _thought(self) -> str:
        assert self.thoughts is not None
        at = self._held.find(self.thoughts.end)
        if at < 0:
            return self._take(len(self._held) - begun(self._held, self.thoughts.end))
        self._place = _Place.GAP
        return self._take(at + len(self.thoughts.end))

    def _gap(self) -> str:
        blanks = len(self._held) - len(self._held.lstrip())
        if blanks < len(self._held):
            self._place = _Place.TEXT
        return self._take(blanks)

    def _text(self) -> str:
        delimiters = (*self.stops, self.thoughts.start) if self.thoughts else self.stops
        hits = [
            (at, -len(delimiter), delimiter)
            for delimiter in delimiters
            if (at := self._held.find(delimiter)) >= 0
        ]
        if not hits:
            return self._take(
                len(self._held) - max(begun(self._held, delimiter) for delimiter in delimiters)
            )
        at, _, delimiter = min(hits)
        if delimiter in self.stops:
            self.found = delimiter
            shown, self._held = self._held[:at], ""
            return shown
        self._place = _Place.THOUGHT
        return self._take(at + len(delimiter))

    def _take(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown


def begun(text: str, delimiter: str) -> int:
    """Return the length of the longest proper beginning of a delimiter that the text ends with."""
    return next(
        (
            size
            for size in range(min(len(delimiter) - 1, len(text)), 0, -1)
            if delimiter.startswith(text[-size:])
        ),
        0,
    )
