"""Calls that are told while the model writes them.

Knows the pieces of a call that were returned, and the end of the call. Knows nothing of
formats.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs

from semantic_trio.domain.arguments import ArgumentsWriter
from semantic_trio.domain.conversation import AnswerPart, CallPiece, CutCall, ToolCall


class Writer(Protocol):
    """The arguments of a call, read as the model writes them and written as JSON."""

    @property
    def unread(self) -> int | None:
        """Characters behind the arguments; None while they have not ended, or where their end is
        not certain.
        """

    def push(self, text: str) -> str:
        """Read more of the text.

        Returns what it adds to the arguments; nothing before the first key is known.
        """


@attrs.define(eq=False)
class OpenCall:
    """A call whose name is known and whose arguments are being written.

    It is announced when the first key of its arguments is known.
    """

    name: str
    _read: int  # characters of the text that are read: at first those before the arguments
    _writer: Writer = attrs.field(factory=ArgumentsWriter)
    start: int = 0  # characters of the text before the call
    _announced: list[str] = attrs.field(init=False, factory=list)

    @property
    def is_announced(self) -> bool:
        """True if a piece of the call was returned: it cannot become text any more."""
        return bool(self._announced)

    @property
    def arguments(self) -> str:
        """The arguments as far as they were announced."""
        return "".join(self._announced)

    @property
    def end(self) -> int | None:
        """The end of the arguments in the text; None while they have not ended."""
        unread = self._writer.unread
        return None if unread is None else self._read - unread

    @property
    def whole(self) -> ToolCall:
        """The call, where its arguments have ended."""
        return ToolCall("", self.name, f"{self.arguments or '{'}}}")

    def push(self, text: str) -> list[AnswerPart]:
        """Read on in the text, of which all up to now is given.

        Returns the pieces that are certain now.
        """
        more = self._writer.push(text[self._read :])
        self._read = max(self._read, len(text))
        if not more:
            return []
        self._announced.append(more)
        return [CallPiece("", self.name, more)]

    def ended(self, calls: Sequence[ToolCall], written: str) -> list[AnswerPart]:
        """The calls that the text turned out to be, of which the first has to be this one; else the
        end of a call that was cut.
        """
        if calls and calls[0].name == self.name and calls[0].arguments.startswith(self.arguments):
            return [*calls]
        return [CutCall("", self.name, self.arguments, written[self.start :])]


@attrs.define(eq=False)
class OpenCalls:
    """Calls in a row in one text. A call is returned as whole when the next one is announced."""

    # the announced one, if there is one, and those behind it
    _begun: list[OpenCall] = attrs.field(init=False, factory=list)
    _said: list[ToolCall] = attrs.field(init=False, factory=list)  # told as whole

    @property
    def end(self) -> int | None:
        """The place behind which another call may begin; None while the last one has not ended."""
        return self._begun[-1].end if self._begun else 0

    @property
    def start(self) -> int:
        """The place where the call begins that is being told."""
        return self._begun[0].start if self._begun else 0

    @property
    def is_announced(self) -> bool:
        """True if something was told: it cannot become text any more."""
        return bool(self._begun) and self._begun[0].is_announced

    def begin(self, call: OpenCall) -> None:
        """Read on in another call."""
        self._begun.append(call)

    def push(self, text: str) -> list[AnswerPart]:
        """Read on in the last call. Returns what is to be told."""
        pieces = self._begun[-1].push(text) if self._begun else []
        if not pieces or len(self._begun) == 1:
            return pieces
        whole = [call.whole for call in self._begun[:-1]]
        self._said += whole
        del self._begun[:-1]
        return [*whole, *pieces]

    def ended(self, calls: Sequence[ToolCall], written: str) -> list[AnswerPart]:
        """The calls that the text turned out to be and that were not told as whole; else the end of
        the call that was cut.
        """
        count = len(self._said)
        return self._begun[0].ended(
            calls[count:] if [*calls[:count]] == self._said else (), written
        )
