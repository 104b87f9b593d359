"""A call that is told while the model writes it.

Knows what was told of a call, and what becomes of it when the call has ended. Knows nothing of formats.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs

from semantic_trio.domain.arguments import ArgumentsWriter
from semantic_trio.domain.conversation import AnswerPart, CallPiece, CutCall, ToolCall


class Writer(Protocol):
    """The arguments of a call, read as the model writes them and written as JSON."""

    def push(self, text: str) -> str:
        """Read more of the text. Returns what it adds to the arguments; nothing before the first key is known."""


@attrs.define(eq=False)
class OpenCall:
    """A call whose name is known and whose arguments are being written. It is announced when the first key of its arguments is known."""

    name: str
    _read: int  # characters of the call's text that are read: at first those before its arguments
    _writer: Writer = attrs.field(factory=ArgumentsWriter)
    _told: list[str] = attrs.field(init=False, factory=list)

    @property
    def is_announced(self) -> bool:
        """True if something of the call was told: it cannot become text any more."""
        return bool(self._told)

    @property
    def told(self) -> str:
        """The arguments as far as they were told."""
        return "".join(self._told)

    def push(self, text: str) -> list[AnswerPart]:
        """Read on in the call's text, of which all up to now is given. Returns what is to be told of it."""
        more = self._writer.push(text[self._read :])
        self._read = max(self._read, len(text))
        if not more:
            return []
        self._told.append(more)
        return [CallPiece("", self.name, more)]

    def ended(self, calls: Sequence[ToolCall], written: str) -> list[AnswerPart]:
        """The calls that the text turned out to be, of which the first has to be this one; else the end of a call that was cut."""
        if calls and calls[0].name == self.name and calls[0].arguments.startswith(self.told):
            return [*calls]
        return [CutCall("", self.name, self.told, written)]
