"""Agents as clients are shown them."""

import collections

import attrs

from semantic_trio.adapters.http.agents.wire import AgentList, AgentState, AgentView, LastTurn
from semantic_trio.adapters.http.reuse import Cache
from semantic_trio.adapters.http.served import ServedModel
from semantic_trio.adapters.http.state import AppState
from semantic_trio.domain.agent import Agent, agent_id
from semantic_trio.domain.errors import AgentNotFoundError, InvalidRequestError
from semantic_trio.domain.reuse import NOTHING_REUSED, Turn


def valid_id(name: str) -> str:
    """The id in a URL. Raises `InvalidRequestError` for what cannot be one."""
    try:
        return agent_id(name)
    except InvalidRequestError as error:
        raise attrs.evolve(error, field="agent_id") from None


def find(state: AppState, name: str) -> tuple[ServedModel, Agent]:
    """The agent of an id, and the model it talks with. Raises `AgentNotFoundError`, or `InvalidRequestError` for what cannot be an id."""
    valid_id(name)
    for model in state.models:
        agent = model.engine.memory.agents.find(name)
        if agent is not None:
            return model, agent
    raise AgentNotFoundError(name)


def view(model: ServedModel, agent: Agent) -> AgentView:
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


def view_all(state: AppState) -> AgentList:
    """All agents, counted by where their memory is."""
    views = [view(model, agent) for model in state.models for agent in model.engine.memory.agents]
    counts = collections.Counter(one.state for one in views)
    return AgentList(views, len(views), counts[AgentState.LIVE], counts[AgentState.WARM], counts[AgentState.COLD])


def last_turn(model: ServedModel, agent: Agent) -> LastTurn:
    """What the last turn reused, and why not more; nothing of nothing where there was none. What it shows is the agent's own."""
    turn = agent.last_turn or Turn(NOTHING_REUSED)
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
