"""Chunks of a chat completion that streams.

Knows the wire and what may follow what. Knows nothing of requests.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import attrs

from semantic_trio.adapters.http.common.cache_report import Cache
from semantic_trio.adapters.http.common.thinking_field import SingleThinkingField
from semantic_trio.adapters.http.openai.chat.completion import (
    CompletionFormat,
    FunctionCall,
    function_call,
    reason_of,
    tool_call,
)
from semantic_trio.adapters.http.openai.common.completion_chunks import Chunks, CompletionSignals
from semantic_trio.adapters.http.openai.common.finish_reason import Reason
from semantic_trio.adapters.http.openai.common.logprobs import ChoiceLogprobs, token_logprobs
from semantic_trio.adapters.http.openai.common.usage import CompletionUsage
from semantic_trio.application.answer import Answer
from semantic_trio.application.choices import Chosen
from semantic_trio.domain.conversation import (
    CallPiece,
    CutCall,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from semantic_trio.domain.generation import Finished


@attrs.define(eq=False)
class ChatEncoder(CompletionSignals):
    """The chunks of one completion, from the role to `[DONE]`."""

    _format: CompletionFormat
    _chunks: Chunks
    # read for log-probabilities and token counts, which are not among the events
    _answers: Sequence[Answer]
    _calls: Counter[int] = attrs.field(init=False, factory=Counter)  # number of calls, by choice
    _sent_characters: dict[int, int] = attrs.field(
        init=False, factory=dict
    )  # characters sent of the open call's arguments, by choice with an open call
    _thoughts: dict[int, SingleThinkingField] = attrs.field(
        init=False, factory=lambda: defaultdict(SingleThinkingField)
    )

    def opening(self) -> bytes:
        """Encode the role of each choice."""
        return b"".join(
            self._chunk(index, {"role": "assistant", "content": ""})
            for index in range(len(self._answers))
        )

    def part(self, part: Chosen) -> bytes:
        """Encode a part of one of the answers, or its end."""
        index = part.index
        event = (
            part.event
            if isinstance(part.event, Finished)
            else self._thoughts[index].separated(part.event)
        )
        match event:
            case Finished():
                scores = self._scores(index)  # of tokens whose text was held back until the end
                return self._chunk(
                    index, {}, reason_of(event, has_calls=bool(self._calls[index])), scores
                )
            case Thinking(text):
                return self._chunk(index, {"reasoning_content": text})
            case ToolCall() | CallPiece() | CutCall():
                return self._call(index, event)
            case Text(text) | ToolResult(text=text):
                return self._chunk(index, {"content": text}, scores=self._scores(index))

    def ending(self, finished: Finished) -> bytes:
        """Encode the usage where it is asked for, and the end."""
        usage = CompletionUsage.of(finished, sum(answer.thought_tokens for answer in self._answers))
        return self._chunks.ending(usage, semantic_cache=Cache.of(finished.reuse))

    def _call(self, index: int, call: ToolCall | CallPiece | CutCall) -> bytes:
        """Encode a whole call, or more of one.

        The text of a custom tool is sent whole: a text that was cut off could not be recognised.
        """
        match call:
            case CallPiece(name=name) if name in self._format.customs:
                return b""
            case CutCall(name=name) if name in self._format.customs:
                return self._chunk(index, {"content": call.written})
            case CutCall():
                return b""
            case ToolCall() if index not in self._sent_characters:
                return self._call_chunk(
                    index,
                    {"id": call.id, **_call_fields(tool_call(call, self._format.customs))},
                    is_new=True,
                )
            case ToolCall():
                return self._call_chunk(
                    index,
                    {"function": {"arguments": call.arguments[self._sent_characters.pop(index) :]}},
                )
        return self._call_piece(index, call)

    def _call_piece(self, index: int, piece: CallPiece) -> bytes:
        """Encode more of a call; the first chunk has its id and name."""
        is_new = index not in self._sent_characters
        self._sent_characters[index] = self._sent_characters.get(index, 0) + len(piece.arguments)
        if is_new:
            return self._call_chunk(
                index, {"id": piece.id, **_call_fields(function_call(piece))}, is_new=True
            )
        return self._call_chunk(index, {"function": {"arguments": piece.arguments}})

    def _call_chunk(self, index: int, told: dict[str, object], *, is_new: bool = False) -> bytes:
        self._calls[index] += is_new
        return self._chunk(index, {"tool_calls": [{"index": self._calls[index] - 1, **told}]})

    def _scores(self, index: int) -> ChoiceLogprobs | None:
        tokens, token_bytes = self._answers[index].take_scores(), self._format.token_bytes
        return (
            ChoiceLogprobs(token_logprobs(tokens, token_bytes)) if tokens and token_bytes else None
        )

    def _chunk(
        self,
        index: int,
        delta: dict[str, object],
        reason: Reason | None = None,
        scores: ChoiceLogprobs | None = None,
    ) -> bytes:
        return self._chunks.chunk(
            [{"index": index, "delta": delta, "logprobs": scores, "finish_reason": reason}]
        )


def _call_fields(call: FunctionCall) -> dict[str, object]:
    return {"type": call.type, call.type: call.function or call.custom}
