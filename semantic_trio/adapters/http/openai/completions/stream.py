"""Chunks of text completions that stream.

Knows the wire. Knows nothing of requests.
"""

from collections import defaultdict
from collections.abc import Sequence

import attrs

from semantic_trio.adapters.http.openai.common.completion_chunks import Chunks, CompletionSignals
from semantic_trio.adapters.http.openai.common.finish_reason import REASONS, Reason
from semantic_trio.adapters.http.openai.completions.text_completion import (
    Offsets,
    TextChoice,
    TextCompletionFormat,
)
from semantic_trio.application.answer import Answer
from semantic_trio.application.choices import Chosen
from semantic_trio.domain.conversation import Text
from semantic_trio.domain.generation import Finished


@attrs.define(eq=False)
class CompletionEncoder(CompletionSignals):
    """Encodes the chunks of all answers, up to `[DONE]`."""

    _format: TextCompletionFormat
    _chunks: Chunks
    _answers: Sequence[Answer]  # read for log-probabilities, which are not among the events
    _ends: dict[int, Finished] = attrs.field(init=False, factory=dict)
    # by index of the answer
    _offsets: defaultdict[int, Offsets] = attrs.field(
        init=False, factory=lambda: defaultdict(Offsets)
    )

    def opening(self) -> bytes:
        """Encode the prompts where they are echoed; else a comment, so that the client knows that
        it was heard.
        """
        echoes = [
            self._chunk(TextChoice(self._format.echo(index), index, None))
            for index in range(len(self._answers))
            if self._format.echo(index)
        ]
        return b"".join(echoes) or self.ping

    def part(self, part: Chosen) -> bytes:
        """Encode more of one text, or its end."""
        index, event = part.index, part.event
        tokens = self._answers[index].take_scores()
        reason: Reason | None = None
        if isinstance(event, Finished):
            self._ends[index] = event
            reason = REASONS[event.reason]
        text = event.text if isinstance(event, Text) else ""
        return self._chunk(
            TextChoice(
                text,
                index,
                reason,
                self._format.logprobs(tokens, self._offsets[index]) if tokens else None,
            )
        )

    def ending(self, finished: Finished) -> bytes:
        """Encode the usage where it is asked for, and the end."""
        return self._chunks.ending(
            self._format.usage([self._ends[index] for index in range(len(self._answers))])
        )

    def _chunk(self, choice: TextChoice) -> bytes:
        return self._chunks.chunk([choice])
