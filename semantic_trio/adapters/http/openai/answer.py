"""What the Chat Completions API answers: a whole completion, or its chunks.

Knows the wire and how generations end. Knows nothing of requests.
"""

from typing import Literal

import attrs
import msgspec

from semantic_trio.adapters.http.faults import fault_of, openai_error
from semantic_trio.adapters.http.protocol import Protocol
from semantic_trio.adapters.http.reuse import Cache
from semantic_trio.adapters.http.sse import encode_event
from semantic_trio.application.answer import WholeAnswer
from semantic_trio.domain.conversation import Message, Part, Role, Thinking, ToolCall
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Finished, FinishReason

Reason = Literal["stop", "length", "tool_calls"]

REASONS: dict[FinishReason, Reason] = {
    FinishReason.END_OF_TURN: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.MAX_TOKENS: "length",
    FinishReason.CONTEXT_FULL: "length",
}


@attrs.frozen
class PromptTokensDetails:
    """Where the prompt's tokens came from."""

    cached_tokens: int = 0


@attrs.frozen
class ChatUsage:
    """What a request is billed."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()

    @classmethod
    def of(cls, finished: Finished) -> "ChatUsage":
        """The usage of a generation."""
        prompt, completion = finished.prompt_tokens, finished.completion_tokens
        return cls(prompt, completion, prompt + completion, PromptTokensDetails(finished.reuse.tokens))


@attrs.frozen
class CalledFunction:
    """A function and what it is called with."""

    name: str
    arguments: str  # JSON


@attrs.frozen
class FunctionCall:
    """A call of a function."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


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
    logprobs: None = None


@attrs.frozen
class ChatAnswer:
    """A whole completion."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    object: Literal["chat.completion"] = "chat.completion"


def whole_completion(completion_id: str, created: int, model: str, answer: WholeAnswer) -> ChatAnswer:
    """The answer of a request that does not stream."""
    said = Message(Role.ASSISTANT, answer.parts)
    calls = [function_call(call) for call in said.calls]
    message = AnswerMessage(
        content=None if calls and not answer.text else answer.text,
        reasoning_content=said.thinking or msgspec.UNSET,
        tool_calls=calls or msgspec.UNSET,
    )
    choice = Choice(message, reason_of(answer.finished, has_calls=bool(calls)))
    return ChatAnswer(completion_id, created, model, [choice], ChatUsage.of(answer.finished))


def function_call(call: ToolCall) -> FunctionCall:
    """A call in the API's words."""
    return FunctionCall(call.id, CalledFunction(call.name, call.arguments))


def reason_of(finished: Finished, *, has_calls: bool) -> Reason:
    """Why an answer ended; one that calls and was not cut off wants results."""
    reason = REASONS[finished.reason]
    return "tool_calls" if has_calls and reason == "stop" else reason


@attrs.define
class ChatEncoder:
    """The chunks of one completion, from the role to `[DONE]`."""

    completion_id: str
    created: int
    model: str
    with_usage: bool
    ping: bytes = b": ping\n\n"  # each data line would be parsed as a chunk
    _calls: int = attrs.field(init=False, default=0)

    def opening(self) -> bytes:
        """Who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def part(self, part: Part) -> bytes:
        """A piece of the answer."""
        match part:
            case Thinking(text):
                return self._chunk({"reasoning_content": text})
            case ToolCall():
                self._calls += 1
                call = function_call(part)
                return self._chunk({"tool_calls": [{"index": self._calls - 1, "id": call.id, "type": call.type, "function": call.function}]})
        return self._chunk({"content": part.text})

    def ending(self, finished: Finished) -> bytes:
        """The reason, the usage when asked for, the end."""
        usage = self._event([], usage=ChatUsage.of(finished), semantic_cache=Cache.of(finished.reuse)) if self.with_usage else b""
        return self._chunk({}, reason_of(finished, has_calls=bool(self._calls))) + usage + b"data: [DONE]\n\n"

    def failure(self, error: SemanticError) -> bytes:
        """The error, and no `[DONE]`."""
        return encode_event(openai_error(fault_of(error, Protocol.OPENAI)))

    def _chunk(self, delta: dict[str, object], reason: Reason | None = None) -> bytes:
        return self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}])

    def _event(self, choices: list[dict[str, object]], usage: ChatUsage | None = None, **more: object) -> bytes:
        event: dict[str, object] = {
            "id": self.completion_id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }
        if self.with_usage:
            event["usage"] = usage
        return encode_event(event)
