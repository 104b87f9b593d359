"""The one loop: requests in, steps to the device, tokens out.

Knows trio, the scheduler and the runner. Knows nothing of MLX or HTTP. It is the only task that plans and commits; handlers talk to it by one memory
channel, which it empties before each step. What they ask of the memory's agents (fork, pin, release, delete) they do at once, between two of its
awaits, and nudge it where the device has to hear of it.
"""

import collections
import contextlib
import enum
import math
from collections.abc import Iterable, Iterator
from typing import TypedDict

import attrs
import structlog
import trio

from semantic_trio.application.generation import Generation
from semantic_trio.application.observers import Observers
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.errors import DrainingError, EngineDeadError, InvalidRequestError, OverloadedError, SemanticError, StepFailedError
from semantic_trio.domain.generation import Event, Failed, GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.observation import DrainBegan, DrainEnded, Evicted, PromptRead, RowOpened
from semantic_trio.domain.reuse import NOTHING_REUSED
from semantic_trio.domain.scheduler import Scheduler
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.step import Inventory, StepPlan, StepResult
from semantic_trio.domain.stopping import TextDecoder
from semantic_trio.ports import ModelRunner, Observer

log = structlog.get_logger(__name__)

# Steps that may fail one after another before the process is given up: a device that fails three times does not heal.
MAX_FAILURES = 3
# What a client is told to wait before anything was measured, in seconds, and at most.
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1, 60
# How often the log tells of prompts that take as long to be read, in seconds: who waits for one sees nothing meanwhile.
PROGRESS_SECONDS = 10.0


class EngineState(enum.Enum):
    """The state of the engine."""

    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"  # a step failed; the runner is being rebuilt
    DRAINING = "draining"
    DEAD = "dead"


@attrs.frozen(eq=False)
class _Submitted:
    generation: Generation
    decoder: TextDecoder
    asker: Agent | None


@attrs.frozen(eq=False)
class _Closed:
    generation: Generation


@attrs.frozen(eq=False)
class _Nudge:
    """The memory has something to tell the device."""


_Message = _Submitted | _Closed | _Nudge


