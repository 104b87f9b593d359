"""Frames of the dashboard: the figures that others have too, small, and without a word of a
conversation.
"""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock

from semantic_trio.adapters.http.agents.views import AgentState
from semantic_trio.adapters.http.common.cache_report import Cache
from semantic_trio.adapters.http.common.json_encoding import encode_json
from semantic_trio.adapters.http.dashboard.frame import (
    LONGEST_NAME,
    MOST_AGENTS,
    MOST_MODELS,
    MOST_ROWS,
    AgentFigures,
    Frame,
    RowFigures,
    frame,
)
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.application.engine import EngineState
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.reuse import MissCause, ReuseSource
from semantic_trio.domain.sequence import Phase
from semantic_trio.testing import FakeRunner
from tests.http.serving import Served, anthropic_body, get, openai_body, post, running, served

MOST_BYTES = 10_000
LARGEST_COUNT, LARGEST_SIZE = 16_777_216, 1 << 50


@pytest.fixture
async def server(autojump_clock: MockClock) -> AsyncIterator[Served]:
    async with running(served(FakeRunner(seconds_per_step=0.05), rows=2)) as one:
        yield one


def encoded(shown: Frame) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(encode_json(shown))
    return decoded


async def test_a_server_that_does_nothing_shows_its_model_and_its_limits(
    server: Served, autojump_clock: MockClock
) -> None:
    shown = encoded(frame(server.state))

    pool = server.engine.memory.store.pool
    assert shown == {
        "version": "0.0.0",
        "models": [
            {
                "id": "org/tiny",
                "context_length": 4096,
                "layout": server.runner.layout,
                "state": "running",
                "rows": 0,
                "most_rows": 2,
                "waiting": 0,
                "waiting_in_background": 0,
                "most_waiting": 64,
                "tokens_generated": 0,
                "steps": 0,
                "pool": {"total": pool.total_bytes, "used": 0, "rows": 0, "snapshots": 0},
                "disk": {"total": 0, "used": 0, "waiting": 0, "accepts_writes": False},
            }
        ],
        "models_total": 1,
        "rows": [],
        "agents": [],
        "agents_total": 0,
        "agents_live": 0,
    }


async def test_requests_show_how_far_they_are_and_waiting_ones_are_counted(
    server: Served, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    for letter in "abc":
        nursery.start_soon(
            post,
            server.app,
            "/v1/messages",
            anthropic_body(letter * 40, max_tokens=9, session_id=f"agent-{letter}"),
        )
        await trio.sleep(0.01)  # requests that come together are taken in any order
    while server.engine.tokens_generated < 6:
        await trio.sleep(0.05)

    shown = frame(server.state)

    assert (shown.models[0].rows, shown.models[0].waiting, shown.agents_live) == (2, 1, 2)
    assert [row.agent for row in shown.rows] == ["agent-a", "agent-b"]
    for row in shown.rows:
        assert (row.phase, row.max_tokens) == (Phase.DECODING, 9)
        assert row.read_tokens == row.prompt_tokens > 40
        assert 0 < row.generated_tokens < 9
    assert shown.models[0].pool.rows == server.engine.memory.rows.held_bytes > 0
    assert {agent.id: agent.state for agent in shown.agents[:2]} == {
        "agent-b": AgentState.LIVE,
        "agent-a": AgentState.LIVE,
    }


async def test_an_agent_shows_its_memory_and_why_its_last_turn_missed(
    server: Served, autojump_clock: MockClock
) -> None:
    await post(server.app, "/v1/messages", anthropic_body("x" * 300, session_id="one"))
    first = frame(server.state).agents[0]
    await post(server.app, "/v1/messages", anthropic_body("y" * 300, session_id="one"))
    second = frame(server.state).agents[0]

    assert (first.state, first.turns) == (AgentState.WARM, 1)
    assert first.last_turn is not None
    assert first.last_turn.cause is MissCause.NEW
    assert second.last_turn is not None
    assert (second.turns, second.last_turn.cause) == (2, MissCause.DIVERGED)


async def test_the_figures_are_those_of_the_list_of_agents(
    server: Served, autojump_clock: MockClock
) -> None:
    for name in ("one", "two"):
        await post(server.app, "/v1/messages", anthropic_body("x" * 300, session_id=name))

    listed = {agent["id"]: agent for agent in (await get(server.app, "/v1/agents")).json["data"]}  # type: ignore[attr-defined]
    shown = encoded(frame(server.state))["agents"]

    assert [agent["id"] for agent in shown] == ["two", "one"]
    for agent in shown:
        assert agent == {name: listed[agent["id"]][name] for name in agent}


async def test_no_word_of_a_conversation_is_in_a_frame(
    server: Served, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    body = openai_body("the secret is a walrus", max_tokens=50, prompt_cache_key="k")
    nursery.start_soon(post, server.app, "/v1/chat/completions", body)
    await trio.sleep(1)
    during = encode_json(frame(server.state))
    await trio.sleep(10)
    after = encode_json(frame(server.state))

    assert b'"phase":"decoding"' in during
    assert b"walrus" not in during + after


async def test_the_largest_frame_is_below_its_bound() -> None:
    shown = frame(served(FakeRunner()).state)
    cache = Cache(
        LARGEST_COUNT, LARGEST_COUNT, ReuseSource.DISK, MissCause.NO_RESTORE_POINT, LARGEST_COUNT
    )
    count = (LARGEST_COUNT,) * 5
    row = RowFigures("a" * LONGEST_NAME, Priority.INTERACTIVE, Phase.PREFILLING, *count)
    agent = AgentFigures(
        "a" * 128,
        AgentState.LIVE,
        LARGEST_COUNT,
        LARGEST_SIZE,
        LARGEST_SIZE,
        LARGEST_COUNT,
        pinned=False,
        last_turn=cache,
    )
    largest = attrs.evolve(
        shown,
        models=shown.models * MOST_MODELS,
        rows=[row] * MOST_ROWS,
        agents=[agent] * MOST_AGENTS,
    )

    assert len(encode_json(largest)) + 50 < MOST_BYTES


async def test_of_many_agents_the_most_recent_ones_are_shown_and_all_are_counted(
    server: Served, autojump_clock: MockClock
) -> None:
    for number in range(MOST_AGENTS + 3):
        server.engine.memory.agents.create(f"agent-{number}")

    shown = frame(server.state)

    assert [agent.id for agent in shown.agents] == [
        f"agent-{number}" for number in reversed(range(3, MOST_AGENTS + 3))
    ]
    assert shown.agents_total == MOST_AGENTS + 3


async def test_a_long_name_is_shortened() -> None:
    server = served(FakeRunner())
    [model] = server.state.models
    server.state.registry.models.adopt(
        "org/tiny", attrs.evolve(model, card=attrs.evolve(model.card, id="m" * 200))
    )

    shown = frame(server.state)

    assert shown.models[0].id == "m" * (LONGEST_NAME - 1) + "…"


async def test_the_state_of_the_engine_is_shown(server: Served, autojump_clock: MockClock) -> None:
    await server.engine.drain(0)

    assert frame(server.state).models[0].state is EngineState.DRAINING


@pytest.mark.parametrize("count", [0, MOST_MODELS + 1])
async def test_any_number_of_models_may_be_open(count: int) -> None:
    class Several(AppState):
        @property
        def models(self) -> tuple[ServedModel, ...]:
            """The one model, so often."""
            return super().models * count

    shown = frame(served(FakeRunner(), kind=Several).state)

    assert (len(shown.models), shown.models_total) == (min(count, MOST_MODELS), count)
    assert (shown.rows, shown.agents) == ([], [])
