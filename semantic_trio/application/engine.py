"""The one loop: requests in, steps to the device, tokens out.

Knows trio, the scheduler and the runner. Knows nothing of MLX or HTTP. The loop is the only task
that plans and commits. Handlers write to its inbox, and change the memory's agents themselves
(fork, pin, release, delete): they nudge the loop if the device is concerned.
"""

import collections
import contextlib
import enum
from collections.abc import Iterable, Iterator

import attrs
import structlog
import trio

from semantic_trio.application.backlog import FIRST_RETRY_SECONDS, Backlog
from semantic_trio.application.generation import Generation
from semantic_trio.application.inbox import Closed, Hurried, Inbox, Message, Nudge, Submitted
from semantic_trio.application.observers import Observers
from semantic_trio.application.open_work import OpenWork
from semantic_trio.application.reports import Reports
from semantic_trio.application.watched_runner import WatchedRunner
from semantic_trio.domain.errors import (
    DrainingError,
    EngineDeadError,
    SemanticError,
    StepFailedError,
)
from semantic_trio.domain.generation import Event, Failed, GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.observation import DrainBegan, DrainEnded
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.scheduler import Scheduler
from semantic_trio.domain.sequence import Sequence
from semantic_trio.domain.step import StepPlan
from semantic_trio.domain.stopping import TextDecoder
from semantic_trio.ports.observing import Observer
from semantic_trio.ports.runner import ModelRunner

log = structlog.get_logger(__name__)

# Steps that may fail one after another before the process is given up: a device that fails three
# times does not heal.
MAX_FAILURES = 3


class EngineState(enum.Enum):
    """The state of the engine."""

    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"  # a step failed; the runner is being rebuilt
    DRAINING = "draining"
    DEAD = "dead"


