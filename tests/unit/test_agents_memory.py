"""What agents can rely on: turns cost what is new, prefixes are computed once, pressure loses no
work, and every miss has a cause.
"""

import json
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from semantic_trio.domain.errors import PoolExhaustedError, StepFailedError
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.families import published_spec
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.prompt import Breakpoint
from semantic_trio.domain.reuse import MissCause, Reuse, ReuseSource
from semantic_trio.domain.step import StepPlan
from semantic_trio.testing import ATTENTION_ONLY, FakeRunner
from tests.unit.conftest import StartEngine, prompt
from tests.unit.turns import RECURRENT, computed, reuse, said


async def test_a_turn_costs_what_is_new_in_it(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(end_after=20))
    history = await said(bench, prompt(100), 30)
    before = computed(bench.runner)

    second = await reuse(bench.submit((*history, 1, 2, 3)))

    assert second == Reuse(len(history), len(history) + 3, ReuseSource.RAM, None)
    assert computed(bench.runner) - before == 3


async def test_the_same_prompt_again_computes_its_last_token(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    await said(bench, prompt(50))

    assert (await reuse(bench.submit(prompt(50)))).tokens == 49


async def test_ten_prompts_with_one_beginning_compute_it_once(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_prompt_token=0.001), max_rows=4, chunk_tokens=64
    )
    shared = prompt(300)

    generations = [bench.submit((*shared, 200 + i, 1, 2)) for i in range(10)]
    reused = [(await reuse(generation)).tokens for generation in generations]

    assert computed(bench.runner) == 300 + 10 * 3
    assert reused == [0] + [300] * 9


async def test_a_follower_goes_on_where_a_cancelled_leader_was(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_prompt_token=0.001), chunk_tokens=64)
    leader, follower = bench.submit(prompt(600)), bench.submit((*prompt(600), 7))

    await trio.sleep(0.3)
    leader.close()
    result = await follower.result()

    assert result.finished.reuse.tokens > 150
    assert computed(bench.runner) <= 601 + 64, "what the leader had read is not read again"


async def test_a_follower_survives_the_crash_of_its_leader(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    def crash_once(plan: StepPlan) -> None:
        if plan.prefill and plan.prefill[0].context > 300 and not crashed:
            crashed.append(True)
            raise RuntimeError("once")

    crashed: list[bool] = []
    bench = await start_engine(
        FakeRunner(seconds_per_prompt_token=0.001, before_step=crash_once), chunk_tokens=64
    )
    leader, follower = bench.submit(prompt(600)), bench.submit((*prompt(600), 7))

    with pytest.raises(StepFailedError):
        await leader.result()
    assert (await reuse(follower)).tokens >= 128, "published blocks outlive the crash"


async def test_a_leader_reads_with_the_weight_of_its_followers(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_prompt_token=0.001), max_rows=2, chunk_tokens=60
    )
    shared = prompt(400, salt=100)
    bench.submit(prompt(1200))
    for i in range(3):
        bench.submit((*shared, i))
    await trio.sleep(1)

    sizes = {
        chunk.row: len(chunk.tokens) for plan in bench.runner.plans[1:5] for chunk in plan.prefill
    }

    assert sizes == {0: 15, 1: 45}


