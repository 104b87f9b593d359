"""Requests of the Messages API, and the parameters of a generation they stand for.

Knows requests and the neutral conversation. Fields that are not named here are accepted and
ignored, betas among them: clients send new ones every week, and one refusal costs them the request.
Histories are taken as they come: a result whose call is gone is what the user says.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.anthropic.content import (
    OF_ASSISTANT,
    OF_SYSTEM,
    OF_USER,
    Content,
    content_of,
    rank_of,
)
from semantic_trio.adapters.http.anthropic.content_blocks import (
    AssistantContent,
    CacheControl,
    SystemContent,
    TextBlock,
    UserContent,
)
from semantic_trio.adapters.http.anthropic.thinking import ThinkingParam
from semantic_trio.adapters.http.anthropic.tools import (
    ToolChoiceParam,
    ToolParam,
    choice_of,
    neutral,
    read_tools,
)
from semantic_trio.adapters.http.common.compatibility_fields import (
    StructuredOutputFields,
    UnsupportedFields,
    requested_schema,
)
from semantic_trio.adapters.http.common.identity import ANONYMOUS, AgentId, CacheSalt, Identity
from semantic_trio.adapters.http.common.limits import (
    MOST_MESSAGES,
    MOST_TOOLS,
    MaxTokens,
    token_limit,
)
from semantic_trio.adapters.http.common.response_format import ResponseFormat, schema_of
from semantic_trio.adapters.http.serving.params import GenerationParams, SamplingChoice
from semantic_trio.domain.conversation import (
    EFFORTS,
    Calling,
    Conversation,
    Message,
    Part,
    Role,
    Text,
    ToolResult,
)
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.eviction import Rank

CALL_PREFIX = "toolu_"


class UserMessage(msgspec.Struct, frozen=True, tag_field="role", tag="user"):
    """A message of the user, with results of tool calls."""

    content: str | list[UserContent]


class AssistantMessage(msgspec.Struct, frozen=True, tag_field="role", tag="assistant"):
    """A message of the model: text, thinking and calls."""

    content: str | list[AssistantContent]


class SystemMessage(msgspec.Struct, frozen=True, tag_field="role", tag="system"):
    """A system message within the conversation."""

    content: str | list[SystemContent]


MessageParam = UserMessage | AssistantMessage | SystemMessage


@attrs.frozen
class Metadata:
    """Metadata of the client."""

    user_id: object = None


@attrs.frozen
class OutputFormat:
    """JSON of a schema."""

    type: Literal["json_schema"]
    schema: dict[str, object]


@attrs.frozen
class OutputConfig:
    """The format of the answer, and the effort of thinking."""

    format: OutputFormat | None = None
    effort: str | None = None


@attrs.frozen(kw_only=True)
class CountTokensRequest(StructuredOutputFields):
    """A prompt to count."""

    model: str
    messages: Annotated[list[MessageParam], msgspec.Meta(min_length=1, max_length=MOST_MESSAGES)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[ToolParam], msgspec.Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoiceParam | None = None
    parallel_tool_calls: bool | None = None  # as OpenAI's APIs have it
    thinking: ThinkingParam | None = None
    cache_control: CacheControl | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # the same, in the API's older words
    response_format: ResponseFormat | None = None  # as Chat Completions has it
    cache_salt: CacheSalt | None = None


@attrs.frozen(kw_only=True)
class MessagesRequest(CountTokensRequest, UnsupportedFields):
    """A prompt to answer."""

    max_tokens: MaxTokens
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    metadata: Metadata | None = None
    session_id: AgentId | None = None


def generation_params(request: MessagesRequest, identity: Identity = ANONYMOUS) -> GenerationParams:
    """Return the parameters of a request.

    Raises `Fault` and `InvalidRequestError`, which name the field.
    """
    return GenerationParams(
        model=request.model,
        conversation=conversation(request),
        max_tokens=token_limit(request, "max_tokens"),
        sampling=SamplingChoice(request.temperature, request.top_p, request.top_k),
        stop_strings=tuple(request.stop_sequences or ()),
        identity=identity,
        call_prefix=CALL_PREFIX,
    )


def conversation(request: CountTokensRequest) -> Conversation:
    """Return the conversation of a request.

    An answer continues the assistant's last message, unless a call is required.

    Raises `Fault` and `InvalidRequestError`, which name the field.
    """
    found = _conversation(request)
    forms = {
        "output_config.format": found.schema,
        "output_format": _schema_of(OutputConfig(request.output_format)),
    }
    schema = requested_schema(
        request, {**forms, "response_format": schema_of(request.response_format)}
    )
    found = attrs.evolve(
        found, schema=schema, continues=found.choice.calling is not Calling.REQUIRED
    )
    if found.prefill is not None and schema is not None:
        raise InvalidRequestError(
            "an answer that has to be JSON of a schema cannot go on with the assistant's message",
            "messages",
            quotes=False,
        )
    return found


def _conversation(request: CountTokensRequest) -> Conversation:
    """Build the conversation: the system prompt, then the messages in order.

    Breakpoints are ranks of messages, those of tools of the first.
    """
    tools = read_tools(request.tools or ())
    system = (
        [TextBlock("text", request.system)]
        if isinstance(request.system, str)
        else request.system or []
    )
    head = Message(Role.SYSTEM, tuple(Text(block.text) for block in system if block.text))
    messages = [*([head] if head.parts else []), *_messages(request.messages)]
    messages[0] = _with_rank(
        messages[0], rank_of(stated.cache_control for stated in (*tools, *system))
    )
    messages[-1] = _with_rank(messages[-1], rank_of([request.cache_control]))
    thinking = request.thinking
    thinks = thinking is not None and thinking.is_wanted
    return Conversation(
        tuple(messages),
        neutral(tools),
        choice_of(request.tool_choice, tools, is_single=request.parallel_tool_calls is False),
        schema=_schema_of(request.output_config),
        thinks=thinks,
        effort=_effort_of(request.output_config) if thinks else None,
        thought_budget=max(1, thinking.budget_tokens)
        if thinks and thinking and thinking.budget_tokens is not None
        else None,
    )


def _effort_of(config: OutputConfig | None) -> str | None:
    """Return the effort of thinking; unknown words are ignored, as new ones come with every model
    of the API.
    """
    return config.effort if config is not None and config.effort in EFFORTS else None


def _schema_of(config: OutputConfig | None) -> str | None:
    return (
        None
        if config is None or config.format is None
        else msgspec.json.encode(config.format.schema).decode()
    )


def _with_rank(message: Message, rank: Rank | None) -> Message:
    return (
        message
        if rank is None
        else attrs.evolve(message, rank=max(rank, message.rank or Rank.PLAIN))
    )


def _messages(messages: Iterable[MessageParam]) -> Iterator[Message]:
    called: set[str] = set()
    for index, message in enumerate(messages):
        role, content = _role_and_content(message, f"messages.{index}.content")
        parts = tuple(_with_its_call(part, called) for part in content.parts)
        turn = Message(role, parts, content.rank)
        called.update(call.id for call in turn.calls)
        yield turn


def _role_and_content(message: MessageParam, at: str) -> tuple[Role, Content]:
    match message:
        case UserMessage():
            return Role.USER, content_of(message.content, OF_USER, at)
        case AssistantMessage():
            return Role.ASSISTANT, content_of(message.content, OF_ASSISTANT, at)
        case SystemMessage():
            return Role.SYSTEM, content_of(message.content, OF_SYSTEM, at)


def _with_its_call(part: Part, called: set[str]) -> Part:
    """Return a result whose call is not in the history as text, as in histories that clients
    shorten: templates look calls up by id.
    """
    return Text(part.text) if isinstance(part, ToolResult) and part.call_id not in called else part
