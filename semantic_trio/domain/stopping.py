"""Where a text ends: stop strings on decoded text, however the tokens cut it.

Knows text. Knows nothing of tokens: token ids that end a turn are the scheduler's own comparison.
"""

from typing import Protocol

import attrs


class TextDecoder(Protocol):
    """Turns the tokens of one generation into text, never splitting a character."""

    def push(self, token: int) -> str:
        """The text this token completes; empty while a character is incomplete."""

    def flush(self) -> str:
        """What is left at the end; an incomplete character becomes U+FFFD."""


@attrs.define
class StopStrings:
    """Finds the first of several stop strings in text that arrives in pieces.

    Text that might be the beginning of a stop string is held back until it cannot be one any more.
    """

    stops: tuple[str, ...]
    found: str | None = attrs.field(init=False, default=None)
    _held: str = attrs.field(init=False, default="")

    def push(self, piece: str) -> str:
        """The text that is safe to show now. Once `found` is set nothing more is."""
        if self.found is not None or not self.stops:
            return "" if self.found is not None else piece
        text = self._held + piece
        hits = [(at, stop) for stop in self.stops if (at := text.find(stop)) >= 0]
        if hits:
            at, self.found = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
            self._held = ""
            return text[:at]
        keep = self._longest_possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text held back, when no more can come."""
        held, self._held = self._held, ""
        return held

    def _longest_possible_start(self, text: str) -> int:
        longest = max(len(stop) for stop in self.stops) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self.stops):
                return size
        return 0
