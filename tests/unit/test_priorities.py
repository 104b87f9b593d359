"""Interactive requests come before background ones, and no background request starves."""

import itertools

import attrs
import pytest
import trio
from trio.testing import MockClock

from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.queue import Queue
from semantic_trio.domain.sequence import Sequence
from semantic_trio.testing import ByteCodec, FakeRunner
from tests.unit.conftest import StartEngine, prompt
from tests.unit.queued_requests import (
    BACKGROUND,
    PATIENT,
    first_token,
    rows_of_chunks,
    tokens_alone,
)


def sequence(priority: Priority = Priority.INTERACTIVE, agent: str | None = None) -> Sequence:
    request = GenerationRequest(
        "r", (1, 2, 3), 5, seed=1, agent=agent, is_ordered=agent is not None, priority=priority
    )
    return Sequence(request, 5, ByteCodec().decoder())


# -------------------------------------------------------------------------------------------- queue


def test_interactive_sequences_come_first_and_each_class_is_in_order() -> None:
    queue = Queue()
    waiting = [sequence(BACKGROUND), sequence(), sequence(BACKGROUND), sequence()]
    for one in waiting:
        queue.add(one)

    first_background, first, second_background, second = waiting
    assert list(queue) == [first, second, first_background, second_background]


def test_a_preempted_background_sequence_is_the_first_of_its_class() -> None:
    queue, waiting, other, preempted = (
        Queue(),
        sequence(),
        sequence(BACKGROUND),
        sequence(BACKGROUND),
    )
    queue.add(waiting)
    queue.add(other)

    queue.put_back(preempted)

    assert list(queue) == [waiting, preempted, other]


def test_an_interactive_turn_makes_the_earlier_turns_of_its_agent_interactive() -> None:
    """They have to end before it can begin."""
    queue, first, other, second = (
        Queue(),
        sequence(BACKGROUND, "a"),
        sequence(BACKGROUND, "b"),
        sequence(agent="a"),
    )
    for one in (first, other, second):
        queue.add(one)

    assert [one.is_background for one in (first, other, second)] == [False, True, False]


def test_a_background_turn_changes_nothing_for_the_turns_before_it() -> None:
    queue, first, second = Queue(), sequence(agent="a"), sequence(BACKGROUND, "a")
    queue.add(first)
    queue.add(second)

    assert [one.is_background for one in (first, second)] == [False, True]


def test_a_turn_that_is_hurried_hurries_the_turns_before_it_and_none_behind_it() -> None:
    queue = Queue()
    first, second, other, third = (sequence(BACKGROUND, agent) for agent in ("a", "a", "b", "a"))
    for one in (first, second, other, third):
        queue.add(one)

    queue.hurry(second)

    assert [one.is_background for one in (first, second, other, third)] == [
        False,
        False,
        True,
        True,
    ]


def test_a_sequence_without_an_order_is_hurried_alone() -> None:
    queue, turn, unordered = Queue(), sequence(BACKGROUND, "a"), sequence(BACKGROUND)
    unordered.request = attrs.evolve(unordered.request, agent="a")
    queue.add(turn)
    queue.add(unordered)

    queue.hurry(unordered)

    assert [turn.is_background, unordered.is_background] == [True, False]


# ------------------------------------------------------------------------------------------ prompts


async def test_a_background_prompt_stops_until_an_interactive_one_is_read(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    alone = await tokens_alone(start_engine, prompt(400), 5)
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, chunk_tokens=40
    )
    background = bench.submit(prompt(400), 5, priority=BACKGROUND)
    await trio.sleep(2.5)
    interactive = bench.submit(prompt(100, salt=7), 5)

    await interactive.result()
    answer = await background.result()

    reading = rows_of_chunks(bench.runner.plans)
    began = reading.index({1})
    assert reading[:began] == [{0}] * 3, "the step that was under way ends, and no other follows"
    assert reading[began : began + 3] == [{1}] * 3, "100 tokens in chunks of 40"
    assert all(rows == {0} for rows in reading[began + 3 :])
    assert answer.tokens == alone


