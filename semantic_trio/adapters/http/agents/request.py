"""Requests of `/v1/agents`, and the parameters of a generation they stand for.

Knows the wire and the neutral conversation. Has the fields of Chat Completions for everything that
both can say.
"""

from collections.abc import Sequence
from typing import Annotated

import attrs
import msgspec

from semantic_trio.adapters.http.common.compatibility_fields import (
    StructuredOutputFields,
    UnsupportedFields,
    requested_schema,
)
from semantic_trio.adapters.http.common.identity import AgentId, CacheSalt, Identity
from semantic_trio.adapters.http.common.limits import (
    MOST_MESSAGES,
    MOST_TOOLS,
    MaxTokens,
    token_limit,
)
from semantic_trio.adapters.http.common.response_format import ResponseFormat, schema_of
from semantic_trio.adapters.http.openai.chat.content import ContentPart
from semantic_trio.adapters.http.openai.chat.messages import ChatMessage, messages_of
from semantic_trio.adapters.http.openai.common.sampling import SteeringFields
from semantic_trio.adapters.http.openai.common.thinking import ThinkingFields, with_thinking
from semantic_trio.adapters.http.openai.common.tool_choice import (
    ChoiceWord,
    ToolChoiceParam,
    choice_of,
)
from semantic_trio.adapters.http.openai.common.tools import ToolParam
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.domain.conversation import Conversation, Tool
from semantic_trio.domain.salt import NO_SALT, salt_of

# Default of `max_tokens`: a small model that does not end would fill its context, for minutes.
DEFAULT_TOKENS = 1024


@attrs.frozen
class CreateAgent:
    """An agent to create."""

    id: AgentId | None = None
    model: str | None = None
    system: str | list[ContentPart] | None = None
    tools: Annotated[list[ToolParam], msgspec.Meta(max_length=MOST_TOOLS)] | None = None
    cache_salt: CacheSalt | None = None


@attrs.frozen
class ForkAgent:
    """The id of a fork."""

    id: AgentId | None = None


@attrs.frozen(kw_only=True)
class AgentTurn(SteeringFields, ThinkingFields, StructuredOutputFields, UnsupportedFields):
    """New messages for an agent: `message`, after `messages` where there are any.

    The other fields are those of Chat Completions.
    """

    message: str | ChatMessage
    messages: Annotated[list[ChatMessage], msgspec.Meta(max_length=MOST_MESSAGES)] | None = None
    max_tokens: MaxTokens | None = None
    tool_choice: ChoiceWord | ToolChoiceParam | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    cache_salt: CacheSalt | None = None
    service_tier: str | None = None
    stream: bool | None = None


def generation_params(
    request: AgentTurn, model: str, agent: str, tools: Sequence[Tool] = ()
) -> GenerationParams:
    """Return the parameters of a turn, with its new messages only; `tools` are those of the agent.

    Raises `Fault`, `InvalidRequestError`.
    """
    new = (
        ChatMessage("user", request.message)
        if isinstance(request.message, str)
        else request.message
    )
    conversation = Conversation(
        messages_of((*(request.messages or []), new)),
        tuple(tools),
        choice_of(request.tool_choice, tools, is_single=request.parallel_tool_calls is False),
        schema=requested_schema(request, {"response_format": schema_of(request.response_format)}),
    )
    return GenerationParams(
        model=model,
        conversation=with_thinking(conversation, request),
        max_tokens=DEFAULT_TOKENS
        if request.max_tokens is None
        else token_limit(request, "max_tokens"),
        sampling=request.sampling,
        steering=request.steering,
        stop_strings=request.stop_strings,
        seed=request.seed,
        identity=Identity(
            agent,
            is_ordered=True,
            salt=salt_of(request.cache_salt) if request.cache_salt else NO_SALT,
        ),
        service_tier=request.service_tier,
        prompt_field="message",
    )
