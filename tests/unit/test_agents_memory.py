"""What agents can rely on: turns cost what is new, prefixes are computed once, pressure loses no work, and every miss has a cause."""

import json
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from semantic_trio.application.generation import Generation
from semantic_trio.domain.conversation import Breakpoint, ThinkingChoice
from semantic_trio.domain.errors import AgentExistsError, InvalidRequestError, PoolExhaustedError, StepFailedError
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.families import published_spec
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.reuse import MissCause, Reuse, Source
from semantic_trio.domain.step import StepPlan
from semantic_trio.testing import ATTENTION_ONLY, FakeRunner
from tests.unit.conftest import Bench, StartEngine, prompt

RECURRENT = ModelCacheSpec(
    "recurrent",
    (LayerGroup(LayerKind.GLOBAL, layers=1, token_bytes=8), LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=64)),
    block_tokens=16,
    row_slack_tokens=32,
)


def computed(runner: FakeRunner) -> int:
    """Prompt tokens read since the runner began."""
    return sum(plan.prompt_tokens for plan in runner.plans)


async def reuse(generation: Generation) -> Reuse:
    return (await generation.result()).finished.reuse


async def said(bench: Bench, tokens: tuple[int, ...], count: int = 10, **more: object) -> tuple[int, ...]:
    """A turn, and the whole history after it."""
    return tokens + (await bench.submit(tokens, count, **more).result()).tokens


async def test_a_turn_costs_what_is_new_in_it(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(end_after=20))
    history = await said(bench, prompt(100), 30)
    before = computed(bench.runner)

    second = await reuse(bench.submit((*history, 1, 2, 3)))

    assert second == Reuse(len(history), len(history) + 3, Source.RAM, None)
    assert computed(bench.runner) - before == 3


