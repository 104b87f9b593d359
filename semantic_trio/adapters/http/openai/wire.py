"""What clients of the Chat Completions API send, and what it means.

Knows the wire and the neutral conversation. Fields that are not named here are accepted and ignored; `min_p`, `top_k` and `session_id` are
extensions.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.generate import Asked, sampling_params
from semantic_trio.adapters.http.identity import NOBODY, AgentId, Identity
from semantic_trio.domain.conversation import Calling, Conversation, Message, Part, Role, Text, Thinking, Tool, ToolCall, ToolChoice, ToolResult

# More than any conversation has; what it costs to look at one is the event loop's.
MOST_MESSAGES = 20_000
ROLES = {"developer": Role.SYSTEM, "system": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT, "tool": Role.USER}


@attrs.frozen
class TextPart:
    """A run of text."""

    type: Literal["text"]
    text: str


@attrs.frozen
class CalledFunctionParam:
    """A function and what it was called with."""

    name: str
    arguments: str = "{}"


@attrs.frozen
class ToolCallParam:
    """A call the assistant has made."""

    id: str
    function: CalledFunctionParam


@attrs.frozen
class ChatMessage:
    """One turn. System and developer messages stay where they stand."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None  # of the assistant, where clients send it back
    tool_calls: list[ToolCallParam] | None = None
    tool_call_id: str | None = None  # of a tool's message: the call it answers


@attrs.frozen
class FunctionParam:
    """A function the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None


@attrs.frozen
class ToolParam:
    """A tool the model may call: a function, in itself or as its own fields. Others are not for this model."""

    type: str = "function"
    function: FunctionParam | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, object] | None = None


@attrs.frozen
class NamedFunction:
    """A function that has to be called."""

    name: str


@attrs.frozen
class NamedToolChoice:
    """A tool that has to be called."""

    function: NamedFunction


@attrs.frozen
class StreamOptions:
    """What a stream tells beside the text."""

    include_usage: bool | None = None


@attrs.frozen
class ChatRequest:
    """A conversation to go on with."""

    model: str
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    session_id: AgentId | None = None
    prompt_cache_key: str | None = None
    tools: list[ToolParam] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def asked(request: ChatRequest, identity: Identity = NOBODY) -> Asked:
    """What a request means."""
    temperature = 1.0 if request.temperature is None else request.temperature
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Asked(
        model=request.model,
        conversation=Conversation(tuple(message_of(message) for message in request.messages), tools_of(request.tools or ()), _choice(request)),
        max_tokens=request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens,
        sampling=sampling_params(temperature, request.top_p, request.top_k, request.min_p),
        stop_strings=tuple(stop),
        seed=request.seed,
        identity=identity,
    )


def message_of(message: ChatMessage) -> Message:
    """A turn of the neutral conversation."""
    return Message(ROLES[message.role], tuple(_parts(message)))


def tools_of(tools: Iterable[ToolParam]) -> tuple[Tool, ...]:
    """The functions among the tools."""
    functions = [tool.function or FunctionParam(tool.name or "", tool.description, tool.parameters) for tool in tools if tool.type == "function"]
    return tuple(Tool(one.name, one.description or "", msgspec.json.encode(one.parameters or {}).decode()) for one in functions if one.name)


def _parts(message: ChatMessage) -> Iterator[Part]:
    content = message.content
    texts = [content] if isinstance(content, str) else [part.text for part in content or ()]
    if message.role == "tool":
        yield ToolResult(message.tool_call_id or "", "\n\n".join(texts))
        return
    if message.reasoning_content:
        yield Thinking(message.reasoning_content)
    yield from (Text(text) for text in texts)
    for call in message.tool_calls or ():
        yield ToolCall(call.id, call.function.name, call.function.arguments)


def _choice(request: ChatRequest) -> ToolChoice:
    asked, is_single = request.tool_choice or "auto", request.parallel_tool_calls is False
    if isinstance(asked, NamedToolChoice):
        return ToolChoice(Calling.REQUIRED, asked.function.name, is_single=is_single)
    return ToolChoice(Calling(asked), is_single=is_single)
