"""Interactive requests come before background ones, and no background request starves."""

import itertools
from collections.abc import Sequence as Many

import attrs
import hypothesis.strategies as st
import pytest
import structlog.testing
import trio
from hypothesis import given, settings
from trio.testing import MockClock

from semantic_trio.application.generation import Generation
from semantic_trio.domain.errors import OverloadedError
from semantic_trio.domain.generation import Finished, GenerationRequest
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.queue import Queue
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.step import StepPlan
from semantic_trio.testing import ByteCodec, FakeRunner
from tests.search import examples
from tests.unit.conftest import StartEngine, prompt, scheduler
from tests.unit.test_scheduler import Device

BACKGROUND = Priority.BACKGROUND
# Seconds by which prompts may lengthen steps of one second: chunks are as large as `chunk_tokens`.
PATIENT = 1000.0


def sequence(priority: Priority = Priority.INTERACTIVE, agent: str | None = None) -> Sequence:
    request = GenerationRequest(
        "r", (1, 2, 3), 5, seed=1, agent=agent, is_ordered=agent is not None, priority=priority
    )
    return Sequence(request, 5, ByteCodec().decoder())


def rows_of_chunks(plans: Many[StepPlan]) -> list[set[int]]:
    """The rows whose prompts each step read."""
    return [{chunk.row for chunk in plan.prefill} for plan in plans if plan.prefill]


async def tokens_alone(
    start_engine: StartEngine, tokens: tuple[int, ...], count: int
) -> tuple[int, ...]:
    """The answer of an engine that has nothing else to do."""
    bench = await start_engine()
    return (await bench.submit(tokens, count).result()).tokens


async def first_token(generation: Generation) -> float:
    """When the first token came, in seconds after the submission."""
    await generation.events.receive()
    return generation.stamps[0] - generation.submitted_at


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


# ------------------------------------------------------------------------------------------- memory


async def test_a_background_row_gives_its_memory_to_an_interactive_request(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    alone = await tokens_alone(start_engine, prompt(200), 60)
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, budget=8 * 16 * 30
    )
    background = bench.submit(prompt(200), 60, priority=BACKGROUND)
    await trio.sleep(5.5)

    interactive = bench.submit(prompt(300, salt=9), 5)

    assert await first_token(interactive) <= 5
    assert bench.engine.scheduler.priority_preemptions == 1
    assert (await background.result()).tokens == alone


async def test_when_rows_outgrow_the_memory_background_rows_give_way_first(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, budget=8 * 16 * 26
    )
    background = bench.submit(prompt(150), 80, priority=BACKGROUND)
    await trio.sleep(2.5)
    interactive = bench.submit(prompt(150, salt=9), 80)

    await interactive.result()
    answer = await background.result()

    assert max(later - earlier for earlier, later in itertools.pairwise(interactive.stamps)) == 1
    assert bench.engine.scheduler.preemptions > bench.engine.scheduler.priority_preemptions == 0
    assert len(answer.tokens) == 80


# --------------------------------------------------------------------------------------- starvation


async def test_a_background_request_that_has_waited_long_enough_is_served(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1),
        max_stall_seconds=PATIENT,
        max_rows=1,
        background_wait_seconds=60.0,
    )
    bench.submit(prompt(20), 100)
    await trio.sleep(3)
    with structlog.testing.capture_logs() as logs:
        background = bench.submit(prompt(20, 1), 10, priority=BACKGROUND)
        interactive = [bench.submit(prompt(20, 2 + salt), 30) for salt in range(9)]
        await background.result()

    assert [generation for generation in interactive if generation.stamps] == []
    assert [
        (line["event"], line["request_id"], line["waited_seconds"])
        for line in logs
        if "background" in line["event"]
    ] == [("a background request has become interactive", "r2", 60)]


async def test_a_prompt_that_is_held_back_ages_too(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1),
        max_stall_seconds=PATIENT,
        chunk_tokens=20,
        background_wait_seconds=10.0,
    )
    background = bench.submit(prompt(200), 5, priority=BACKGROUND)
    await trio.sleep(2.5)
    bench.submit(prompt(2000, salt=7), 5)
    await background.result()

    reading = rows_of_chunks(bench.runner.plans)
    assert reading.index({0, 1}) - reading.index({1}) == 10, "then both are read together"


async def test_without_a_wait_there_is_no_background(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1),
        max_stall_seconds=PATIENT,
        max_rows=1,
        background_wait_seconds=0.0,
    )
    background = bench.submit(prompt(20), 10, priority=BACKGROUND)
    await trio.sleep(3)
    interactive = bench.submit(prompt(20, 1), 10)

    await interactive.result()

    assert background.stamps[-1] < interactive.stamps[0]