async def test_the_same_prompt_again_computes_its_last_token(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine()
    await said(bench, prompt(50))

    assert (await reuse(bench.submit(prompt(50)))).tokens == 49


async def test_ten_prompts_with_one_beginning_compute_it_once(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(seconds_per_prompt_token=0.001), max_rows=4, chunk_tokens=64)
    shared = prompt(300)

    generations = [bench.submit((*shared, 200 + i, 1, 2)) for i in range(10)]
    reused = [(await reuse(generation)).tokens for generation in generations]

    assert computed(bench.runner) == 300 + 10 * 3
    assert reused == [0] + [300] * 9


async def test_a_follower_goes_on_where_a_cancelled_leader_was(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(seconds_per_prompt_token=0.001), chunk_tokens=64)
    leader, follower = bench.submit(prompt(600)), bench.submit((*prompt(600), 7))

    await trio.sleep(0.3)
    leader.close()
    result = await follower.result()

    assert result.finished.reuse.tokens > 150
    assert computed(bench.runner) <= 601 + 64, "what the leader had read is not read again"


async def test_a_follower_survives_the_crash_of_its_leader(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    def crash_once(plan: StepPlan) -> None:
        if plan.prefill and plan.prefill[0].context > 300 and not crashed:
            crashed.append(True)
            raise RuntimeError("once")

    crashed: list[bool] = []
    bench = await start_engine(FakeRunner(seconds_per_prompt_token=0.001, before_step=crash_once), chunk_tokens=64)
    leader, follower = bench.submit(prompt(600)), bench.submit((*prompt(600), 7))

    with pytest.raises(StepFailedError):
        await leader.result()
    assert (await reuse(follower)).tokens >= 128, "published blocks outlive the crash"


async def test_a_leader_reads_with_the_weight_of_its_followers(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(seconds_per_prompt_token=0.001), max_rows=2, chunk_tokens=60)
    shared = prompt(400, salt=100)
    bench.submit(prompt(1200))
    for i in range(3):
        bench.submit((*shared, i))
    await trio.sleep(1)

    sizes = {chunk.row: len(chunk.tokens) for plan in bench.runner.plans[1:5] for chunk in plan.prefill}

    assert sizes == {0: 15, 1: 45}


async def test_the_youngest_gives_way_and_nobodys_answer_changes(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    roomy = await start_engine()
    alone = [await roomy.submit(prompt(100, salt=i), 80).result() for i in range(3)]
    tight = await start_engine(budget=8 * 16 * 33)

    together = [tight.submit(prompt(100, salt=i), 80) for i in range(3)]
    results = [await generation.result() for generation in together]

    assert tight.engine.scheduler.preemptions > 0
    assert [(r.tokens, r.logprobs) for r in results] == [(r.tokens, r.logprobs) for r in alone]
    ends = [generation.stamps[-1] for generation in together]
    assert ends[0] <= ends[2], "the eldest was not the one who gave way"


async def test_what_can_never_fit_is_refused_with_its_numbers(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(budget=8 * 16 * 10)

    with pytest.raises(PoolExhaustedError) as refused:
        bench.submit(prompt(200))
    assert refused.value.wanted > refused.value.total == 8 * 16 * 10


async def test_an_answer_ends_where_the_memory_does(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(budget=8 * 16 * 10)

    result = await bench.submit(prompt(100), 1000).result()

    assert result.finished.reason.value == "context_full"
    assert 100 + len(result.tokens) == bench.engine.memory.longest_row


async def test_what_nobody_uses_is_given_up_and_the_miss_says_so(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(budget=8 * 16 * 30)
    history = await said(bench, prompt(200), agent="old")
    for salt in range(1, 5):
        await said(bench, prompt(200, salt=salt))

    turn = await reuse(bench.submit((*history, 1), agent="old"))

    assert turn.cause is MissCause.EVICTED
    assert turn.lost_tokens == len(history) - 1 - turn.tokens
    assert bench.engine.memory.store.evictions > 0


@pytest.mark.parametrize("spec", [ATTENTION_ONLY, RECURRENT], ids=["attention", "recurrent"])
async def test_what_is_before_a_breakpoint_goes_last(start_engine: StartEngine, autojump_clock: MockClock, spec: ModelCacheSpec) -> None:
    bench = await start_engine(FakeRunner(spec=spec), budget=8 * 16 * 40)
    points = (Breakpoint(100, Rank.MARKED), Breakpoint(150, Rank.LONG))
    for salt, breakpoints in ((1, points), (2, points[:1]), (3, ())):
        await said(bench, prompt(200, salt=salt), breakpoints=breakpoints)
    for salt in range(4, 7):
        await said(bench, prompt(120, salt=salt))

    first, second, third = [(await reuse(bench.submit(prompt(200, salt=salt)))).tokens for salt in (1, 2, 3)]

    assert (first, third) == (150 if spec is RECURRENT else 160, 0)
    assert second in (100, 112)


async def test_pages_that_rows_share_are_counted_once(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(spec=attrs.evolve(ATTENTION_ONLY, is_paged=True), seconds_per_step=0.1))
    pool = bench.engine.memory.store.pool
    bench.submit(prompt(160), 100)
    await trio.sleep(1)
    alone = pool.used
    bench.submit((*prompt(160), 7), 100)
    await trio.sleep(1)

    assert bench.engine.scheduler.running == 2
    assert alone <= 8 * 16 * 17, "the pages of 260 positions, published or not"
    assert alone < pool.used < 1.5 * alone
    bench.engine.memory.audit()


async def test_pinned_memory_stays_and_pins_have_a_bound(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(budget=8 * 16 * 40)
    memory = bench.engine.memory
    history = await said(bench, prompt(200), agent="pinned")
    memory.pin(memory.agents.get("pinned"))
    await said(bench, prompt(200, salt=1), agent="greedy")
    with pytest.raises(PoolExhaustedError):
        memory.pin(memory.agents.get("greedy"))
    for salt in range(2, 6):
        await said(bench, prompt(200, salt=salt))

    assert (await reuse(bench.submit((*history, 1), agent="pinned"))).tokens >= len(history) - 1


async def test_a_row_that_outgrows_what_pins_leave_is_refused_and_its_work_kept(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(budget=8 * 16 * 40)
    memory = bench.engine.memory
    await said(bench, prompt(200), agent="pinned")
    memory.pin(memory.agents.get("pinned"))

    generation = bench.submit(prompt(300, salt=9), 1000)
    with pytest.raises(PoolExhaustedError):
        await generation.result()
    again = await reuse(bench.submit(prompt(300, salt=9), 5))
    with pytest.raises(PoolExhaustedError):
        await bench.submit(prompt(500, salt=17), 5).result()

    assert again.tokens == 299
    memory.audit()


async def test_a_beginning_that_leaves_no_room_for_the_rest_is_given_up(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(budget=8 * 16 * 10)
    memory = bench.engine.memory
    await said(bench, prompt(28), 2)

    turn = await reuse(bench.submit(prompt(20) + prompt(memory.longest_row - 21, salt=3), 1, agent="other"))

    assert turn.tokens == 0
    memory.audit()


async def test_a_full_house_leaves_who_waits_for_nobody_waiting(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(max_rows=1)

    generations = [bench.submit(prompt(30, salt=salt), 20) for salt in range(4)]
    waiting = [await one.result() for one in generations]
    for generation in generations:
        generation.close()

    assert [len(result.tokens) for result in waiting] == [20] * 4


async def test_who_is_cancelled_before_reading_anything_leaves_nothing(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), max_rows=2, chunk_tokens=16)
    others = [bench.submit(prompt(100, salt=salt), 1) for salt in range(2)]
    await trio.sleep(0.5)

    for other in others:
        other.close()
    await trio.sleep(10)

    assert bench.runner.rows == {}
    assert bench.engine.discrepancies == 0
    assert await bench.runner.inventory() == bench.engine.memory.expected()


async def test_a_fork_keeps_everything_when_its_parent_goes(start_engine: StartEngine, autojump_clock: MockClock) -> None:
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


async def test_a_deleted_agent_leaves_nothing_that_was_its_own(start_engine: StartEngine, autojump_clock: MockClock) -> None:
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

    assert all({owner.id for owner in block.owners} == {"b"} for block in memory.store.tree.blocks())
    assert set(bench.runner.blocks) == memory.expected().blocks


async def test_who_takes_a_deleted_agents_id_gets_nothing_of_its_turns(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), max_rows=1)
    agents = bench.engine.memory.agents
    busy, waiting = bench.submit(prompt(20), 5), bench.submit(prompt(40, salt=3), 5, agent="id", is_ordered=True)
    await trio.sleep(1.5)

    bench.engine.memory.delete(agents.get("id"))
    heir = bench.engine.memory.create("id")
    for generation in (busy, waiting):
        await generation.result()

    assert (heir.turns, heir.history, heir.held) == (0, b"", [])
    assert not any(heir in block.owners for block in bench.engine.memory.store.tree.blocks())


async def test_a_pin_keeps_only_what_the_agent_has_read(start_engine: StartEngine, autojump_clock: MockClock) -> None:
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


async def test_a_fork_has_nothing_of_the_turn_that_runs(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=0.1))
    memory = bench.engine.memory
    history = await said(bench, prompt(40), 1, agent="parent")
    turn = bench.submit((*history, *prompt(300, salt=5)), 50, agent="parent")
    await trio.sleep(2)

    fork = memory.fork(memory.agents.get("parent"), "fork")
    await turn.result()

    assert fork.tokens == 40
    assert max(block.stop for block in fork.held) == 48, "the block its history ends in, and none after it"


async def test_a_full_register_costs_nobody_the_cache(start_engine: StartEngine, autojump_clock: MockClock) -> None:
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


async def test_turns_of_one_agent_run_in_order_and_delay_nobody_else(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=0.1))
    first = bench.submit(prompt(20), 10, agent="a", is_ordered=True)
    second = bench.submit(prompt(30, salt=1), 10, agent="a", is_ordered=True)
    other = bench.submit(prompt(25, salt=2), 10, agent="b", is_ordered=True)

    for generation in (first, second, other):
        await generation.result()

    assert second.stamps[0] > first.stamps[-1]
    assert other.stamps[0] == first.stamps[0]


async def test_whoever_has_read_the_beginning_is_taken_for_the_speaker(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine()
    one = await said(bench, prompt(70))
    await said(bench, prompt(70, salt=3))
    await said(bench, (*one, 1, 2))
    await said(bench, (*prompt(40), 9))

    turns = sorted(agent.turns for agent in bench.engine.memory.agents)

    assert turns == [1, 1, 2]


async def test_a_diverged_turn_shows_both_sides(start_engine: StartEngine, autojump_clock: MockClock) -> None:
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
    before: ThinkingChoice | None, now: ThinkingChoice | None, cause: MissCause, start_engine: StartEngine, autojump_clock: MockClock
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


async def test_recurrent_layers_begin_again_at_the_heads_end(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(spec=RECURRENT))
    await said(bench, (*prompt(70), 1, 2, 3), boundaries=(70,))

    shared = await reuse(bench.submit((*prompt(70), 9, 8), boundaries=(70,)))
    apart = await reuse(bench.submit((*prompt(50), 9, 8)))

    assert shared.tokens == 70
    assert (apart.tokens, apart.cause) == (0, MissCause.NEW)


async def test_recurrent_layers_go_on_where_a_turn_ended(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(spec=RECURRENT, end_after=8))
    history = await said(bench, prompt(40), 30, agent="a")

    assert (await reuse(bench.submit((*history, 1, 2), agent="a"))).tokens >= len(history) - 1


async def test_a_known_history_without_a_place_to_begin_is_told(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(spec=RECURRENT))
    history = await said(bench, prompt(40), agent="a")

    turn = await reuse(bench.submit((*history[:30], 9), agent="a"))

    assert turn.cause is MissCause.NO_RESTORE_POINT


async def test_followers_of_recurrent_models_wait_for_a_place_to_begin(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(spec=RECURRENT, seconds_per_prompt_token=0.001), chunk_tokens=64)
    generations = [bench.submit((*prompt(300), 200 + i, 1)) for i in range(5)]

    reused = [(await reuse(generation)).tokens for generation in generations]

    assert reused == [0] + [300] * 4


async def test_reading_only_draws_nothing_and_is_remembered(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine()

    warm = await bench.submit(prompt(100), 0, agent="a").result()

    assert (warm.tokens, warm.finished.completion_tokens) == ((), 0)
    assert (await reuse(bench.submit((*prompt(100), 1), agent="a"))).tokens == 100


async def test_an_idle_engine_finds_what_the_device_has_lost(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine()
    history = await said(bench, prompt(100))
    await trio.sleep(1)
    bench.runner.blocks.pop(next(iter(bench.runner.blocks)))

    await said(bench, prompt(10, salt=5))
    await trio.sleep(1)

    assert bench.engine.discrepancies == 1
    bench.engine.memory.audit()
    assert (await bench.submit((*history, 1)).result()).tokens


async def test_named_agents_are_made_once_and_bounded(start_engine: StartEngine, autojump_clock: MockClock) -> None:
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
    assert (await bench.submit(prompt(5), agent="c", is_ordered=True).result()).tokens, "and so is who need not be kept"


async def test_ids_that_clients_mint_for_each_conversation_make_room_for_others(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine()
    bench.engine.memory.agents.limit = 3

    for number in range(10):
        await said(bench, prompt(20, salt=number), agent=f"minted{number}", is_ordered=number % 2 == 0)

    assert len(bench.engine.memory.agents) == 3


async def test_an_agent_whose_turn_waits_makes_no_room_for_others(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), max_rows=1)
    agents = bench.engine.memory.agents
    agents.limit = 2
    busy, queued = bench.submit(prompt(20), 5, agent="busy"), bench.submit(prompt(20, salt=1), 1, agent="queued")

    other = bench.submit(prompt(20, salt=2), 1, agent="other")
    await trio.sleep(0.5)

    assert {agent.id for agent in agents} == {"busy", "queued"}
    for generation in (busy, queued, other):
        await generation.result()
    assert agents.get("queued").turns == 1
    await said(bench, prompt(20, salt=3), agent="next")
    assert {agent.id for agent in agents} == {"queued", "next"}


async def test_a_request_is_taken_for_one_agent_however_long_it_waits_for_room(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), budget=8 * 16 * 14)

    for generation in [bench.submit(prompt(100, salt=salt), 40) for salt in range(2)]:
        await generation.result()

    assert len(bench.engine.memory.agents) == 2
    assert [agent.turns for agent in bench.engine.memory.agents] == [1, 1]


async def test_a_request_that_is_refused_or_leaves_early_leaves_no_agent(start_engine: StartEngine, autojump_clock: MockClock) -> None:
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


async def test_nobody_is_recognised_by_a_prompt_that_was_not_read_whole(start_engine: StartEngine, autojump_clock: MockClock) -> None:
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

    assert [agent.turns for agent in bench.engine.memory.agents] == [1, 2], "who was recognised before still is"


async def test_what_is_gone_is_no_agents_any_more(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine()
    memory = bench.engine.memory
    await said(bench, prompt(100), agent="a")
    memory.fork(memory.agents.get("a"), "b")

    memory.store.evict_all()

    assert [agent.blocks for agent in memory.agents] == [{}, {}]


async def test_four_agents_with_one_head_begin_at_its_end_where_three_snapshots_fit(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    """A snapshot of Gemma 3 12B takes 320 MiB, and what long prompts set on their way takes the place of no head."""
    config = json.loads((Path(__file__).parent / "configs" / "gemma-3-12b.json").read_text())
    spec = published_spec(config, "gemma")
    assert spec is not None
    bench = await start_engine(FakeRunner(spec=spec), budget=4 * 2**30, context_length=16_384)
    head = prompt(2000)

    turns = [await reuse(bench.submit((*head, *prompt(5000, salt=50 + agent)), 3, boundaries=(2000,))) for agent in range(4)]

    assert [turn.tokens for turn in turns] == [0, 2000, 2000, 2000]
    assert len(bench.engine.memory.expected().snapshots) == 3


async def test_a_preempted_row_of_a_recurrent_model_goes_on_where_it_was_in_a_full_house(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(spec=RECURRENT), budget=2 * (8 * 16 * 14 + 64))

    for generation in [bench.submit(prompt(100, salt=100 * i), 100) for i in range(2)]:
        await generation.result()

    assert bench.engine.scheduler.preemptions > 0
    assert computed(bench.runner) < 200 + 16 * bench.engine.scheduler.preemptions, "what was read is not read again"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("spec", [ATTENTION_ONLY, RECURRENT], ids=["attention", "recurrent"])
async def test_ten_agents_with_fifty_requests_each_lose_nothing(start_engine: StartEngine, autojump_clock: MockClock, spec: ModelCacheSpec) -> None:
    bench = await start_engine(FakeRunner(spec=spec), budget=8 * 16 * 400, queue_limit=1000)

    generations = [bench.submit(prompt(40 + i % 7, salt=agent), 5, agent=f"agent{agent}") for i in range(50) for agent in range(10)]
    for generation in generations:
        await generation.result()
    for agent in list(bench.engine.memory.agents):
        bench.engine.memory.delete(agent)
    bench.engine.memory.store.evict_all()
    bench.engine.nudge()
    await trio.sleep(1)

    assert bench.engine.memory.store.pool.used == 0
    assert (bench.runner.blocks, bench.runner.snapshots, bench.runner.rows) == ({}, {}, {})
    assert bench.engine.discrepancies == 0


# ------------------------------------------------------------------------------------------------------------- requests without memory


async def test_a_request_that_is_not_remembered_takes_no_place_among_agents(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    """The server warms up with one: a place would be another agent's, and where all agents are kept there is none."""
    bench = await start_engine()
    bench.engine.memory.agents.limit = 1
    bench.engine.memory.create("ada")

    result = await bench.submit(prompt(100), is_remembered=False).result()

    assert len(result.tokens) == 10
    assert [agent.id for agent in bench.engine.memory.agents] == ["ada"]


async def test_a_request_that_is_not_remembered_evicts_no_agent(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine()
    bench.engine.memory.agents.limit = 1
    await said(bench, prompt(50))
    [before] = bench.engine.memory.agents

    await bench.submit(prompt(100, salt=9), is_remembered=False).result()

    assert list(bench.engine.memory.agents) == [before]


@pytest.mark.parametrize("spec", [ATTENTION_ONLY, RECURRENT], ids=["attention", "recurrent"])
async def test_a_request_that_is_not_remembered_leaves_nothing(spec: ModelCacheSpec, start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine(FakeRunner(spec=spec))

    await bench.submit(prompt(100), is_remembered=False, boundaries=(20,)).result()
    await bench.engine.settle()

    assert bench.engine.memory.store.pool.used == 0
    assert bench.engine.discrepancies == 0
    assert (await reuse(bench.submit(prompt(100)))).tokens == 0


async def test_a_request_that_is_not_remembered_leaves_what_others_have_read(start_engine: StartEngine, autojump_clock: MockClock) -> None:
    bench = await start_engine()
    await said(bench, prompt(100))

    await bench.submit(prompt(100), is_remembered=False).result()

    assert (await reuse(bench.submit(prompt(100)))).tokens == 99
    bench.engine.memory.audit()
