"""What clients of the Chat Completions API send, and what it means.

Knows the wire and the neutral conversation. Fields that are not named here are accepted and ignored; `min_p`, `top_k` and `session_id` are
extensions.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.generate import Asked
from semantic_trio.adapters.http.identity import NOBODY, Identity
from semantic_trio.adapters.http.openai.format import ResponseFormat, schema_of
from semantic_trio.adapters.http.openai.request import DrawingRequest
from semantic_trio.adapters.http.openai.sampling import TopLogprobs
from semantic_trio.adapters.http.openai.thoughts import ThoughtsRequest, with_choice
from semantic_trio.adapters.http.openai.tool_choice import ChoiceWord, ToolChoiceParam, choice_of
from semantic_trio.adapters.http.openai.tools import ToolParam, custom_call, tools_of
from semantic_trio.domain.conversation import Conversation, Message, Part, Role, Text, Thinking, ToolCall, ToolResult

# More than any conversation has; what it costs to look at one is the event loop's.
MOST_MESSAGES = 20_000
ROLES = {
    "developer": Role.SYSTEM,
    "system": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.USER,
    "function": Role.USER,
}


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A run of text."""

    text: str


class RefusalPart(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """The words in which something was refused."""

    refusal: str


ContentPart = TextPart | RefusalPart


@attrs.frozen
class CalledFunctionParam:
    """A function and what it was called with."""

    name: str
    arguments: str = "{}"


@attrs.frozen
class CalledCustomParam:
    """A tool that takes text, and what it was called with."""

    name: str
    input: str = ""


@attrs.frozen
class ToolCallParam:
    """A call the assistant has made."""

    id: str
    type: str = "function"
    function: CalledFunctionParam | None = None
    custom: CalledCustomParam | None = None


@attrs.frozen
class ChatMessage:
    """One turn. System and developer messages stay where they stand."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    refusal: str | None = None  # of the assistant
    reasoning_content: str | None = None  # of the assistant, where clients send it back
    tool_calls: list[ToolCallParam] | None = None
    tool_call_id: str | None = None  # of a tool's message: the call it answers
    name: str | None = None  # of a function's message: what it answers


@attrs.frozen(kw_only=True)
class ChatRequest(DrawingRequest, ThoughtsRequest):
    """A conversation to go on with."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    tools: list[ToolParam] | None = None
    tool_choice: ChoiceWord | ToolChoiceParam | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None


def asked(request: ChatRequest, identity: Identity = NOBODY) -> Asked:
    """What a request means. Raises `InvalidRequestError`."""
    tools = tools_of(request.tools or ())
    conversation = Conversation(
        tuple(message_of(message) for message in request.messages),
        tools,
        choice_of(request.tool_choice, tools, is_single=request.parallel_tool_calls is False),
        schema=schema_of(request.response_format),
    )
    return Asked(
        model=request.model,
        conversation=with_choice(conversation, request),
        max_tokens=request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens,
        sampling=request.sampling,
        stop_strings=request.stop_strings,
        seed=request.seed,
        steering=request.steering,
        top_logprobs=request.top_logprobs or 0 if request.logprobs else None,
        identity=identity,
    )


def message_of(message: ChatMessage) -> Message:
    """A turn of the neutral conversation."""
    return Message(ROLES[message.role], tuple(_parts(message)))


def _parts(message: ChatMessage) -> Iterator[Part]:
    content = message.content
    texts = [content] if isinstance(content, str) else [part.text if isinstance(part, TextPart) else part.refusal for part in content or ()]
    if message.role in {"tool", "function"}:
        yield ToolResult(message.tool_call_id or message.name or "", "\n\n".join(texts))
        return
    if message.reasoning_content:
        yield Thinking(message.reasoning_content)
    yield from (Text(text) for text in [*texts, *([message.refusal] if message.refusal else [])])
    yield from (_call(call) for call in message.tool_calls or ())


def _call(call: ToolCallParam) -> ToolCall:
    if call.custom is not None:
        return ToolCall(call.id, call.custom.name, custom_call(call.custom.input))
    called = call.function or CalledFunctionParam("")
    return ToolCall(call.id, called.name, called.arguments)
