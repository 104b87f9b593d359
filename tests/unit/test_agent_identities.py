"""Agents: who a prompt is taken for, and what forks, deletions, pins and full registers leave to
whom.
"""

import pytest
import trio
from trio.testing import MockClock

from semantic_trio.domain.conversation import ThinkingChoice
from semantic_trio.domain.errors import AgentExistsError, InvalidRequestError, PoolExhaustedError
from semantic_trio.domain.reuse import MissCause
from semantic_trio.testing import FakeRunner
from tests.unit.conftest import StartEngine, prompt
from tests.unit.turns import reuse, said


async def test_a_fork_keeps_everything_when_its_parent_goes(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    memory = bench.engine.memory
    history = await said(bench, prompt(100), agent="parent")
    memory.fork(memory.agents.get("parent"), "child")
    await said(bench, (*history, 9), agent="parent")
    memory.delete(memory.agents.get("parent"))
    bench.engine.nudge()

    turn = await reuse(bench.submit((*history, 1), agent="child"))

    assert (turn.tokens, turn.cause) == (len(history) - 1, None)
    memory.audit()


async def test_a_deleted_agent_leaves_nothing_that_was_its_own(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=0.01))
    memory = bench.engine.memory
    await said(bench, prompt(100), agent="a")
    await said(bench, (*prompt(64), *prompt(40, salt=7)), agent="b")
    running = bench.submit((*prompt(100), 5, 6), 500, agent="a")
    await trio.sleep(1)
    queued = bench.submit((*prompt(100), 7), agent="a")

    memory.delete(memory.agents.get("a"))
    await running.result()
    await queued.result()
    bench.engine.nudge()
    await trio.sleep(1)

    assert all(
        {owner.id for owner in block.owners} == {"b"} for block in memory.store.tree.blocks()
    )
    assert set(bench.runner.blocks) == memory.expected().blocks


async def test_who_takes_a_deleted_agents_id_gets_nothing_of_its_turns(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), max_rows=1)
    agents = bench.engine.memory.agents
    busy, waiting = (
        bench.submit(prompt(20), 5),
        bench.submit(prompt(40, salt=3), 5, agent="id", is_ordered=True),
    )
    await trio.sleep(1.5)

    bench.engine.memory.delete(agents.get("id"))
    heir = bench.engine.memory.create("id")
    for generation in (busy, waiting):
        await generation.result()

    assert (heir.turns, heir.history, heir.held) == (0, b"", [])
    assert not any(heir in block.owners for block in bench.engine.memory.store.tree.blocks())


async def test_a_pin_keeps_only_what_the_agent_has_read(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    memory = bench.engine.memory
    await said(bench, prompt(10), 1, agent="cold")
    memory.release(memory.agents.get("cold"))
    await said(bench, (*prompt(8), *prompt(100, salt=9)), agent="other")

    memory.pin(memory.agents.get("cold"))

    assert memory.pins.bytes == 0
    memory.delete(memory.agents.get("other"))
    bench.engine.nudge()
    await trio.sleep(1)
    assert bench.runner.blocks == {}


async def test_a_fork_has_nothing_of_the_turn_that_runs(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=0.1))
    memory = bench.engine.memory
    history = await said(bench, prompt(40), 1, agent="parent")
    turn = bench.submit((*history, *prompt(300, salt=5)), 50, agent="parent")
    await trio.sleep(2)

    fork = memory.fork(memory.agents.get("parent"), "fork")
    await turn.result()

    assert fork.tokens == 40
    assert max(block.stop for block in fork.held) == 48, (
        "the block its history ends in, and none after it"
    )


