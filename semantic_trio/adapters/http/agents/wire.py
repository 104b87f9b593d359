"""What clients of `/v1/agents` send, what it means, and what they get.

Knows the wire and the neutral conversation. Says as Chat Completions does what both can say.
"""

import enum
from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.generate import Asked, SamplingChoice
from semantic_trio.adapters.http.identity import AgentId, Identity
from semantic_trio.adapters.http.limits import MaxTokens, token_limit
from semantic_trio.adapters.http.openai.answer import FunctionCall
from semantic_trio.adapters.http.openai.content import ContentPart
from semantic_trio.adapters.http.openai.sampling import RepetitionPenalty
from semantic_trio.adapters.http.openai.tools import ToolParam
from semantic_trio.adapters.http.openai.wire import ChatMessage, messages_of
from semantic_trio.adapters.http.reuse import Cache
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.generation import Finished, FinishReason
from semantic_trio.domain.reuse import MissCause, Source

# Tokens of an answer where nothing is said of it: a small model that does not end would go on to the end of its context, for minutes.
DEFAULT_TOKENS = 1024


@attrs.frozen
class CreateAgent:
    """An agent to begin with."""

    id: AgentId | None = None
    model: str | None = None
    system: str | list[ContentPart] | None = None
    tools: list[ToolParam] | None = None


@attrs.frozen
class ForkAgent:
    """What to call the fork."""

    id: AgentId | None = None


@attrs.frozen
class AgentTurn:
    """What is said to an agent: `message`, after `messages` where there are any. The answer is sampled as in Chat Completions."""

    message: str | ChatMessage
    messages: list[ChatMessage] | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
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


def asked(request: AgentTurn, model: str, agent: str) -> Asked:
    """What a turn means, without the conversation before it."""
    new = ChatMessage("user", request.message) if isinstance(request.message, str) else request.message
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Asked(
        model=model,
        conversation=Conversation(messages_of((*(request.messages or []), new))),
        max_tokens=DEFAULT_TOKENS if request.max_tokens is None else token_limit(request, "max_tokens"),
        sampling=SamplingChoice(request.temperature, request.top_p, request.top_k, request.min_p, request.repetition_penalty),
        stop_strings=tuple(stop),
        seed=request.seed,
        identity=Identity(agent, is_ordered=True),
        prompt_field="message",
    )