async def test_a_drain_that_fails_a_held_prompt_leaves_the_engine_alone(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1),
        max_stall_seconds=PATIENT,
        chunk_tokens=20,
        background_wait_seconds=1.0,
    )
    bench.submit(prompt(200), 5, priority=BACKGROUND)
    await trio.sleep(2.5)
    bench.submit(prompt(200, salt=7), 5)
    await trio.sleep(2)

    await bench.engine.drain(0.2)
    await bench.engine.settle()

    assert bench.engine.open_generations == bench.engine.scheduler.running == 0


# ------------------------------------------------------------------------------------------- bounds


async def test_background_requests_take_no_place_in_the_queue_from_interactive_ones(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1), max_stall_seconds=PATIENT, max_rows=2, queue_limit=3
    )
    for salt in range(5):
        bench.submit(prompt(20, salt), 10, priority=BACKGROUND)
    with pytest.raises(OverloadedError):
        bench.submit(prompt(20, 5), 10, priority=BACKGROUND)
    await trio.sleep(2.5)
    assert (bench.engine.open_in_background, bench.engine.waiting_in_background) == (5, 3)

    for salt in range(5):
        bench.submit(prompt(20, 10 + salt), 10)
    with pytest.raises(OverloadedError):
        bench.submit(prompt(20, 20), 10)


# --------------------------------------------------------------------------------------- properties


@attrs.define
class Traffic:
    """A scheduler under requests that come at given steps of one second each."""

    scheduler: Scheduler
    # by step: priority, prompt tokens and answer tokens
    arrivals: dict[int, list[tuple[Priority, int, int]]]
    device: Device = attrs.field(factory=Device)
    sequences: list[Sequence] = attrs.field(factory=list)
    began: list[Sequence] = attrs.field(factory=list)  # in the order of their first rows
    ended: dict[Sequence, int] = attrs.field(factory=dict)  # by the step in which they ended
    aged: list[Sequence] = attrs.field(factory=list)

    def run(self, steps: int) -> None:
        """Run so many steps, or until nothing is left."""
        for step in range(steps):
            for priority, tokens, answer in self.arrivals.pop(step, ()):
                self._add(priority, tokens, answer)
            plan = self.scheduler.plan()
            if plan is None and not self.arrivals:
                return
            if plan is None:
                continue
            self.began += [
                one
                for one in self.sequences
                if one.phase is not Phase.WAITING and one not in self.began
            ]
            for sequence_of_event, event in self.scheduler.commit(
                self.device.step(plan, ends=False)
            ):
                if isinstance(event, Finished):
                    self.ended[sequence_of_event] = step
            self.aged += self.scheduler.elapse(1.0)

    def _add(self, priority: Priority, tokens: int, answer: int) -> None:
        number = len(self.sequences)
        distinct = tuple((number * 7 + place * (number + 1)) % 251 for place in range(tokens))
        request = GenerationRequest(f"r{number}", distinct, answer, seed=1, priority=priority)
        self.sequences.append(self.scheduler.add(request, ByteCodec().decoder()))


arrivals = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(Priority), st.integers(1, 30), st.integers(1, 6)),
    max_size=40,
)


@given(arrivals, st.integers(1, 4), st.sampled_from([5.0, 1e9]))
@settings(max_examples=examples(400), deadline=None)
def test_each_class_is_served_in_the_order_of_arrival_and_nothing_is_left(
    requests: list[tuple[int, Priority, int, int]], rows: int, wait: float
) -> None:
    by_step: dict[int, list[tuple[Priority, int, int]]] = {}
    for step, *rest in requests:
        by_step.setdefault(step, []).append((rest[0], rest[1], rest[2]))
    traffic = Traffic(scheduler(Limits(200, rows, 16, 1.0, wait)), by_step)

    traffic.run(1000)

    assert set(traffic.ended) == set(traffic.sequences)
    for priority in Priority:
        of_class = [
            one.arrival
            for one in traffic.began
            if one.request.priority is priority and one not in traffic.aged
        ]
        assert of_class == sorted(of_class)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 6)), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 2),
)
@settings(max_examples=examples(100), deadline=None)
def test_no_background_request_starves_under_endless_interactive_ones(
    background: list[tuple[int, int]], rows: int, each_step: int
) -> None:
    """More interactive requests come than can ever be served.

    A background request waits for those that came before it, and for its own bound.
    """
    by_step = {step: [(Priority.INTERACTIVE, 4, 3)] * each_step for step in range(100)}
    by_step[0] = [(BACKGROUND, tokens, answer) for tokens, answer in background] + by_step[0]
    traffic = Traffic(scheduler(Limits(200, rows, 16, 1.0, 20.0)), by_step)

    traffic.run(100)

    asked = [one for one in traffic.sequences if one.request.priority is BACKGROUND]
    assert all(one in traffic.ended for one in asked)
    assert max(traffic.ended[one] for one in asked) <= 20 + 60, (
        "its bound, and all the background prompts with their answers"
    )
