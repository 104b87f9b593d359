"""A sink that hangs, fills or refuses costs no step: what is not delivered is dropped and
counted.
"""

import threading
from collections.abc import Callable

import attrs
import pytest
import structlog
import trio

from semantic_trio.adapters.metrics import Metrics
from semantic_trio.application.delivery import (
    BATCH_LIMIT,
    DEADLINE_SECONDS,
    QUEUE_LIMIT,
    DeliveringObserver,
    Delivery,
    DropCause,
)
from semantic_trio.application.threads import Arguments, OneThread, Result
from semantic_trio.domain.breaker import FIRST_PAUSE_SECONDS, MOST_FAILURES, BreakerState
from semantic_trio.domain.observation import Evicted, Observation, Observed
from semantic_trio.testing import FakeRunner, MemorySink
from tests.http.serving import in_line, openai_body, post, running, served

LINGER = 0.1


@attrs.define(eq=False)
class Delivered(Delivery[Observed]):
    """A delivery that observes."""

    observer: DeliveringObserver = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.observer = DeliveringObserver(self, lambda: 1000.0)

    def observe(self, observation: Observation) -> None:
        self.observer.observe(observation)


@attrs.define
class Hanging:
    """An `InThread` whose calls never end while `hangs`."""

    hangs: bool = True
    calls: int = 0

    async def __call__(
        self, function: Callable[[*Arguments], Result], /, *arguments: *Arguments
    ) -> Result:
        self.calls += 1
        if self.hangs:
            await trio.sleep_forever()
        return await in_line(function, *arguments)


def delivery(sink: MemorySink, in_thread: Hanging | None = None) -> "Delivered":
    return Delivered("test", sink, LINGER, in_thread or in_line)


def evicted(number: int) -> Evicted:
    return Evicted(tier="ram", entries=number)


async def started(nursery: trio.Nursery, delivered: Delivered) -> None:
    await nursery.start(delivered.run)
    nursery.cancel_scope.deadline = trio.current_time() + 10_000


