"""What clients of `/v1/agents` send, what it means, and what they get.

Knows the wire and the neutral conversation. Says as Chat Completions does what both can say.
"""

import enum
from collections.abc import Sequence
from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.demands import BehaviourDemands, FormDemands, schema_demanded
from semantic_trio.adapters.http.generate import Asked, SamplingChoice
from semantic_trio.adapters.http.identity import AgentId, CacheSalt, Identity
from semantic_trio.adapters.http.limits import MOST_MESSAGES, MOST_TOOLS, MaxTokens, token_limit
from semantic_trio.adapters.http.openai.answer import FunctionCall
from semantic_trio.adapters.http.openai.content import ContentPart
from semantic_trio.adapters.http.openai.format import ResponseFormat, schema_of
from semantic_trio.adapters.http.openai.sampling import Bias, Penalty, RepetitionPenalty, Seed, Stop, Temperature, TopK, TopP, steering, stops
from semantic_trio.adapters.http.openai.thoughts import ThoughtsRequest, with_choice
from semantic_trio.adapters.http.openai.tool_choice import ChoiceWord, ToolChoiceParam, choice_of
from semantic_trio.adapters.http.openai.tools import ToolParam
from semantic_trio.adapters.http.openai.wire import ChatMessage, messages_of
from semantic_trio.adapters.http.reuse import Cache
from semantic_trio.domain.conversation import Conversation, Tool
from semantic_trio.domain.generation import Finished, FinishReason
from semantic_trio.domain.reuse import MissCause, Source
from semantic_trio.domain.salt import NO_SALT, salt_of

# Tokens of an answer where nothing is said of it: a small model that does not end would go on to the end of its context, for minutes.
DEFAULT_TOKENS = 1024


@attrs.frozen
class CreateAgent:
    """An agent to begin with."""

    id: AgentId | None = None
    model: str | None = None
    system: str | list[ContentPart] | None = None
    tools: Annotated[list[ToolParam], msgspec.Meta(max_length=MOST_TOOLS)] | None = None
    cache_salt: CacheSalt | None = None


@attrs.frozen
class ForkAgent:
    """What to call the fork."""

    id: AgentId | None = None


@attrs.frozen(kw_only=True)
class AgentTurn(ThoughtsRequest, FormDemands, BehaviourDemands):
    """What is said to an agent: `message`, after `messages` where there are any. The answer is asked for as in Chat Completions."""

    message: str | ChatMessage
    messages: Annotated[list[ChatMessage], msgspec.Meta(max_length=MOST_MESSAGES)] | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: TopP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Bias | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    tool_choice: ChoiceWord | ToolChoiceParam | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    cache_salt: CacheSalt | None = None
    stream: bool | None = None


class AgentState(enum.Enum):
    """Where an agent's memory is."""

    LIVE = "live"  # a turn is running
    WARM = "warm"  # something of it is in RAM
    COLD = "cold"  # it would have to be read from disk, or computed


@attrs.frozen
class AgentView:
    """An agent as it is now."""

    id: str
    model: str
    state: AgentState
    tokens: int  # of everything it has read and said
    messages: int  # of its conversation
    blocks: int  # of it that are held, in RAM or on disk
    bytes: int  # of those that are in RAM
    disk_bytes: int  # of those that are on disk, where they may be as well
    shared_blocks: int  # of those that other agents have read too
    pinned: bool
    named: bool  # by a client; others were recognised by what they have read
    parent: str | None  # whom it was forked from
    turns: int
    has_tools: bool
    last_turn: Cache | None
    object: Literal["agent"] = "agent"


@attrs.frozen
class AgentList:
    """All agents, least recently used first."""

    data: list[AgentView]
    total: int
    live: int
    warm: int
    cold: int
    object: Literal["list"] = "list"


@attrs.frozen
class AgentUsage:
    """What a turn took."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # of the prompt that were not computed again

    @classmethod
    def of(cls, finished: Finished) -> "AgentUsage":
        """The usage of a generation."""
        return cls(finished.prompt_tokens, finished.completion_tokens, finished.reuse.tokens)


@attrs.frozen
class AgentAnswer:
    """What an agent said."""

    agent: str
    text: str
    thinking: str
    tool_calls: list[FunctionCall]
    finish_reason: FinishReason
    stop_string: str | None  # that ended it, where one did
    usage: AgentUsage
    cache: Cache


@attrs.frozen
class Warmed:
    """An agent whose conversation has been read."""

    agent: str
    tokens: int  # that its next turn finds in memory
    cache: Cache


@attrs.frozen
class LastTurn:
    """What the last turn of an agent reused, and where its prompt left what the agent had read and said, with both around that position."""

    agent: str
    reused: int
    prompt_tokens: int
    source: Source
    cause: MissCause | None
    lost_tokens: int  # of the agent's history that were not used
    left_at: int | None  # the first position that differs; null: nowhere
    stored_text: str | None
    prompt_text: str | None


def asked(request: AgentTurn, model: str, agent: str, tools: Sequence[Tool] = ()) -> Asked:
    """The meaning of a turn, without the conversation before it; `tools` are those of the agent. Raises `Fault`, `InvalidRequestError`."""
    new = ChatMessage("user", request.message) if isinstance(request.message, str) else request.message
    conversation = Conversation(
        messages_of((*(request.messages or []), new)),
        tuple(tools),
        choice_of(request.tool_choice, tools, is_single=request.parallel_tool_calls is False),
        schema=schema_demanded(request, {"response_format": schema_of(request.response_format)}),
    )
    return Asked(
        model=model,
        conversation=with_choice(conversation, request),
        max_tokens=DEFAULT_TOKENS if request.max_tokens is None else token_limit(request, "max_tokens"),
        sampling=SamplingChoice(request.temperature, request.top_p, request.top_k, request.min_p, request.repetition_penalty),
        steering=steering(request.logit_bias, request.frequency_penalty, request.presence_penalty),
        stop_strings=stops(request.stop),
        seed=request.seed,
        identity=Identity(agent, is_ordered=True, salt=salt_of(request.cache_salt) if request.cache_salt else NO_SALT),
        prompt_field="message",
    )
