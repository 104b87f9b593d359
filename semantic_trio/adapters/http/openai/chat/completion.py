"""What the Chat Completions API answers: a whole completion, or its chunks.

Knows the wire and how generations end. Knows nothing of requests.
"""

from collections.abc import Sequence
from typing import Literal

import attrs
import msgspec

from semantic_trio.adapters.http.openai.common.completion_chunks import Head
from semantic_trio.adapters.http.openai.common.finish_reason import REASONS, Reason
from semantic_trio.adapters.http.openai.common.logprobs import ChoiceLogprobs, TokenBytes, token_logprobs
from semantic_trio.adapters.http.openai.common.tools import custom_input
from semantic_trio.adapters.http.openai.common.usage import CompletionUsage
from semantic_trio.application.answer import WholeAnswer
from semantic_trio.application.choices import together
from semantic_trio.domain.conversation import CallPiece, CutCall, Message, Role, Text, ToolCall
from semantic_trio.domain.generation import Finished


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
class CompletionFormat:
    """How this client is told of an answer."""

    head: Head
    customs: frozenset[str] = frozenset()  # names of tools that take text
    token_bytes: TokenBytes | None = None  # None: nothing is told of tokens


def chat_completion(answer_format: CompletionFormat, answers: Sequence[WholeAnswer]) -> ChatAnswer:
    """The answer of a request that does not stream."""
    choices = [_choice(answer_format, index, answer) for index, answer in enumerate(answers)]
    usage = CompletionUsage.of(together([answer.finished for answer in answers]), sum(answer.thought_tokens for answer in answers))
    return ChatAnswer(answer_format.head.id, answer_format.head.created, answer_format.head.model, choices, usage)


def _choice(answer_format: CompletionFormat, index: int, answer: WholeAnswer) -> Choice:
    cut = answer.cut if answer.cut is not None and answer.cut.name not in answer_format.customs else None
    said = Message(Role.ASSISTANT, answer.parts if cut else answer.parts_with_cut)
    calls = [*(tool_call(call, answer_format.customs) for call in said.calls), *([function_call(cut)] if cut else [])]
    text = "".join(part.text for part in said.parts if isinstance(part, Text))
    message = AnswerMessage(
        content=None if calls and not text else text,
        reasoning_content=said.thinking or msgspec.UNSET,
        tool_calls=calls or msgspec.UNSET,
    )
    logprobs = None if answer_format.token_bytes is None else ChoiceLogprobs(token_logprobs(answer.scores, answer_format.token_bytes))
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
