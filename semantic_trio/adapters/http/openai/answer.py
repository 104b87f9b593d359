"""What the Chat Completions API answers: a whole completion, or its chunks.

Knows the wire and how generations end. Knows nothing of requests.
"""

from typing import Literal

import attrs

from semantic_trio.adapters.http.faults import fault_of, openai_error
from semantic_trio.adapters.http.protocol import Protocol
from semantic_trio.adapters.http.reuse import Cache
from semantic_trio.adapters.http.sse import encode_event
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Finished, FinishReason, GenerationResult

Reason = Literal["stop", "length"]

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
class AnswerMessage:
    """What the assistant says."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


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


def whole_completion(completion_id: str, created: int, model: str, result: GenerationResult) -> ChatAnswer:
    """The answer of a request that does not stream."""
    choice = Choice(AnswerMessage(result.text), REASONS[result.finished.reason])
    return ChatAnswer(completion_id, created, model, [choice], ChatUsage.of(result.finished))


@attrs.frozen
class ChatEncoder:
    """The chunks of one completion, from the role to `[DONE]`."""

    completion_id: str
    created: int
    model: str
    with_usage: bool
    ping: bytes = b": ping\n\n"  # each data line would be parsed as a chunk

    def opening(self) -> bytes:
        """Who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """A piece of the answer."""
        return self._chunk({"content": text})

    def ending(self, finished: Finished) -> bytes:
        """The reason, the usage when asked for, the end."""
        usage = self._event([], usage=ChatUsage.of(finished), semantic_cache=Cache.of(finished.reuse)) if self.with_usage else b""
        return self._chunk({}, REASONS[finished.reason]) + usage + b"data: [DONE]\n\n"

    def failure(self, error: SemanticError) -> bytes:
        """The error, and no `[DONE]`."""
        return encode_event(openai_error(fault_of(error, Protocol.OPENAI)))

    def _chunk(self, delta: dict[str, str], reason: Reason | None = None) -> bytes:
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
