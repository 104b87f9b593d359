"""Requests that are not remembered leave nothing, and take no place and no memory of others."""

import pytest
from trio.testing import MockClock

from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.testing import ATTENTION_ONLY, FakeRunner
from tests.unit.conftest import StartEngine, prompt
from tests.unit.turns import RECURRENT, reuse, said


async def test_a_request_that_is_not_remembered_takes_no_place_among_agents(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    """The server warms up with one: a place would be another agent's, and where all agents are kept
    there is none.
    """
    bench = await start_engine()
    bench.engine.memory.agents.limit = 1
    bench.engine.memory.create("ada")

    result = await bench.submit(prompt(100), is_remembered=False).result()

    assert len(result.tokens) == 10
    assert [agent.id for agent in bench.engine.memory.agents] == ["ada"]


async def test_a_request_that_is_not_remembered_evicts_no_agent(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    bench.engine.memory.agents.limit = 1
    await said(bench, prompt(50))
    [before] = bench.engine.memory.agents

    await bench.submit(prompt(100, salt=9), is_remembered=False).result()

    assert list(bench.engine.memory.agents) == [before]


@pytest.mark.parametrize("spec", [ATTENTION_ONLY, RECURRENT], ids=["attention", "recurrent"])
async def test_a_request_that_is_not_remembered_leaves_nothing(
    spec: ModelCacheSpec, start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(spec=spec))

    await bench.submit(prompt(100), is_remembered=False, boundaries=(20,)).result()
    await bench.engine.settle()

    assert bench.engine.memory.store.pool.used == 0
    assert bench.engine.discrepancies == 0
    assert (await reuse(bench.submit(prompt(100)))).tokens == 0


async def test_a_request_that_is_not_remembered_leaves_what_others_have_read(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    await said(bench, prompt(100))

    await bench.submit(prompt(100), is_remembered=False).result()

    assert (await reuse(bench.submit(prompt(100)))).tokens == 99
    bench.engine.memory.audit()