async def test_the_youngest_gives_way_and_nobodys_answer_changes(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    roomy = await start_engine()
    alone = [await roomy.submit(prompt(100, salt=i), 80).result() for i in range(3)]
    tight = await start_engine(budget=8 * 16 * 33)

    together = [tight.submit(prompt(100, salt=i), 80) for i in range(3)]
    results = [await generation.result() for generation in together]

    assert tight.engine.scheduler.preemptions > 0
    assert [(r.tokens, r.logprobs) for r in results] == [(r.tokens, r.logprobs) for r in alone]
    ends = [generation.stamps[-1] for generation in together]
    assert ends[0] <= ends[2], "the eldest was not the one who gave way"


async def test_what_can_never_fit_is_refused_with_its_numbers(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(budget=8 * 16 * 10)

    with pytest.raises(PoolExhaustedError) as refused:
        bench.submit(prompt(200))
    assert refused.value.wanted > refused.value.total == 8 * 16 * 10


async def test_an_answer_ends_where_the_memory_does(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(budget=8 * 16 * 10)

    result = await bench.submit(prompt(100), 1000).result()

    assert result.finished.reason.value == "context_full"
    assert 100 + len(result.tokens) == bench.engine.memory.longest_row


async def test_what_nobody_uses_is_given_up_and_the_miss_says_so(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(budget=8 * 16 * 30)
    history = await said(bench, prompt(200), agent="old")
    for salt in range(1, 5):
        await said(bench, prompt(200, salt=salt))

    turn = await reuse(bench.submit((*history, 1), agent="old"))

    assert turn.cause is MissCause.EVICTED
    assert turn.lost_tokens == len(history) - 1 - turn.tokens
    assert bench.engine.memory.store.evictions > 0


@pytest.mark.parametrize("spec", [ATTENTION_ONLY, RECURRENT], ids=["attention", "recurrent"])
async def test_what_is_before_a_breakpoint_goes_last(
    start_engine: StartEngine, autojump_clock: MockClock, spec: ModelCacheSpec
) -> None:
    bench = await start_engine(FakeRunner(spec=spec), budget=8 * 16 * 40)
    points = (Breakpoint(100, Rank.MARKED), Breakpoint(150, Rank.LONG))
    for salt, breakpoints in ((1, points), (2, points[:1]), (3, ())):
        await said(bench, prompt(200, salt=salt), breakpoints=breakpoints)
    for salt in range(4, 7):
        await said(bench, prompt(120, salt=salt))

    first, second, third = [
        (await reuse(bench.submit(prompt(200, salt=salt)))).tokens for salt in (1, 2, 3)
    ]

    assert (first, third) == (150 if spec is RECURRENT else 160, 0)
    assert second in (100, 112)


async def test_pages_that_rows_share_are_counted_once(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(spec=attrs.evolve(ATTENTION_ONLY, is_paged=True), seconds_per_step=0.1)
    )
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


async def test_pinned_memory_stays_and_pins_have_a_bound(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
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


async def test_a_row_that_outgrows_what_pins_leave_is_refused_and_its_work_kept(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
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


async def test_a_beginning_that_leaves_no_room_for_the_rest_is_given_up(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(budget=8 * 16 * 10)
    memory = bench.engine.memory
    await said(bench, prompt(28), 2)

    turn = await reuse(
        bench.submit(prompt(20) + prompt(memory.longest_row - 21, salt=3), 1, agent="other")
    )

    assert turn.tokens == 0
    memory.audit()


async def test_a_full_house_leaves_who_waits_for_nobody_waiting(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(max_rows=1)

    generations = [bench.submit(prompt(30, salt=salt), 20) for salt in range(4)]
    waiting = [await one.result() for one in generations]
    for generation in generations:
        generation.close()

    assert [len(result.tokens) for result in waiting] == [20] * 4


async def test_who_is_cancelled_before_reading_anything_leaves_nothing(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), max_rows=2, chunk_tokens=16)
    others = [bench.submit(prompt(100, salt=salt), 1) for salt in range(2)]
    await trio.sleep(0.5)

    for other in others:
        other.close()
    await trio.sleep(10)

    assert bench.runner.rows == {}
    assert bench.engine.discrepancies == 0
    assert await bench.runner.inventory() == bench.engine.memory.expected()


async def test_turns_of_one_agent_run_in_order_and_delay_nobody_else(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=0.1))
    first = bench.submit(prompt(20), 10, agent="a", is_ordered=True)
    second = bench.submit(prompt(30, salt=1), 10, agent="a", is_ordered=True)
    other = bench.submit(prompt(25, salt=2), 10, agent="b", is_ordered=True)

    for generation in (first, second, other):
        await generation.result()

    assert second.stamps[0] > first.stamps[-1]
    assert other.stamps[0] == first.stamps[0]


async def test_recurrent_layers_begin_again_at_the_heads_end(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(spec=RECURRENT))
    await said(bench, (*prompt(70), 1, 2, 3), boundaries=(70,))

    shared = await reuse(bench.submit((*prompt(70), 9, 8), boundaries=(70,)))
    apart = await reuse(bench.submit((*prompt(50), 9, 8)))

    assert shared.tokens == 70
    assert (apart.tokens, apart.cause) == (0, MissCause.NEW)


async def test_recurrent_layers_go_on_where_a_turn_ended(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(spec=RECURRENT, end_after=8))
    history = await said(bench, prompt(40), 30, agent="a")

    assert (await reuse(bench.submit((*history, 1, 2), agent="a"))).tokens >= len(history) - 1


async def test_a_known_history_without_a_place_to_begin_is_told(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(spec=RECURRENT))
    history = await said(bench, prompt(40), agent="a")

    turn = await reuse(bench.submit((*history[:30], 9), agent="a"))

    assert turn.cause is MissCause.NO_RESTORE_POINT


async def test_followers_of_recurrent_models_wait_for_a_place_to_begin(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(spec=RECURRENT, seconds_per_prompt_token=0.001), chunk_tokens=64
    )
    generations = [bench.submit((*prompt(300), 200 + i, 1)) for i in range(5)]

    reused = [(await reuse(generation)).tokens for generation in generations]

    assert reused == [0] + [300] * 4


async def test_reading_only_draws_nothing_and_is_remembered(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()

    warm = await bench.submit(prompt(100), 0, agent="a").result()

    assert (warm.tokens, warm.finished.completion_tokens) == ((), 0)
    assert (await reuse(bench.submit((*prompt(100), 1), agent="a"))).tokens == 100


async def test_an_idle_engine_finds_what_the_device_has_lost(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    history = await said(bench, prompt(100))
    await trio.sleep(1)
    bench.runner.blocks.pop(next(iter(bench.runner.blocks)))

    await said(bench, prompt(10, salt=5))
    await trio.sleep(1)

    assert bench.engine.discrepancies == 1
    bench.engine.memory.audit()
    assert (await bench.submit((*history, 1)).result()).tokens


async def test_four_agents_with_one_head_begin_at_its_end_where_three_snapshots_fit(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    """A snapshot of Gemma 3 12B takes 320 MiB, and what long prompts set on their way takes the
    place of no head.
    """
    config = json.loads((Path(__file__).parent / "configs" / "gemma-3-12b.json").read_text())
    spec = published_spec(config, "gemma")
    assert spec is not None
    bench = await start_engine(FakeRunner(spec=spec), budget=4 * 2**30, context_length=16_384)
    head = prompt(2000)

    turns = [
        await reuse(bench.submit((*head, *prompt(5000, salt=50 + agent)), 3, boundaries=(2000,)))
        for agent in range(4)
    ]

    assert [turn.tokens for turn in turns] == [0, 2000, 2000, 2000]
    assert len(bench.engine.memory.expected().snapshots) == 3


async def test_a_preempted_row_of_a_recurrent_model_goes_on_where_it_was_in_a_full_house(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(spec=RECURRENT), budget=2 * (8 * 16 * 14 + 64))

    for generation in [bench.submit(prompt(100, salt=100 * i), 100) for i in range(2)]:
        await generation.result()

    assert bench.engine.scheduler.preemptions > 0
    assert computed(bench.runner) < 200 + 16 * bench.engine.scheduler.preemptions, (
        "what was read is not read again"
    )


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("spec", [ATTENTION_ONLY, RECURRENT], ids=["attention", "recurrent"])
async def test_ten_agents_with_fifty_requests_each_lose_nothing(
    start_engine: StartEngine, autojump_clock: MockClock, spec: ModelCacheSpec
) -> None:
    bench = await start_engine(FakeRunner(spec=spec), budget=8 * 16 * 400, queue_limit=1000)

    generations = [
        bench.submit(prompt(40 + i % 7, salt=agent), 5, agent=f"agent{agent}")
        for i in range(50)
        for agent in range(10)
    ]
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
