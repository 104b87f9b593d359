"""What the Chat Completions API answers: a whole completion, or its chunks.

Knows the wire and how generations end. Knows nothing of requests.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

import attrs
import msgspec

from semantic_trio.adapters.http.openai.chunks import PING, Chunks, Head, failure
from semantic_trio.adapters.http.openai.logprobs import ChoiceLogprobs, TokenBytes, token_logprobs
from semantic_trio.adapters.http.openai.tools import custom_input
from semantic_trio.adapters.http.openai.usage import CompletionUsage
from semantic_trio.adapters.http.reuse import Cache
from semantic_trio.adapters.http.thoughts import OneField
from semantic_trio.application.answer import Answer, WholeAnswer
from semantic_trio.application.choices import Chosen, together
from semantic_trio.domain.conversation import CallPiece, CutCall, Message, Role, Text, Thinking, ToolCall, ToolResult
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Finished, FinishReason

Reason = Literal["stop", "length", "tool_calls"]

REASONS: dict[FinishReason, Reason] = {
    FinishReason.END_OF_TURN: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.MAX_TOKENS: "length",
    FinishReason.CONTEXT_FULL: "length",
    FinishReason.BROKEN_CALL: "length",  # the only reason by which clients know that a call is not whole
}


@attrs.frozen
class CalledFunction:
    """A function and what it is called with."""

    name: str
    arguments: str  # JSON


@attrs.frozen
class CalledCustom:
    """A tool that takes text, and that text."""

    name: str
    input: str


@attrs.frozen
class FunctionCall:
    """A call of a function, or of a tool that takes text."""

    id: str
    function: CalledFunction | msgspec.UnsetType = msgspec.UNSET
    custom: CalledCustom | msgspec.UnsetType = msgspec.UNSET
    type: Literal["function", "custom"] = "function"


@attrs.frozen
class AnswerMessage:
    """What the assistant says, thinks and calls."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[FunctionCall] | msgspec.UnsetType = msgspec.UNSET


@attrs.frozen
class Choice:
    """One answer."""

    message: AnswerMessage
    finish_reason: Reason
    index: int = 0
    logprobs: ChoiceLogprobs | None = None


@attrs.frozen
class ChatAnswer:
    """A whole completion."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage
    object: Literal["chat.completion"] = "chat.completion"


@attrs.frozen
class Manner:
    """How this client is told of an answer."""

    head: Head
    customs: frozenset[str] = frozenset()  # names of tools that take text
    token_bytes: TokenBytes | None = None  # None: nothing is told of tokens


def whole_completion(manner: Manner, answers: Sequence[WholeAnswer]) -> ChatAnswer:
    """The answer of a request that does not stream."""
    choices = [_choice(manner, index, answer) for index, answer in enumerate(answers)]
    usage = CompletionUsage.of(together([answer.finished for answer in answers]), sum(answer.thought_tokens for answer in answers))
    return ChatAnswer(manner.head.id, manner.head.created, manner.head.model, choices, usage)


def _choice(manner: Manner, index: int, answer: WholeAnswer) -> Choice:
    cut = answer.cut if answer.cut is not None and answer.cut.name not in manner.customs else None
    said = Message(Role.ASSISTANT, answer.parts if cut else answer.parts_with_cut)
    calls = [*(tool_call(call, manner.customs) for call in said.calls), *([function_call(cut)] if cut else [])]
    text = "".join(part.text for part in said.parts if isinstance(part, Text))
    message = AnswerMessage(
        content=None if calls and not text else text,
        reasoning_content=said.thinking or msgspec.UNSET,
        tool_calls=calls or msgspec.UNSET,
    )
    logprobs = None if manner.token_bytes is None else ChoiceLogprobs(token_logprobs(answer.scores, manner.token_bytes))
    return Choice(message, reason_of(answer.finished, has_calls=bool(calls)), index, logprobs)


def tool_call(call: ToolCall, customs: frozenset[str]) -> FunctionCall:
    """A call in the API's words."""
    if call.name in customs:
        return FunctionCall(call.id, custom=CalledCustom(call.name, custom_input(call.arguments)), type="custom")
    return function_call(call)


def function_call(call: ToolCall | CallPiece | CutCall) -> FunctionCall:
    """A call of a function in the API's words; of one that is not whole, the beginning."""
    return FunctionCall(call.id, CalledFunction(call.name, call.arguments))


