"""Priorities under pressure: memory, starvation, bounds, properties."""

import itertools

import attrs
import hypothesis.strategies as st
import pytest
import structlog.testing
import trio
from hypothesis import given, settings
from trio.testing import MockClock

from semantic_trio.domain.errors import OverloadedError
from semantic_trio.domain.generation import Finished, GenerationRequest
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.testing import ByteCodec, FakeRunner
from tests.search import examples
from tests.unit.conftest import StartEngine, prompt, scheduler
from tests.unit.queued_requests import (
    BACKGROUND,
    PATIENT,
    first_token,
    rows_of_chunks,
    tokens_alone,
)
from tests.unit.test_scheduler import Device

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