async def test_a_background_prompt_is_read_in_small_chunks_even_alone(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    """An interactive request that comes waits for one step."""
    sizes = []
    for priority in (Priority.INTERACTIVE, BACKGROUND):
        bench = await start_engine(FakeRunner(seconds_per_prompt_token=0.005))
        await bench.submit(prompt(1000), 5, priority=priority).result()
        sizes.append(max(plan.prompt_tokens for plan in bench.runner.plans))

    assert sizes == [512, 50], "0.25 s of 5 ms each, and what the device takes"


@pytest.mark.parametrize(
    ("priority", "rows"),
    [
        pytest.param(Priority.INTERACTIVE, {0, 1}, id="goes on beside the other prompt"),
        pytest.param(BACKGROUND, {1}, id="stops until the other prompt is read"),
    ],
)
async def test_a_prompt_has_the_priority_of_the_requests_that_wait_for_it(
    priority: Priority, rows: set[int], start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, chunk_tokens=40
    )
    bench.submit(prompt(400), 5, priority=BACKGROUND)
    await trio.sleep(1.5)
    waiter = bench.submit((*prompt(400), 1), 5, priority=priority)
    bench.submit(prompt(200, salt=7), 5)
    await trio.sleep(4)

    assert rows_of_chunks(bench.runner.plans)[2:5] == [rows] * 3
    await waiter.result()


# --------------------------------------------------------------------------------------------- rows


async def test_a_full_batch_of_background_rows_gives_one_row_to_an_interactive_request(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    alone = [await tokens_alone(start_engine, prompt(50, salt=salt), 40) for salt in range(3)]
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, max_rows=3
    )
    background = [bench.submit(prompt(50, salt=salt), 40, priority=BACKGROUND) for salt in range(3)]
    await trio.sleep(10.5)

    waited = await first_token(bench.submit(prompt(50, salt=9), 5))

    assert waited <= 3, "the step under way, its own, and the look-ahead"
    assert bench.engine.scheduler.priority_preemptions == 1
    assert [(await generation.result()).tokens for generation in background] == alone
    assert bench.engine.scheduler.priority_preemptions == bench.engine.scheduler.preemptions == 1


async def test_the_youngest_background_row_gives_way_and_goes_on_where_it_was(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, max_rows=2
    )
    elder, younger = (
        bench.submit(prompt(64, salt=salt), 30, priority=BACKGROUND) for salt in range(2)
    )
    await trio.sleep(10.5)
    await bench.submit(prompt(20, salt=9), 5).result()
    before = len(younger.stamps)

    await elder.result()
    answer = await younger.result()

    gaps = [later - earlier for earlier, later in itertools.pairwise(younger.stamps)]
    assert (
        max(gaps)
        > 5
        > max(later - earlier for earlier, later in itertools.pairwise(elder.stamps))
        == 1
    )
    assert (before, len(answer.tokens)) == (gaps.index(max(gaps)) + 1, 30)
    again = [plan for plan in bench.runner.plans if any(start.drawn for start in plan.open)]
    assert sum(plan.prompt_tokens for plan in again) <= 2, "what was read is not read again"


async def test_interactive_rows_give_way_to_none(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, max_rows=1
    )
    first = bench.submit(prompt(20), 10)
    await trio.sleep(3)
    second, background = (
        bench.submit(prompt(20, 1), 10),
        bench.submit(prompt(20, 2), 10, priority=BACKGROUND),
    )

    await background.result()

    assert bench.engine.scheduler.preemptions == 0
    assert first.stamps[-1] < second.stamps[0] < second.stamps[-1] < background.stamps[0]


async def test_a_hurried_generation_is_served_in_its_place_among_interactive_ones(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, max_rows=1
    )
    bench.submit(prompt(20), 10)
    background = bench.submit(prompt(20, 1), 5, priority=BACKGROUND)
    await trio.sleep(3)
    interactive = bench.submit(prompt(20, 2), 5)

    bench.engine.hurry(background)
    await interactive.result()

    assert background.stamps[-1] < interactive.stamps[0]
    assert bench.engine.scheduler.preemptions == 0


async def test_a_hurried_row_gives_way_to_no_interactive_request(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, max_rows=1
    )
    background = bench.submit(prompt(20), 30, priority=BACKGROUND)
    await trio.sleep(5.5)
    bench.engine.hurry(background)
    interactive = bench.submit(prompt(20, 1), 5)

    await interactive.result()

    assert bench.engine.scheduler.preemptions == 0
    assert max(later - earlier for earlier, later in itertools.pairwise(background.stamps)) == 1


async def test_to_hurry_what_is_over_or_interactive_changes_nothing(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1))
    over = bench.submit(prompt(20), 5, priority=BACKGROUND)
    await over.result()
    interactive = bench.submit(prompt(20, 1), 5)
    for generation in (over, interactive):
        bench.engine.hurry(generation)

    assert len((await interactive.result()).tokens) == 5
    assert bench.engine.open_generations == 0


async def test_one_row_a_step_gives_way(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    """A row that opens may begin with blocks of another row, which has to be there in that step."""
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, max_rows=3
    )
    for salt in range(3):
        bench.submit(prompt(50, salt=salt), 60, priority=BACKGROUND)
    await trio.sleep(5.5)
    interactive = [bench.submit(prompt(40, salt=10 + salt), 5) for salt in range(3)]
    for generation in interactive:
        await generation.result()

    opened = [len(plan.open) for plan in bench.runner.plans[1:] if plan.open]
    assert opened[:3] == [1, 1, 1]
    assert bench.engine.scheduler.priority_preemptions == 3


async def test_an_interactive_request_that_begins_with_a_background_row_takes_it_over_exactly(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    alone = await tokens_alone(start_engine, (*prompt(70), 1, 2), 5)
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, max_rows=1
    )
    background = bench.submit(prompt(70), 30, priority=BACKGROUND)
    await trio.sleep(5.5)

    answer = await bench.submit((*prompt(70), 1, 2), 5).result()

    assert answer.tokens == alone
    assert answer.finished.reuse.tokens >= 64
    assert len((await background.result()).tokens) == 30


async def test_a_request_that_still_waits_for_its_turn_takes_no_row(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, max_rows=2
    )
    first = bench.submit(prompt(30), 20, agent="a", is_ordered=True)
    other = bench.submit(prompt(30, 1), 20, priority=BACKGROUND)
    await trio.sleep(3)
    second = bench.submit(prompt(30, 2), 5, agent="a", is_ordered=True)

    await second.result()

    assert bench.engine.scheduler.preemptions == 0
    assert other.stamps[-1] - other.stamps[0] == 19
    assert second.stamps[0] > first.stamps[-1]