@attrs.define(eq=False)
class Engine:
    """Runs generations on a runner, many at once.

    `submit`, `drain` and the attributes are for any task of the same trio loop; `run` is the loop
    itself.
    """

    runner: ModelRunner
    scheduler: Scheduler
    queue_limit: int  # requests that may wait for a row
    step_deadline_seconds: float
    # how long an idle engine waits for company; may be changed while running
    batch_window_seconds: float
    observer: Observer = attrs.field(factory=Observers)
    tokens_generated: int = attrs.field(init=False, default=0)
    steps: int = attrs.field(init=False, default=0)
    # forward passes by their number of rows
    passes: collections.Counter[int] = attrs.field(init=False, factory=collections.Counter)
    # between memory and device, found when idle
    discrepancies: int = attrs.field(init=False, default=0)
    _started: bool = attrs.field(init=False, default=False)
    _recovering: bool = attrs.field(init=False, default=False)
    _draining: bool = attrs.field(init=False, default=False)
    _refusal: DrainingError = attrs.field(
        init=False, factory=lambda: DrainingError(FIRST_RETRY_SECONDS)
    )
    _dead: bool = attrs.field(init=False, default=False)
    _open: OpenWork = attrs.field(init=False, factory=OpenWork)
    # nothing happened since memory and device were compared
    _is_checked: bool = attrs.field(init=False, default=True)
    _inbox: Inbox = attrs.field(init=False, factory=Inbox)
    _device: WatchedRunner = attrs.field(init=False)
    _failures: int = attrs.field(init=False, default=0)
    _backlog: Backlog = attrs.field(init=False)
    _reports: Reports = attrs.field(init=False)
    # the device has done all it was told
    _settled: trio.Event = attrs.field(init=False, factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._reports, self._device = (
            Reports(self.observer),
            WatchedRunner(self.runner, self.step_deadline_seconds),
        )
        self._backlog = Backlog(self.queue_limit, self.scheduler.limits.max_rows)

    @property
    def state(self) -> EngineState:
        """The state of the engine; the gravest if several hold."""
        if self._dead:
            return EngineState.DEAD
        if self._draining:
            return EngineState.DRAINING
        if self._recovering:
            return EngineState.RECOVERING
        return EngineState.RUNNING if self._started else EngineState.STARTING

    @property
    def open_generations(self) -> int:
        """Generations submitted and not over."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Generations without a row."""
        return len(self._open) - self.scheduler.running

    def submit(self, request: GenerationRequest, decoder: TextDecoder) -> Generation:
        """Queue a request; it is the caller's to close.

        Raises `PromptTooLongError`, `PoolExhaustedError`, `InvalidRequestError`, `OverloadedError`,
        `DrainingError` or `EngineDeadError`, and then nothing was queued.
        """
        remaining = self.scheduler.remaining_tokens(request)
        self.refuse_when_closed()
        self.refuse_when_full(1, request.priority)
        asker = self.memory.get_or_create(request.agent) if request.agent else None
        if asker is not None:
            # by the message, until its sequence does: nobody makes room for others while a turn of
            # it waits
            asker.open_turns += 1
        send, receive = trio.open_memory_channel[Event](remaining + 2)
        generation = Generation(
            request,
            trio.current_time(),
            receive,
            send,
            lambda closed: self._inbox.put(Closed(closed)),
        )
        self._open.add(generation)
        self._inbox.put(Submitted(generation, decoder, asker))
        return generation

    def hurry(self, generation: Generation) -> None:
        """Serve a background generation as an interactive one from now on: an interactive request
        waits for its end. Called once for a generation; one that is over is left as it is.
        """
        if generation.request.priority is Priority.BACKGROUND:
            self._inbox.put(Hurried(generation))

    def refuse_when_full(self, count: int, priority: Priority = Priority.INTERACTIVE) -> None:
        """Raise `OverloadedError` if so many requests more would not all be taken now, and
        `InvalidRequestError` if they never could be.

        Background requests take no place in the queue from interactive ones, which are counted
        alone.
        """
        running_and_waiting, waiting = len(self._open), self.waiting
        if priority is Priority.INTERACTIVE:
            running_and_waiting -= self._open.in_background
            waiting -= self.waiting_in_background
        self._backlog.refuse(count, running_and_waiting, waiting)

    @property
    def open_in_background(self) -> int:
        """Background generations that are not over."""
        return self._open.in_background

    @property
    def waiting_in_background(self) -> int:
        """Background generations without a row."""
        running = sum(
            sequence.request.priority is Priority.BACKGROUND for sequence in self.scheduler.batch
        )
        return self._open.in_background - running

    @property
    def memory(self) -> Memory:
        """The memory.

        Any task may fork, pin, release and delete its agents, and has to call `nudge` after the
        last two.
        """
        return self.scheduler.memory

    def nudge(self) -> None:
        """Wake the step loop: the memory has orders for the device, or free bytes."""
        self._inbox.put(Nudge())

    @property
    def retry_after_seconds(self) -> int:
        """Seconds after which a refused client should try again."""
        return self._backlog.retry_after_seconds(self.waiting)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Step until cancelled.

        Raises `EngineDeadError` when the device cannot be trusted any more.
        """
        self._started = True
        task_status.started()
        error: SemanticError = self._refusal
        try:
            while True:
                await self._turn()
        except EngineDeadError as dead:
            error = dead
            raise
        finally:
            self._dead = True
            self._settled.set()
            self._fail_all(error)

    async def drain(self, grace_seconds: float, error: DrainingError | None = None) -> None:
        """Refuse new requests and return when the open ones are over, at the latest after
        `grace_seconds`: then they have failed, with the error.
        """
        self._refusal = error or self._refusal
        self._draining, began_at = True, trio.current_time()
        self.observer.observe(
            DrainBegan(open_requests=len(self._open), grace_seconds=grace_seconds)
        )
        with trio.move_on_after(grace_seconds):
            await self._open.emptied()
        failed = len(self._open)
        self._fail_all(self._refusal)
        self.observer.observe(
            DrainEnded(failed_requests=failed, seconds=trio.current_time() - began_at)
        )

    async def settle(self) -> None:
        """Return when the device has done all it was told: rows are closed, what is kept of them is
        stored.

        At once where the engine has ended.
        """
        if not self._dead:
            self.nudge()
            await self._settled.wait()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Work on the device beside generations; a drain waits for it too, and cancels it with the
        generations that are left.

        Raises as `refuse_when_closed` does, also where the work was cancelled.
        """
        self.refuse_when_closed()
        with self._open.other() as scope:
            yield
        if scope.cancelled_caught:
            self.refuse_when_closed()

    def refuse_when_closed(self) -> None:
        """Raises `DrainingError` or `EngineDeadError` where nothing new is begun."""
        if self._dead:
            raise EngineDeadError("it has stopped")
        if self._draining:
            raise attrs.evolve(self._refusal)

    async def _turn(self) -> None:
        """Take the messages that have arrived, then run a step, or wait for messages if there is no
        step to run.
        """
        for message in self._inbox.take_arrived():
            self._take(message)
        plan = self.scheduler.plan()
        self._reports.planned(plan, self.memory.store.evictions, self._open.owners)
        self._deliver_all(self.scheduler.refused())
        if plan is not None:
            await self._advance(plan)
            self._reports.progress(self._open.owners)
            return
        await self._check()
        self._settled.set()
        self._settled = trio.Event()
        await self._collect()

    async def _collect(self) -> None:
        """Wait for a first request, then a moment longer for those that arrive with it."""
        self._take(await self._inbox.take())
        with trio.move_on_after(self.batch_window_seconds):
            while self.scheduler.waiting < self.scheduler.limits.max_rows:
                self._take(await self._inbox.take())

    def _take(self, message: Message) -> None:
        """Apply a message of the inbox.

        A nudge only wakes the loop. A closed generation is aborted, a hurried one is interactive. A
        new one is added, unless its reader has left before.
        """
        if isinstance(message, Nudge):
            return
        generation = message.generation
        if isinstance(message, Closed):
            if (sequence := self._open.remove(generation)) is not None:
                self.scheduler.abort(sequence)
            return
        if isinstance(message, Hurried):
            if (sequence := self._open.sequence(generation)) is not None:
                self.scheduler.hurry(sequence)
            return
        if generation in self._open:
            sequence = self.scheduler.add(generation.request, message.decoder, message.asker)
            self._open.begin(generation, sequence)
        if message.asker is not None:
            self.memory.leave(message.asker)

    async def _check(self) -> None:
        """Compare the memory with the device once the engine has become idle.

        Differences are mended and logged.
        """
        if self._is_checked or not self.scheduler.is_idle:
            return
        self._is_checked = True
        try:
            inventory = await self._device.inventory()
        except StepFailedError as error:
            await self._recover(error)
            return
        for difference in self.scheduler.reconcile(inventory):
            self.discrepancies += 1
            log.error("memory and device differ", difference=difference)

    async def _advance(self, plan: StepPlan) -> None:
        self._is_checked = False
        began_at = trio.current_time()
        try:
            result = await self._device.step(plan, self.scheduler.expected_seconds(plan))
        except StepFailedError as error:
            await self._recover(error)
            return
        if result.timing is not None:  # a pass was finished; one that only took off may still fail
            self._failures = 0
        self.steps += 1
        if rows := len(plan.decode) + len(plan.prefill):
            self.passes[rows] += 1
        self.tokens_generated += len(result.sampled)
        self._deliver_all(self.scheduler.commit(result))
        self._reports.aged(self.scheduler.elapse(trio.current_time() - began_at), self._open.owners)

    async def _recover(self, error: StepFailedError) -> None:
        """Fail the sequences that took part, rebuild the runner, and keep the other sequences."""
        self._failures += 1
        self._recovering = True
        lost, readable = self.scheduler.lose_rows()
        self._deliver_all([(sequence, Failed(error)) for sequence in lost])
        log.error("step failed", reason=error.reason, in_a_row=self._failures)
        if self._failures >= MAX_FAILURES:
            raise EngineDeadError(
                f"{MAX_FAILURES} steps in a row failed, the last one with: {error.reason}"
            )
        self.scheduler.recovered(await self._device.reset(readable))
        self._recovering = False

    def _deliver_all(self, events: Iterable[tuple[Sequence, Event]]) -> None:
        now = trio.current_time()
        for sequence, event in events:
            self._deliver(self._open.owners.get(sequence), event, now)

    def _deliver(self, generation: Generation | None, event: Event, now: float) -> None:
        if generation is None or generation.is_over:
            return  # closed by its caller: the message that says so is on its way
        sequence = self._open.sequence(generation)
        generation.reuse, generation.agent = (
            (sequence.reuse, sequence.agent) if sequence else (None, None)
        )
        self._reports.delivering(generation, event, now)
        generation.deliver(event, now)
        if generation.is_over:
            self._backlog.ended(now - generation.submitted_at)
            self._open.remove(generation)

    def _fail_all(self, error: SemanticError) -> None:
        for generation in list(self._open):
            if (sequence := self._open.sequence(generation)) is not None:
                self.scheduler.abort(sequence)
            self._deliver(generation, Failed(error), trio.current_time())
            self._open.remove(generation)
        self._open.cancel_others()
