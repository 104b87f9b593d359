"""Frames of the dashboard: the state of a server at one moment, small enough to be sent several
times a second.

Knows engines, their memory and their agents. Holds ids, counts and bytes, and never a text of a
conversation. Counts nothing itself: all figures are those that the engine, the memory and `GET
/v1/agents` have.
"""

from collections.abc import Iterable

import attrs

from semantic_trio.adapters.http.agents.views import AgentState, agent_view
from semantic_trio.adapters.http.common.cache_report import Cache
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.application.engine import EngineState
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.agents import Agents
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.reuse import NOTHING_REUSED
from semantic_trio.domain.sequence import Phase, Sequence

# Models, rows and agents in a frame, and characters of a name: the largest frame is below 10,000
# bytes.
MOST_MODELS, MOST_ROWS, MOST_AGENTS, LONGEST_NAME = 4, 10, 14, 64


@attrs.frozen
class RowFigures:
    """A request with a row in the batch."""

    agent: str
    priority: Priority
    phase: Phase
    prompt_tokens: int
    read_tokens: int  # of the prompt, with those that were reused
    reused_tokens: int
    generated_tokens: int
    max_tokens: int


@attrs.frozen
class AgentFigures:
    """An agent, its memory, and the reuse of its last turn."""

    id: str
    state: AgentState
    tokens: int
    bytes: int  # of its blocks in RAM
    disk_bytes: int
    turns: int
    pinned: bool
    last_turn: Cache | None


@attrs.frozen
class PoolFigures:
    """The memory for keys and values, in bytes."""

    total: int
    used: int
    rows: int  # used by rows of the batch
    snapshots: int


@attrs.frozen
class DiskFigures:
    """The disk tier, in bytes."""

    total: int  # 0: there is none
    used: int
    waiting: int  # entries and records to be written
    accepts_writes: bool


@attrs.frozen
class ModelFigures:
    """A model, its batch, its queue and its memory."""

    id: str
    context_length: int
    layout: str
    state: EngineState
    rows: int
    most_rows: int
    waiting: int
    waiting_in_background: int  # of these
    most_waiting: int  # of each priority
    tokens_generated: int  # since the start
    steps: int  # since the start
    pool: PoolFigures
    disk: DiskFigures


@attrs.frozen
class Frame:
    """The state of a server at one moment."""

    version: str
    models: list[ModelFigures]  # those that are open, the first ones
    models_total: int
    rows: list[RowFigures]  # in order of admission, the first ones
    agents: list[AgentFigures]  # those with a turn first, then the most recently used ones
    agents_total: int
    agents_live: int  # in the middle of a turn


def frame(state: AppState) -> Frame:
    """Return the state of a server as it is now."""
    models = state.models
    rows = [_row(sequence) for model in models for sequence in model.engine.scheduler.batch]
    agents = [(model, agent) for model in models for agent in _first(model.engine.memory.agents)]
    return Frame(
        version=state.version,
        models=[_model(model) for model in models[:MOST_MODELS]],
        models_total=len(models),
        rows=rows[:MOST_ROWS],
        agents=[_agent(model, agent) for model, agent in agents[:MOST_AGENTS]],
        agents_total=sum(len(model.engine.memory.agents) for model in models),
        agents_live=sum(
            bool(agent.rows) for model in models for agent in model.engine.memory.agents
        ),
    )


def _first(agents: Agents) -> Iterable[Agent]:
    """Return agents with a turn, then the others, each the most recently used first."""
    recent = list(agents)[::-1]
    return sorted(recent, key=lambda agent: not agent.rows)[:MOST_AGENTS]


def _row(sequence: Sequence) -> RowFigures:
    return RowFigures(
        agent=_name(sequence.agent.id) if sequence.agent else "",
        priority=Priority.BACKGROUND if sequence.is_background else Priority.INTERACTIVE,
        phase=sequence.phase,
        prompt_tokens=len(sequence.replay),
        read_tokens=sequence.context,
        reused_tokens=(sequence.reuse or NOTHING_REUSED).tokens,
        generated_tokens=len(sequence.generated),
        max_tokens=sequence.max_tokens,
    )


def _agent(model: ServedModel, agent: Agent) -> AgentFigures:
    view = agent_view(model, agent)
    return AgentFigures(
        id=view.id,
        state=view.state,
        tokens=view.tokens,
        bytes=view.bytes,
        disk_bytes=view.disk_bytes,
        turns=view.turns,
        pinned=view.pinned,
        last_turn=view.last_turn,
    )


def _model(model: ServedModel) -> ModelFigures:
    engine, memory = model.engine, model.engine.memory
    pool, disk = memory.store.pool, memory.disk
    return ModelFigures(
        id=_name(model.card.id),
        context_length=model.card.context_length,
        layout=engine.runner.layout,
        state=engine.state,
        rows=engine.scheduler.running,
        most_rows=engine.scheduler.limits.max_rows,
        waiting=engine.waiting,
        waiting_in_background=engine.waiting_in_background,
        most_waiting=engine.queue_limit,
        tokens_generated=engine.tokens_generated,
        steps=engine.steps,
        pool=PoolFigures(
            pool.total_bytes, pool.used, memory.rows.held_bytes, memory.snapshots.used
        ),
        disk=DiskFigures(disk.budget_bytes, disk.used, disk.waiting, disk.exists and disk.is_open),
    )


def _name(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
