"""Agents as clients see them."""

import collections
import enum
from typing import Literal

import attrs

from semantic_trio.adapters.http.common.cache_report import Cache
from semantic_trio.adapters.http.common.exchange import current
from semantic_trio.adapters.http.common.identity import agent_id_in_url
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.errors import AgentNotFoundError
from semantic_trio.domain.model_names import ANY_MODEL
from semantic_trio.domain.reuse import NOTHING_REUSED, MissCause, ReuseSource, TurnReuse


class AgentState(enum.Enum):
    """Place of an agent's memory."""

    LIVE = "live"  # a turn is running
    WARM = "warm"  # some of its blocks are in RAM
    COLD = "cold"  # its blocks have to be loaded from disk, or computed


@attrs.frozen
class AgentView:
    """An agent as it is now."""

    id: str
    model: str
    state: AgentState
    tokens: int  # of its history, prompts and answers
    messages: int  # of its conversation
    blocks: int  # of its history, in RAM or on disk
    bytes: int  # of its blocks in RAM
    disk_bytes: int  # of its blocks on disk, some of which are in RAM too
    shared_blocks: int  # blocks that other agents have read too
    pinned: bool
    named: bool  # true if a client has named the agent; others were recognised by their prompts
    parent: str | None  # id of the agent it was forked from
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
class LastTurn:
    """The reuse of an agent's last turn, and where its prompt diverged from the agent's history,
    with the text of both around that position.
    """

    agent: str
    reused: int
    prompt_tokens: int
    source: ReuseSource
    cause: MissCause | None
    lost_tokens: int  # of the agent's history, not reused
    left_at: int | None  # first position that differs; null: none
    stored_text: str | None
    prompt_text: str | None


async def find_agent(state: AppState, name: str) -> tuple[ServedModel, Agent]:
    """Return the agent of an id, and its model, which is open until the request is over.

    The main model is opened to look for it there.

    Raises `AgentNotFoundError`, `InvalidRequestError` for what cannot be an id, and what
    `AppState.resolve` raises.
    """
    agent_id_in_url(name)
    stack = current.get().stack
    if (wanted := model_of_search(state)) is not None:
        await state.resolve(wanted, stack)
    for model in state.models:
        agent = model.engine.memory.agents.find(name)
        if agent is not None:
            state.registry.models.hold(model, stack)
            return model, agent
    raise AgentNotFoundError(name)


def model_of_search(state: AppState) -> str | None:
    """Return the name of the model that has to be loaded to look for an agent; None if all are
    loaded that are looked at.
    """
    return ANY_MODEL if state.registry.models.main is None else None


def agent_view(model: ServedModel, agent: Agent) -> AgentView:
    """An agent as it is now."""
    held, store = agent.held, model.engine.memory.store
    here = [block for block in held if block.is_here]
    return AgentView(
        id=agent.id,
        model=model.card.id,
        state=AgentState.LIVE if agent.rows else AgentState.WARM if here else AgentState.COLD,
        tokens=agent.tokens,
        messages=len(agent.conversation.messages),
        blocks=len(held),
        bytes=sum(store.size(block) for block in here),
        disk_bytes=sum(store.disk.size(block.item) for block in held),
        shared_blocks=sum(len(block.owners) > 1 for block in held),
        pinned=agent.is_pinned,
        named=agent.is_named,
        parent=agent.parent,
        turns=agent.turns,
        has_tools=bool(agent.conversation.tools),
        last_turn=Cache.of(agent.last_turn.reuse) if agent.last_turn else None,
    )


def agent_list(state: AppState) -> AgentList:
    """Return all agents, counted by state."""
    views = [
        agent_view(model, agent) for model in state.models for agent in model.engine.memory.agents
    ]
    counts = collections.Counter(one.state for one in views)
    return AgentList(
        views, len(views), counts[AgentState.LIVE], counts[AgentState.WARM], counts[AgentState.COLD]
    )


def last_turn(model: ServedModel, agent: Agent) -> LastTurn:
    """Return what the last turn reused, and why no more; zeros for an agent without a turn.

    The texts are the agent's own.
    """
    turn = agent.last_turn or TurnReuse(NOTHING_REUSED)
    has_left = turn.left_at is not None
    return LastTurn(
        agent=agent.id,
        reused=turn.reuse.tokens,
        prompt_tokens=turn.reuse.prompt_tokens,
        source=turn.reuse.source,
        cause=turn.reuse.cause,
        lost_tokens=turn.reuse.lost_tokens,
        left_at=turn.left_at,
        stored_text=model.codec.decode(turn.stored) if has_left else None,
        prompt_text=model.codec.decode(turn.prompt) if has_left else None,
    )