@attrs.define(eq=False)
class Engine:
    """Runs generations on a runner, many at once.

    `submit`, `drain` and the attributes are for any task of the same trio loop; `run` is the loop itself.
    """

    runner: ModelRunner
    scheduler: Scheduler
    queue_limit: int  # requests that may wait for a row
    step_deadline_seconds: float
    batch_window_seconds: float  # how long an idle engine waits for company; may be changed while running
    observer: Observer = attrs.field(factory=Observers)
    tokens_generated: int = attrs.field(init=False, default=0)
    steps: int = attrs.field(init=False, default=0)
    passes: collections.Counter[int] = attrs.field(init=False, factory=collections.Counter)  # forward passes by their number of rows
    discrepancies: int = attrs.field(init=False, default=0)  # between memory and device, found when idle
    _started: bool = attrs.field(init=False, default=False)
    _recovering: bool = attrs.field(init=False, default=False)
    _draining: bool = attrs.field(init=False, default=False)
    _refusal: DrainingError = attrs.field(init=False, factory=lambda: DrainingError(FIRST_RETRY_SECONDS))
    _dead: bool = attrs.field(init=False, default=False)
    _open: dict[Generation, Sequence | None] = attrs.field(init=False, factory=dict)  # None: still in the channel
    _owner: dict[Sequence, Generation] = attrs.field(init=False, factory=dict)
    _is_checked: bool = attrs.field(init=False, default=True)  # nothing happened since memory and device were compared
    _send: trio.MemorySendChannel[_Message] = attrs.field(init=False)
    _receive: trio.MemoryReceiveChannel[_Message] = attrs.field(init=False)
    _failures: int = attrs.field(init=False, default=0)
    _mean_seconds: float = attrs.field(init=False, default=0.0)  # of recent requests, from submission to end
    _others: int = attrs.field(init=False, default=0)  # what works on the device beside generations
    _emptied: trio.Event = attrs.field(init=False, factory=trio.Event)
    _progress_at: float = attrs.field(init=False, default=0.0)  # when the log may tell of long prompts again
    _evictions: int = attrs.field(init=False, default=0)  # that the observer knows of
    _settled: trio.Event = attrs.field(init=False, factory=trio.Event)  # the device has done all it was told

    def __attrs_post_init__(self) -> None:
        # Every open generation has at most two messages under way, so sending never blocks: the bound is `queue_limit`, kept by `submit`.
        self._send, self._receive = trio.open_memory_channel[_Message](math.inf)

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

        Raises `PromptTooLongError`, `PoolExhaustedError`, `InvalidRequestError`, `OverloadedError`, `DrainingError` or `EngineDeadError`, and then
        nothing was queued.
        """
        room = self.scheduler.remaining_tokens(request)
        self.refuse_when_closed()
        if self.waiting >= self.queue_limit and len(self._open) >= self.queue_limit + self.scheduler.limits.max_rows:
            raise OverloadedError(self.waiting, self.queue_limit, self.retry_after_seconds)
        asker = self.memory.named(request.agent) if request.agent else None
        if asker is not None:
            asker.asked += 1  # by the message, until its sequence does: nobody makes room for others while a turn of it waits
        send, receive = trio.open_memory_channel[Event](room + 2)
        generation = Generation(request, trio.current_time(), receive, send, self._on_close)
        self._open[generation] = None
        self._send.send_nowait(_Submitted(generation, decoder, asker))
        return generation

    def refuse_when_full(self, count: int) -> None:
        """Raises `OverloadedError` where so many requests more would not all be taken, and `InvalidRequestError` where they never could be."""
        room = self.queue_limit + self.scheduler.limits.max_rows
        if count > room:
            raise InvalidRequestError(f"{count} answers are wanted at once, and {room} requests may run and wait", quotes=False)
        if len(self._open) + count > room:
            raise OverloadedError(self.waiting, self.queue_limit, self.retry_after_seconds)

    @property
    def memory(self) -> Memory:
        """The memory. Any task may fork, pin, release and delete its agents, and has to call `nudge` after the last two."""
        return self.scheduler.memory

    def nudge(self) -> None:
        """Wake the step loop: the memory has orders for the device, or free bytes."""
        self._send.send_nowait(_Nudge())

    @property
    def retry_after_seconds(self) -> int:
        """When a refused request has a fair chance: the time the queue needs at the recent pace."""
        if not self._mean_seconds:
            return FIRST_RETRY_SECONDS
        turns = (self.waiting + 1) / self.scheduler.limits.max_rows
        return min(LONGEST_RETRY_SECONDS, max(FIRST_RETRY_SECONDS, math.ceil(turns * self._mean_seconds)))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Step until cancelled. Raises `EngineDeadError` when the device cannot be trusted any more."""
        self._started = True
        task_status.started()
        error: SemanticError = self._refusal
        try:
            while True:
                self._take_messages()
                plan = self.scheduler.plan()
                self._report(plan)
                self._deliver_all(self.scheduler.refused())
                if plan is None:
                    await self._check()
                    self._settled.set()
                    self._settled = trio.Event()
                    await self._collect()
                else:
                    await self._advance(plan)
                    self._tell_progress()
        except EngineDeadError as dead:
            error = dead
            raise
        finally:
            self._dead = True
            self._settled.set()
            self._fail_all(error)

    async def drain(self, grace_seconds: float, error: DrainingError | None = None) -> None:
        """Refuse new requests and return when the open ones are over, at the latest after `grace_seconds`: then they have failed, with the error."""
        self._refusal = error or self._refusal
        self._draining, began_at = True, trio.current_time()
        self.observer.observe(DrainBegan(open_requests=len(self._open), grace_seconds=grace_seconds))
        with trio.move_on_after(grace_seconds):
            while self._open or self._others:
                await self._emptied.wait()
        failed = len(self._open)
        self._fail_all(self._refusal)
        self.observer.observe(DrainEnded(failed_requests=failed, seconds=trio.current_time() - began_at))

    async def settle(self) -> None:
        """Return when the device has done all it was told: rows are closed, what is kept of them is stored. At once where the engine has ended."""
        if not self._dead:
            self.nudge()
            await self._settled.wait()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Work on the device beside generations; a drain waits for it too. Raises as `refuse_when_closed` does."""
        self.refuse_when_closed()
        self._others += 1
        try:
            yield
        finally:
            self._others -= 1
            self._tell_when_empty()

    def refuse_when_closed(self) -> None:
        """Raises `DrainingError` or `EngineDeadError` where nothing new is begun."""
        if self._dead:
            raise EngineDeadError("it has stopped")
        if self._draining:
            raise attrs.evolve(self._refusal)

    async def _collect(self) -> None:
        """Wait for a first request, then a moment longer for those that arrive with it."""
        self._take(await self._receive.receive())
        with trio.move_on_after(self.batch_window_seconds):
            while self.scheduler.waiting < self.scheduler.limits.max_rows:
                self._take(await self._receive.receive())

    def _take_messages(self) -> None:
        while True:
            try:
                self._take(self._receive.receive_nowait())
            except trio.WouldBlock:
                return

    def _take(self, message: _Message) -> None:
        if isinstance(message, _Nudge):
            return
        generation = message.generation
        if isinstance(message, _Closed):
            sequence = self._forget(generation)
            if sequence is not None:
                self.scheduler.abort(sequence)
            return
        if generation in self._open:
            sequence = self.scheduler.add(generation.request, message.decoder, message.asker)
            self._open[generation] = sequence
            self._owner[sequence] = generation
        if message.asker is not None:
            self.memory.leave(message.asker)

    async def _check(self) -> None:
        """Once it has become idle: does the device hold what the memory believes? What differs is mended, and told."""
        if self._is_checked or not self.scheduler.is_idle:
            return
        self._is_checked = True
        try:
            inventory = await self._inventory()
        except StepFailedError as error:
            await self._recover(error)
            return
        for difference in self.scheduler.reconcile(inventory):
            self.discrepancies += 1
            log.error("memory and device differ", difference=difference)

    async def _inventory(self) -> Inventory:
        with trio.move_on_after(self.step_deadline_seconds):
            return await self.runner.inventory()
        raise EngineDeadError(f"the device hung for {self.step_deadline_seconds:.0f} s when it was asked what it holds")

    async def _advance(self, plan: StepPlan) -> None:
        self._is_checked = False
        try:
            result = await self._step(plan)
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

    async def _step(self, plan: StepPlan) -> StepResult:
        deadline = self.step_deadline_seconds + 2 * self.scheduler.expected_seconds(plan)
        with trio.move_on_after(deadline):
            return await self.runner.step(plan)
        raise EngineDeadError(f"a step hung for {deadline:.0f} s ({len(plan.decode)} rows decoding, {plan.prompt_tokens} prompt tokens)")

    async def _recover(self, error: StepFailedError) -> None:
        """Fail who took part, rebuild the runner, keep the rest."""
        self._failures += 1
        self._recovering = True
        lost, readable = self.scheduler.lose_rows()
        self._deliver_all([(sequence, Failed(error)) for sequence in lost])
        log.error("step failed", reason=error.reason, in_a_row=self._failures)
        if self._failures >= MAX_FAILURES:
            raise EngineDeadError(f"{MAX_FAILURES} steps in a row failed, the last one with: {error.reason}")
        with trio.move_on_after(self.step_deadline_seconds) as scope:
            try:
                await self.runner.reset(readable)
                self.scheduler.recovered(await self.runner.inventory())
            except StepFailedError as again:
                raise EngineDeadError(f"the device could not be reset: {again.reason}") from again
        if scope.cancelled_caught:
            raise EngineDeadError("the device hung while it was being reset")
        self._recovering = False

    def _tell_progress(self) -> None:
        now = trio.current_time()
        if now < self._progress_at:
            return
        self._progress_at = now + PROGRESS_SECONDS
        for sequence, generation in self._owner.items():
            if sequence.phase is Phase.PREFILLING and now >= generation.submitted_at + PROGRESS_SECONDS:
                request = sequence.request
                log.info("a long prompt is being read", **_ids(generation), prompt_tokens=len(request.prompt), left=sequence.unread)

    def _report(self, plan: StepPlan | None) -> None:
        """Notify the observer of rows that open for the first time with a plan, and of blocks evicted since the plan before."""
        evictions = self.memory.store.evictions - self._evictions
        if evictions:
            self._evictions += evictions
            self.observer.observe(Evicted(tier="ram", entries=evictions))
        opened = {start.row for start in plan.open} if plan is not None else set()
        for sequence, generation in self._owner.items() if opened else ():
            if sequence.row in opened and generation.started_at is None:
                generation.started_at = trio.current_time()
                generation.reuse, generation.agent = sequence.reuse, sequence.agent
                self.observer.observe(_row_opened(generation, generation.started_at))

    def _report_read(self, generation: Generation, now: float) -> None:
        """Notify the observer that the prompt of a generation is read."""
        assert generation.started_at is not None, "a prompt is read in a row"
        tokens = len(generation.request.prompt) - (generation.reuse or NOTHING_REUSED).tokens
        self.observer.observe(PromptRead(**_ids(generation), tokens=tokens, seconds=now - generation.started_at))

    def _deliver_all(self, events: Iterable[tuple[Sequence, Event]]) -> None:
        now = trio.current_time()
        for sequence, event in events:
            self._deliver(self._owner.get(sequence), event, now)

    def _deliver(self, generation: Generation | None, event: Event, now: float) -> None:
        if generation is None or generation.is_over:
            return  # closed by its caller: the message that says so is on its way
        sequence = self._open.get(generation)
        generation.reuse, generation.agent = (sequence.reuse, sequence.agent) if sequence else (None, None)
        if isinstance(event, Failed):
            log.warning("a generation has failed", **_ids(generation), reason=str(event.error))
        elif not generation.stamps:
            self._report_read(generation, now)
        generation.deliver(event, now)
        if generation.is_over:
            seconds = now - generation.submitted_at
            self._mean_seconds += (seconds - self._mean_seconds) * (0.2 if self._mean_seconds else 1.0)
            self._forget(generation)

    def _on_close(self, generation: Generation) -> None:
        self._send.send_nowait(_Closed(generation))

    def _forget(self, generation: Generation) -> Sequence | None:
        sequence = self._open.pop(generation, None)
        if sequence is not None:
            del self._owner[sequence]
        self._tell_when_empty()
        return sequence

    def _tell_when_empty(self) -> None:
        if not (self._open or self._others):
            self._emptied.set()
            self._emptied = trio.Event()

    def _fail_all(self, error: SemanticError) -> None:
        for generation, sequence in list(self._open.items()):
            if sequence is not None:
                self.scheduler.abort(sequence)
            self._deliver(generation, Failed(error), trio.current_time())
            self._forget(generation)


class _Ids(TypedDict):
    """Ids that every log line and observation of a request has."""

    request_id: str
    agent: str  # empty if the request has none


def _ids(generation: Generation) -> _Ids:
    """Return the ids of a generation's request and agent, for log lines and observations."""
    agent = generation.agent.id if generation.agent is not None else generation.request.agent
    return {"request_id": generation.request.request_id, "agent": agent or ""}


def _row_opened(generation: Generation, now: float) -> RowOpened:
    """Return the report of a generation that has got its row."""
    reuse = generation.reuse or NOTHING_REUSED
    return RowOpened(
        **_ids(generation),
        waited_seconds=now - generation.submitted_at,
        prompt_tokens=len(generation.request.prompt),
        reused_tokens=reuse.tokens,
        source=reuse.source,
        cause=reuse.cause,
        lost_tokens=reuse.lost_tokens,
    )