def reason_of(finished: Finished, *, has_calls: bool) -> Reason:
    """Why an answer ended; one that calls and was not cut off wants results."""
    reason = REASONS[finished.reason]
    return "tool_calls" if has_calls and reason == "stop" else reason


@attrs.define(eq=False)
class ChatEncoder:
    """The chunks of one completion, from the role to `[DONE]`."""

    _manner: Manner
    _chunks: Chunks
    _answers: Sequence[Answer]  # what is read: for what they tell beside their events
    ping: bytes = PING
    _calls: Counter[int] = attrs.field(init=False, factory=Counter)  # of each choice
    _called: dict[int, int] = attrs.field(init=False, factory=dict)  # of each choice with an open call: characters sent of its arguments
    _thoughts: dict[int, OneField] = attrs.field(init=False, factory=lambda: defaultdict(OneField))

    def opening(self) -> bytes:
        """Who speaks."""
        return b"".join(self._chunk(index, {"role": "assistant", "content": ""}) for index in range(len(self._answers)))

    def part(self, part: Chosen) -> bytes:
        """A piece of one of the answers, or its end."""
        index = part.index
        event = part.event if isinstance(part.event, Finished) else self._thoughts[index].passed(part.event)
        match event:
            case Finished():
                scores = self._scores(index)  # of tokens whose text was held back to the end
                return self._chunk(index, {}, reason_of(event, has_calls=bool(self._calls[index])), scores)
            case Thinking(text):
                return self._chunk(index, {"reasoning_content": text})
            case ToolCall() | CallPiece() | CutCall():
                return self._call(index, event)
            case Text(text) | ToolResult(text=text):
                return self._chunk(index, {"content": text}, scores=self._scores(index))

    def ending(self, finished: Finished) -> bytes:
        """The usage when asked for, the end."""
        usage = CompletionUsage.of(finished, sum(answer.thought_tokens for answer in self._answers))
        return self._chunks.ending(usage, semantic_cache=Cache.of(finished.reuse))

    def failure(self, error: SemanticError) -> bytes:
        """The error, and no `[DONE]`."""
        return failure(error)

    def _call(self, index: int, call: ToolCall | CallPiece | CutCall) -> bytes:
        """A whole call, or more of one. The text of a custom tool comes whole: nothing in it would show that it was cut."""
        match call:
            case CallPiece(name=name) if name in self._manner.customs:
                return b""
            case CutCall(name=name) if name in self._manner.customs:
                return self._chunk(index, {"content": call.written})
            case CutCall():
                return b""
            case ToolCall() if index not in self._called:
                return self._call_chunk(index, {"id": call.id, **_told(tool_call(call, self._manner.customs))}, is_new=True)
            case ToolCall():
                return self._call_chunk(index, {"function": {"arguments": call.arguments[self._called.pop(index) :]}})
        return self._piece(index, call)

    def _piece(self, index: int, piece: CallPiece) -> bytes:
        """More of a call; the first piece says which call that is."""
        is_new = index not in self._called
        self._called[index] = self._called.get(index, 0) + len(piece.arguments)
        if is_new:
            return self._call_chunk(index, {"id": piece.id, **_told(function_call(piece))}, is_new=True)
        return self._call_chunk(index, {"function": {"arguments": piece.arguments}})

    def _call_chunk(self, index: int, told: dict[str, object], *, is_new: bool = False) -> bytes:
        self._calls[index] += is_new
        return self._chunk(index, {"tool_calls": [{"index": self._calls[index] - 1, **told}]})

    def _scores(self, index: int) -> ChoiceLogprobs | None:
        tokens, token_bytes = self._answers[index].take_scores(), self._manner.token_bytes
        return ChoiceLogprobs(token_logprobs(tokens, token_bytes)) if tokens and token_bytes else None

    def _chunk(self, index: int, delta: dict[str, object], reason: Reason | None = None, scores: ChoiceLogprobs | None = None) -> bytes:
        return self._chunks.chunk([{"index": index, "delta": delta, "logprobs": scores, "finish_reason": reason}])


def _told(call: FunctionCall) -> dict[str, object]:
    return {"type": call.type, call.type: call.function or call.custom}