async def test_observations_are_delivered_in_order_with_their_numbers_and_times(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    sink = MemorySink()
    delivered = delivery(sink)
    await started(nursery, delivered)
    at = trio.current_time()
    for number in range(2 * BATCH_LIMIT + 1):
        delivered.observe(evicted(number))
    await trio.sleep(1)

    assert sink.observations == [evicted(number) for number in range(2 * BATCH_LIMIT + 1)]
    assert [len(batch) for batch in sink.batches] == [BATCH_LIMIT, BATCH_LIMIT, 1]
    assert sink.batches[0][0] == Observed(1, 1000.0, at, evicted(0))
    assert sink.batches[-1][-1].number == 2 * BATCH_LIMIT + 1
    assert (delivered.delivered, delivered.dropped.total(), delivered.waiting) == (
        2 * BATCH_LIMIT + 1,
        0,
        0,
    )


async def test_observations_that_come_together_are_written_together(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    sink = MemorySink()
    delivered = delivery(sink)
    await started(nursery, delivered)
    for number in range(3):
        delivered.observe(evicted(number))
        await trio.sleep(LINGER / 10)
    await trio.sleep(1)

    assert [len(batch) for batch in sink.batches] == [3]


async def test_a_full_queue_drops_what_comes_and_counts_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    sink = MemorySink()
    delivered = delivery(sink)
    for number in range(QUEUE_LIMIT + 5):
        delivered.observe(evicted(number))
    assert delivered.dropped == {DropCause.QUEUE_FULL: 5}

    await started(nursery, delivered)
    await trio.sleep(1)
    delivered.observe(evicted(0))
    await trio.sleep(1)

    assert len(sink.observations) == QUEUE_LIMIT + 1
    assert sink.batches[-1][-1].number == QUEUE_LIMIT + 6, (
        "the gap in the numbers shows what was dropped"
    )


async def test_a_sink_that_refuses_opens_the_circuit_and_is_tried_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    sink = MemorySink(OSError(28, "No space left on device"))
    delivered = delivery(sink)
    await started(nursery, delivered)
    with structlog.testing.capture_logs() as lines:
        for number in range(MOST_FAILURES):
            delivered.observe(evicted(number))
            await trio.sleep(2 * LINGER)
        assert delivered.breaker.state is BreakerState.OPEN
        sink.error = None
        delivered.observe(evicted(99))
        await trio.sleep(FIRST_PAUSE_SECONDS / 2)
        assert not sink.batches, "nothing is tried while the circuit is open"
        await trio.sleep(FIRST_PAUSE_SECONDS)

    assert sink.observations == [evicted(99)]
    assert delivered.dropped == {DropCause.REFUSED: MOST_FAILURES}
    assert [line["state"] for line in lines] == ["closed"] * (MOST_FAILURES - 1) + [
        "open",
        "half_open",
        "closed",
    ]
    assert lines[0]["reason"] == "[Errno 28] No space left on device"


async def test_a_write_that_hangs_is_given_up_at_its_deadline(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    sink, thread = MemorySink(), Hanging()
    delivered = delivery(sink, thread)
    await started(nursery, delivered)
    delivered.observe(evicted(1))
    await trio.sleep(LINGER + DEADLINE_SECONDS / 2)
    assert delivered.waiting == 1
    await trio.sleep(DEADLINE_SECONDS)
    assert delivered.dropped == {DropCause.TIMEOUT: 1}
    assert delivered.waiting == 0

    thread.hangs = False
    delivered.observe(evicted(2))
    await trio.sleep(1)
    assert sink.observations == [evicted(2)]


async def test_a_circuit_that_is_half_open_opens_again_with_one_failure(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    thread = Hanging()
    delivered = delivery(MemorySink(), thread)
    await started(nursery, delivered)
    for number in range(MOST_FAILURES):
        delivered.observe(evicted(number))
        await trio.sleep(LINGER + DEADLINE_SECONDS + LINGER)
    assert thread.calls == MOST_FAILURES
    delivered.observe(evicted(99))
    await trio.sleep(FIRST_PAUSE_SECONDS + DEADLINE_SECONDS + LINGER)

    assert thread.calls == MOST_FAILURES + 1
    assert delivered.breaker.state is BreakerState.OPEN


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
async def test_the_end_of_a_server_does_not_wait_for_a_sink_that_is_given_up(
    hangs: bool, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    delivered = delivery(MemorySink(OSError("refused")), Hanging(hangs))
    await started(nursery, delivered)
    for number in range(MOST_FAILURES * BATCH_LIMIT + 1):
        delivered.observe(evicted(number))
    began_at = trio.current_time()
    left = await delivered.flush(2.0)

    assert left > 0
    assert trio.current_time() - began_at <= 2.0


async def test_a_flush_waits_for_what_was_observed_and_no_longer(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    sink = MemorySink()
    delivered = delivery(sink)
    await started(nursery, delivered)
    delivered.observe(evicted(1))
    began_at = trio.current_time()

    assert await delivered.flush(2.0) == 0
    assert trio.current_time() == began_at, "also not for company"
    assert sink.observations == [evicted(1)]


async def test_a_sink_that_hangs_costs_no_step(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Two servers do the same work, one with a sink that hangs for ever: the same times, to the
    last bit of virtual time.
    """
    ends = []
    hanging = delivery(MemorySink(), Hanging())
    await started(nursery, hanging)
    for sinks in ([], [hanging]):
        began_at = trio.current_time()
        async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
            for sink in sinks:
                server.observers.add(sink)
            for number in range(3):
                call = await post(
                    server.app, "/v1/chat/completions", openai_body(str(number), max_tokens=40)
                )
                assert call.status == 200
            ends.append(round(trio.current_time() - began_at, 9))

    assert ends[0] == ends[1]
    assert hanging.dropped[DropCause.TIMEOUT] + hanging.waiting == hanging.observer._count > 0


async def test_dropped_events_and_the_state_of_the_circuit_are_metrics(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    refusing = delivery(MemorySink(OSError("refused")))
    await started(nursery, refusing)
    metrics = Metrics(sinks=(refusing,))
    for number in range(MOST_FAILURES):
        refusing.observe(evicted(number))
        await trio.sleep(2 * LINGER)

    text = metrics.exposition().decode()
    assert (
        f'semantic_sink_dropped_events_total{{cause="refused",sink="test"}} {MOST_FAILURES}.0'
        in text
    )
    assert 'semantic_sink_dropped_events_total{cause="timeout",sink="test"} 0.0' in text
    assert 'semantic_sink_delivered_events_total{sink="test"} 0.0' in text
    assert 'semantic_sink_breaker_state{sink="test",state="open"} 1.0' in text
    assert 'semantic_sink_breaker_state{sink="test",state="closed"} 0.0' in text


async def test_a_thread_that_hangs_is_the_only_one() -> None:
    """Real threads, and no time: a cancelled call returns while its function hangs, and the next
    function begins when that has ended.
    """
    begun, release, order = trio.Event(), threading.Event(), []
    one_thread = OneThread()

    def hang() -> None:
        trio.from_thread.run_sync(begun.set)
        release.wait()
        order.append("hung")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_thread, hang)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert order == []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_thread, order.append, "next")
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
        release.set()
    assert order == ["hung", "next"]
