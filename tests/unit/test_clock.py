"""Time in which the process was stopped is no time: no deadline is over because of it."""

import attrs
import pytest
import trio

from semantic_trio.entrypoints.clock import TICK_SECONDS, RunningClock


@attrs.define
class Machine:
    """The two clocks of a machine, set by hand."""

    seconds: float = 100.0
    cpu_seconds: float = 5.0

    def clock(self) -> RunningClock:
        clock = RunningClock(lambda: self.seconds, lambda: self.cpu_seconds)
        clock.start_clock()
        return clock


def test_time_passes_while_the_process_runs() -> None:
    machine = Machine()
    clock = machine.clock()
    began = clock.current_time()
    for _ in range(10):
        machine.seconds += 2 * TICK_SECONDS

        clock.current_time()

    assert clock.current_time() - began == pytest.approx(20 * TICK_SECONDS)
    assert clock.stopped_seconds == 0


def test_a_stopped_process_counts_one_tick() -> None:
    machine = Machine()
    clock = machine.clock()
    began = clock.current_time()
    machine.seconds += 3600

    assert clock.current_time() - began == pytest.approx(TICK_SECONDS)
    assert clock.stopped_seconds == pytest.approx(3600 - TICK_SECONDS)


def test_an_event_loop_that_computes_is_not_taken_for_a_stopped_one() -> None:
    machine = Machine()
    clock = machine.clock()
    began = clock.current_time()
    machine.seconds += 8
    machine.cpu_seconds += 16  # on two cores

    assert clock.current_time() - began == pytest.approx(8)


def test_cpu_time_from_before_the_gap_does_not_count() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.seconds += 1
    machine.cpu_seconds += 2
    began = clock.current_time()
    machine.seconds += 3600

    assert clock.current_time() - began == pytest.approx(TICK_SECONDS)


def test_the_loop_wakes_every_tick_to_look() -> None:
    clock = Machine().clock()

    assert clock.deadline_to_sleep_time(float("inf")) == TICK_SECONDS
    assert clock.deadline_to_sleep_time(clock.current_time() + TICK_SECONDS / 5) == pytest.approx(
        TICK_SECONDS / 5
    )


def test_no_deadline_is_over_because_the_process_was_stopped() -> None:
    machine = Machine()

    async def work() -> bool:
        with trio.move_on_after(60) as scope:
            machine.seconds += 3600
            for _ in range(5):
                await trio.lowlevel.checkpoint()
        return scope.cancelled_caught

    assert not trio.run(work, clock=machine.clock())
