"""Answers that go on with a message the assistant has begun.

Knows parts of an answer. Knows nothing of prompts.
"""

from collections.abc import Sequence

import attrs

from semantic_trio.domain.conversation import AnswerPart, Message, Part, Text
from semantic_trio.domain.stopping import Thoughts
from semantic_trio.ports.text import AnswerReader


@attrs.define(eq=False)
class ContinuingReader:
    """An `AnswerReader` that leaves out the blanks an answer begins with where the message before
    it ended with them: the prompt has them not.
    """

    _reader: AnswerReader
    _blanks: str  # that the message ended with, as far as the answer has not repeated them

    @property
    def thoughts(self) -> Thoughts | None:
        """See `AnswerReader.thoughts`."""
        return self._reader.thoughts

    @property
    def apart(self) -> type[Part] | None:
        """See `AnswerReader.apart`."""
        return self._reader.apart

    @property
    def is_over(self) -> bool:
        """See `AnswerReader.is_over`."""
        return self._reader.is_over

    def push(self, text: str) -> list[AnswerPart]:
        """See `AnswerReader.push`."""
        return self._without_blanks(self._reader.push(text))

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """See `AnswerReader.finish`."""
        return self._without_blanks(self._reader.finish(is_cut=is_cut))

    def _without_blanks(self, parts: list[AnswerPart]) -> list[AnswerPart]:
        kept: list[AnswerPart] = []
        for part in parts:
            text = self._rest_of(part.text) if isinstance(part, Text) else ""
            self._blanks = self._blanks if isinstance(part, Text) and not text else ""
            if not isinstance(part, Text):
                kept.append(part)
            elif text:
                kept.append(Text(text))
        return kept

    def _rest_of(self, text: str) -> str:
        """A text without the blanks at its front that the message ended with; these are awaited no
        longer.
        """
        while self._blanks and text.startswith(self._blanks[0]):
            self._blanks, text = self._blanks[1:], text[1:]
        return text


def continuing(reader: AnswerReader, prefill: Message | None) -> AnswerReader:
    """The reader of an answer that goes on with a message; of a turn of its own as it is."""
    if prefill is None:
        return reader
    text = prefill.text
    return ContinuingReader(reader, text[len(text.rstrip()) :])


def whole_turn(prefill: Message, answer: Sequence[Part]) -> tuple[Part, ...]:
    """All that the assistant said in a turn: what it had begun with and an answer, one text where
    both are text.
    """
    match prefill.parts[-1], answer:
        case Text(begun), [Text(said), *rest]:
            return (*prefill.parts[:-1], Text(begun + said), *rest)
    return (*prefill.parts, *answer)