async def test_a_full_register_costs_nobody_the_cache(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    memory = bench.engine.memory
    memory.agents.limit = 1
    kept = memory.create("kept")
    with pytest.raises(InvalidRequestError, match="delete one"):
        memory.create("another")

    await said(bench, prompt(100), agent="minted")
    again = await reuse(bench.submit(prompt(100), 1, agent="minted"))
    await said(bench, prompt(100), 1, agent="kept")

    assert again.tokens == 99
    assert all(block.owners == {kept} for block in kept.held), "who is in no register owns nothing"


async def test_whoever_has_read_the_beginning_is_taken_for_the_speaker(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    one = await said(bench, prompt(70))
    await said(bench, prompt(70, salt=3))
    await said(bench, (*one, 1, 2))
    await said(bench, (*prompt(40), 9))

    turns = sorted(agent.turns for agent in bench.engine.memory.agents)

    assert turns == [1, 1, 2]


async def test_a_diverged_turn_shows_both_sides(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    history = await said(bench, prompt(100), agent="a")
    changed = (*history[:60], 249, *history[61:])

    await said(bench, changed, agent="a")
    turn = bench.engine.memory.agents.get("a").last_turn

    assert turn is not None
    assert (turn.left_at, turn.reuse.cause, turn.reuse.tokens) == (60, MissCause.DIVERGED, 60)
    assert turn.stored[60 - turn.shown_from] == history[60]
    assert turn.prompt[60 - turn.shown_from] == 249


ON, OFF = (True, None, None), (False, None, None)


@pytest.mark.parametrize(
    ("before", "now", "cause"),
    [
        (ON, OFF, MissCause.THINKING_CHANGED),
        ((True, "low", None), (True, "high", None), MissCause.THINKING_CHANGED),
        ((True, None, 100), ON, MissCause.THINKING_CHANGED),
        (ON, ON, MissCause.DIVERGED),
        (None, ON, MissCause.DIVERGED),
        (ON, None, MissCause.DIVERGED),
    ],
)
async def test_a_diverged_turn_says_that_the_choice_of_thinking_has_changed(
    before: ThinkingChoice | None,
    now: ThinkingChoice | None,
    cause: MissCause,
    start_engine: StartEngine,
    autojump_clock: MockClock,
) -> None:
    bench = await start_engine()
    history = await said(bench, prompt(100), agent="a", thinking=before)
    fork = bench.engine.memory.fork(bench.engine.memory.agents.get("a"), "fork")
    changed = (*history[:60], 249, *history[61:])

    for agent in ("a", fork.id):
        assert (await reuse(bench.submit(changed, agent=agent, thinking=now))).cause is cause
        assert (await reuse(bench.submit(changed, agent=agent, thinking=now))).cause is None, "once"


async def test_another_choice_of_thinking_that_is_no_part_of_what_was_read_costs_nothing(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    history = await said(bench, prompt(100), agent="a", thinking=ON)

    assert (await reuse(bench.submit((*history, 1), agent="a", thinking=OFF))).cause is None


async def test_named_agents_are_made_once_and_bounded(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    agents = bench.engine.memory.agents
    agents.limit = 2
    agents.create("a")
    with pytest.raises(AgentExistsError):
        agents.create("a")
    with pytest.raises(InvalidRequestError):
        agents.create("../a")
    agents.create("b")

    with pytest.raises(InvalidRequestError, match="delete one"):
        agents.create("c")
    assert (await bench.submit(prompt(5)).result()).tokens, "who is nobody is served all the same"
    assert (await bench.submit(prompt(5), agent="c", is_ordered=True).result()).tokens, (
        "and so is who need not be kept"
    )


async def test_ids_that_clients_mint_for_each_conversation_make_room_for_others(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    bench.engine.memory.agents.limit = 3

    for number in range(10):
        await said(
            bench, prompt(20, salt=number), agent=f"minted{number}", is_ordered=number % 2 == 0
        )

    assert len(bench.engine.memory.agents) == 3


async def test_an_agent_whose_turn_waits_makes_no_room_for_others(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), max_rows=1)
    agents = bench.engine.memory.agents
    agents.limit = 2
    busy, queued = (
        bench.submit(prompt(20), 5, agent="busy"),
        bench.submit(prompt(20, salt=1), 1, agent="queued"),
    )

    other = bench.submit(prompt(20, salt=2), 1, agent="other")
    await trio.sleep(0.5)

    assert {agent.id for agent in agents} == {"busy", "queued"}
    for generation in (busy, queued, other):
        await generation.result()
    assert agents.get("queued").turns == 1
    await said(bench, prompt(20, salt=3), agent="next")
    assert {agent.id for agent in agents} == {"queued", "next"}


async def test_a_request_is_taken_for_one_agent_however_long_it_waits_for_room(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), budget=8 * 16 * 14)

    for generation in [bench.submit(prompt(100, salt=salt), 40) for salt in range(2)]:
        await generation.result()

    assert len(bench.engine.memory.agents) == 2
    assert [agent.turns for agent in bench.engine.memory.agents] == [1, 1]


async def test_a_request_that_is_refused_or_leaves_early_leaves_no_agent(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), budget=8 * 16 * 40, chunk_tokens=64)
    memory = bench.engine.memory
    await said(bench, prompt(200), agent="pinned")
    memory.pin(memory.agents.get("pinned"))

    with pytest.raises(PoolExhaustedError):
        await bench.submit(prompt(500, salt=17), 5).result()
    left = bench.submit(prompt(300, salt=30), 5)
    await trio.sleep(1.5)
    left.close()
    await trio.sleep(5)

    assert [agent.id for agent in memory.agents] == ["pinned"]


async def test_nobody_is_recognised_by_a_prompt_that_was_not_read_whole(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    """The part that was read may be what all agents begin with."""
    bench = await start_engine(FakeRunner(seconds_per_prompt_token=0.01), chunk_tokens=64)
    first = await said(bench, prompt(40, salt=50), 1)
    again, early = bench.submit((*first, *prompt(200, salt=99)), 5), bench.submit(prompt(300), 5)
    await trio.sleep(1)
    for generation in (again, early):
        generation.close()
    await trio.sleep(1)

    await said(bench, (*prompt(200), 1, 2))
    await said(bench, (*first, 1, 2))

    assert [agent.turns for agent in bench.engine.memory.agents] == [1, 2], (
        "who was recognised before still is"
    )


async def test_what_is_gone_is_no_agents_any_more(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    memory = bench.engine.memory
    await said(bench, prompt(100), agent="a")
    memory.fork(memory.agents.get("a"), "b")

    memory.store.evict_all()

    assert [agent.blocks for agent in memory.agents] == [{}, {}]
