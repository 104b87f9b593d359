"""Delivery to a sink outside of the process: of observations to a file or a collector on the
network, and of metrics to a collector.

Knows trio, one sink and its circuit breaker. A sink is slow, hangs or refuses; the queue is
bounded, every write has a deadline and runs in a worker thread, so no step of the engine waits for
one. An item that is not delivered is counted.
"""

import collections
import enum
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import attrs
import structlog
import trio

from semantic_trio.application.threads import InThread, OneThread
from semantic_trio.domain.breaker import BreakerState, CircuitBreaker
from semantic_trio.domain.observation import Observation, Observed
from semantic_trio.ports.observing import Sink

log = structlog.get_logger(__name__)

Item_contra = TypeVar("Item_contra", contravariant=True)

# Items that may wait; of observations a minute of a busy server, about 2 MB.
QUEUE_LIMIT = 8192
# Items in one write.
BATCH_LIMIT = 512
# Time to wait for more items after the first one, in seconds: a hop to a thread for each one would
# cost more than writing it.
LINGER_SECONDS = 0.1
# Deadline of one write, in seconds.
DEADLINE_SECONDS = 5.0


class DropCause(enum.Enum):
    """The reason for which an item was not delivered."""

    QUEUE_FULL = "queue_full"
    TIMEOUT = "timeout"  # the write had not ended in time; it may still end
    REFUSED = "refused"  # the write failed


@attrs.define(eq=False)
class Delivery(Generic[Item_contra]):
    """Delivers items to a sink. `run` writes until it is cancelled; `flush` before that."""

    name: str  # of the sink, for logs and metrics
    sink: Sink[Item_contra]
    linger_seconds: float = LINGER_SECONDS
    # one thread: as long as a write hangs, the next one gets none
    in_thread: InThread = attrs.field(factory=OneThread)
    breaker: CircuitBreaker = attrs.field(init=False, factory=CircuitBreaker)
    delivered: int = attrs.field(init=False, default=0)
    dropped: collections.Counter[DropCause] = attrs.field(init=False, factory=collections.Counter)
    _queue: collections.deque[Item_contra] = attrs.field(init=False, factory=collections.deque)
    _writing: int = attrs.field(init=False, default=0)  # items in the write under way
    _arrived: trio.Event = attrs.field(init=False, factory=trio.Event)
    _progress: trio.Event = attrs.field(init=False, factory=trio.Event)
    _is_flushing: trio.Event = attrs.field(init=False, factory=trio.Event)

    def offer(self, item: Item_contra) -> None:
        """Queue an item, or drop it if the queue is full. Returns at once."""
        if len(self._queue) >= QUEUE_LIMIT:
            self.dropped[DropCause.QUEUE_FULL] += 1
            return
        self._queue.append(item)
        self._arrived.set()

    @property
    def waiting(self) -> int:
        """Items that are neither delivered nor dropped."""
        return len(self._queue) + self._writing

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is offered until cancelled."""
        task_status.started()
        while True:
            await self._arrived.wait()
            with trio.move_on_after(self.linger_seconds):
                await self._is_flushing.wait()
            await self._write_all()

    async def flush(self, seconds: float) -> int:
        """Wait until everything is delivered, for `seconds` at most, and not while the circuit is
        open.

        Returns how many items are left.
        """
        self._is_flushing.set()
        with trio.move_on_after(seconds):
            while self.waiting and self.breaker.state is not BreakerState.OPEN:
                await self._progress.wait()
        if self.waiting:
            log.warning("not all events are delivered", sink=self.name, waiting=self.waiting)
        return self.waiting

    async def _write_all(self) -> None:
        while self._queue:
            await self._pause()
            batch = [self._queue.popleft() for _ in range(min(BATCH_LIMIT, len(self._queue)))]
            self._writing = len(batch)
            await self._write(batch)
            self._writing = 0
            self._progress.set()
            self._progress = trio.Event()
        self._arrived = trio.Event()

    async def _pause(self) -> None:
        """Return when the circuit lets a write be tried."""
        if self.breaker.state is BreakerState.OPEN:
            await trio.sleep_until(self.breaker.retry_at)
            self.breaker.try_again()
            log.info("a sink is tried again", sink=self.name, state=self.breaker.state.value)

    async def _write(self, batch: list[Item_contra]) -> None:
        with trio.move_on_after(DEADLINE_SECONDS) as scope:
            try:
                await self.in_thread(self.sink.write, batch)
            except OSError as error:
                self._failed(batch, DropCause.REFUSED, str(error))
                return
        if scope.cancelled_caught:
            self._failed(
                batch, DropCause.TIMEOUT, f"it has done nothing for {DEADLINE_SECONDS:.0f} s"
            )
            return
        was = self.breaker.state
        self.breaker.succeeded()
        self.delivered += len(batch)
        if was is not BreakerState.CLOSED:
            log.info(
                "a sink is written to again",
                sink=self.name,
                state=self.breaker.state.value,
                dropped=self.dropped.total(),
            )

    def _failed(self, batch: list[Item_contra], cause: DropCause, reason: str) -> None:
        self.dropped[cause] += len(batch)
        self.breaker.failed(trio.current_time())
        state = self.breaker.state.value
        log.warning(
            "a sink cannot be written to",
            sink=self.name,
            state=state,
            cause=cause.value,
            reason=reason,
            dropped=self.dropped.total(),
        )


@attrs.define(eq=False)
class DeliveringObserver:
    """An observer that offers each observation to a delivery, with its number and its time."""

    delivery: Delivery[Observed]
    wall_clock: Callable[[], float] = time.time
    _count: int = attrs.field(init=False, default=0)

    def observe(self, observation: Observation) -> None:
        """See `Observer`."""
        self._count += 1
        self.delivery.offer(
            Observed(self._count, self.wall_clock(), trio.current_time(), observation)
        )
