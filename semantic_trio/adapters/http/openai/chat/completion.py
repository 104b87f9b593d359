"""Chat completions: whole answers in the words of the API.

Knows the wire and how generations end. Knows nothing of requests.
"""

from collections.abc import Sequence
from typing import Literal

import attrs
import msgspec

from semantic_trio.adapters.http.common.priority import ServedTier
from semantic_trio.adapters.http.openai.common.completion_chunks import Head
from semantic_trio.adapters.http.openai.common.finish_reason import REASONS, Reason
from semantic_trio.adapters.http.openai.common.logprobs import (
    ChoiceLogprobs,
    TokenBytes,
    token_logprobs,
)
from semantic_trio.adapters.http.openai.common.tools import custom_input
from semantic_trio.adapters.http.openai.common.usage import CompletionUsage
from semantic_trio.application.answer import WholeAnswer
from semantic_trio.application.choices import together
from semantic_trio.domain.conversation import CallPiece, CutCall, Message, Role, Text, ToolCall
from semantic_trio.domain.generation import Finished


@attrs.frozen
class CalledFunction:
    """A called function and its arguments."""

    name: str
    arguments: str  # JSON


@attrs.frozen
class CalledCustom:
    """A called custom tool and its text."""

    name: str
    input: str


@attrs.frozen
class FunctionCall:
    """A call of a function or of a custom tool."""

    id: str
    function: CalledFunction | msgspec.UnsetType = msgspec.UNSET
    custom: CalledCustom | msgspec.UnsetType = msgspec.UNSET
    type: Literal["function", "custom"] = "function"


@attrs.frozen
class AnswerMessage:
    """The assistant's text, thinking and calls."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[FunctionCall] | msgspec.UnsetType = msgspec.UNSET


@attrs.frozen
class Choice:
    """One answer of a completion."""

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
    service_tier: ServedTier | msgspec.UnsetType = msgspec.UNSET
    object: Literal["chat.completion"] = "chat.completion"


@attrs.frozen
class CompletionFormat:
    """The format of the answers to one request."""

    head: Head
    customs: frozenset[str] = frozenset()  # names of custom tools, which take text
    token_bytes: TokenBytes | None = None  # None: no log-probabilities are sent


def chat_completion(answer_format: CompletionFormat, answers: Sequence[WholeAnswer]) -> ChatAnswer:
    """Return the completion of whole answers."""
    choices = [_choice(answer_format, index, answer) for index, answer in enumerate(answers)]
    usage = CompletionUsage.of(
        together([answer.finished for answer in answers]),
        sum(answer.thought_tokens for answer in answers),
    )
    head = answer_format.head
    return ChatAnswer(
        head.id, head.created, head.model, choices, usage, head.service_tier or msgspec.UNSET
    )


def _choice(answer_format: CompletionFormat, index: int, answer: WholeAnswer) -> Choice:
    cut = (
        answer.cut
        if answer.cut is not None and answer.cut.name not in answer_format.customs
        else None
    )
    said = Message(Role.ASSISTANT, answer.parts if cut else answer.parts_with_cut)
    calls = [
        *(tool_call(call, answer_format.customs) for call in said.calls),
        *([function_call(cut)] if cut else []),
    ]
    text = "".join(part.text for part in said.parts if isinstance(part, Text))
    message = AnswerMessage(
        content=None if calls and not text else text,
        reasoning_content=said.thinking or msgspec.UNSET,
        tool_calls=calls or msgspec.UNSET,
    )
    logprobs = (
        None
        if answer_format.token_bytes is None
        else ChoiceLogprobs(token_logprobs(answer.scores, answer_format.token_bytes))
    )
    return Choice(message, reason_of(answer.finished, has_calls=bool(calls)), index, logprobs)


def tool_call(call: ToolCall, customs: frozenset[str]) -> FunctionCall:
    """Return a call in the words of the API."""
    if call.name in customs:
        return FunctionCall(
            call.id, custom=CalledCustom(call.name, custom_input(call.arguments)), type="custom"
        )
    return function_call(call)


def function_call(call: ToolCall | CallPiece | CutCall) -> FunctionCall:
    """Return a function call in the words of the API; of a call that is cut off, its beginning."""
    return FunctionCall(call.id, CalledFunction(call.name, call.arguments))


def reason_of(finished: Finished, *, has_calls: bool) -> Reason:
    """Return the finish reason: `tool_calls` for an answer with calls that was not cut off."""
    reason = REASONS[finished.reason]
    return "tool_calls" if has_calls and reason == "stop" else reason
