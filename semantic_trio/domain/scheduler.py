"""The scheduler: in which order a step is planned, and what its results change.

    admission     waiting sequences get rows
    decode        rows sample, grow, and give way for want of memory
    prefill       rows read prompts in chunks
    closing       rows are closed, and turns are over

Knows these four, and the plans that are under way. Knows no clock, no arrays and no callers. `plan`
and `commit` alternate, but a commit may answer an earlier plan (the device looks one step ahead):
tokens are matched by row, and rows are never numbered twice.
"""

from collections.abc import Callable

import attrs

from semantic_trio.domain.admission import Admission
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.batch import Batch
from semantic_trio.domain.closing import Closings
from semantic_trio.domain.decode import Decoding
from semantic_trio.domain.errors import PoolExhaustedError, PromptTooLongError
from semantic_trio.domain.flight import SingleFlight
from semantic_trio.domain.generation import Event, GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.pace import DecodePace, PrefillPace
from semantic_trio.domain.prefill import Prefill
from semantic_trio.domain.priority import BACKGROUND_WAIT_SECONDS
from semantic_trio.domain.queue import Queue
from semantic_trio.domain.recent_plans import RecentPlans
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.speculation import Speculation
from semantic_trio.domain.step import Inventory, SaveBlock, StepPlan, StepResult, StepTiming
from semantic_trio.domain.stopping import TextDecoder


@attrs.frozen
class Limits:
    """Bounds of a step and of a sequence."""

    context_length: int  # tokens, prompt and answer together
    max_rows: int
    chunk_tokens: int  # the largest piece of prompts read in one step
    # by which a step with prompts may be longer than one that only decodes
    max_stall_seconds: float
    # after which a background sequence is served as an interactive one
    background_wait_seconds: float = BACKGROUND_WAIT_SECONDS


@attrs.define(eq=False)
class Scheduler:
    """Sequences with and without a row: admits, plans, commits and aborts them."""

    limits: Limits
    memory: Memory
    speculation: Speculation = attrs.field(factory=Speculation)
    prefill_pace: PrefillPace = attrs.field(factory=PrefillPace)
    decode_pace: DecodePace = attrs.field(factory=DecodePace)
    # True while rows of other models decode on the same device
    disturbs_others: Callable[[], bool] = lambda: False
    batch: Batch = attrs.field(init=False, factory=Batch)
    _queue: Queue = attrs.field(init=False, factory=Queue)
    _arrivals: int = attrs.field(init=False, default=0)
    _plans: RecentPlans = attrs.field(init=False, factory=RecentPlans)
    _flight: SingleFlight = attrs.field(init=False)
    _closings: Closings = attrs.field(init=False)
    _admission: Admission = attrs.field(init=False)
    _decoding: Decoding = attrs.field(init=False)
    _prefill: Prefill = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        limits, memory, queue, batch = self.limits, self.memory, self._queue, self.batch
        self._flight = flight = SingleFlight(memory)
        self._closings = closings = Closings(memory, batch, queue)
        self._decoding = Decoding(memory, queue, batch, flight, closings, self.speculation)
        self._admission = Admission(
            limits.max_rows, memory, queue, batch, flight, closings, self._decoding.preempt
        )
        self._prefill = Prefill(
            limits.chunk_tokens,
            limits.max_stall_seconds,
            memory,
            batch,
            flight,
            closings,
            self.prefill_pace,
        )

    @property
    def waiting(self) -> int:
        """Sequences without a row."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Sequences with a row."""
        return len(self.batch)

    @property
    def is_decoding(self) -> bool:
        """True if a row decodes."""
        return bool(self.batch.in_phase(Phase.DECODING))

    @property
    def preemptions(self) -> int:
        """Rows that were taken away for want of memory, or for interactive sequences."""
        return self._closings.preemptions

    @property
    def priority_preemptions(self) -> int:
        """Background rows that were taken away for interactive sequences."""
        return self._admission.preempted

    @property
    def is_idle(self) -> bool:
        """True if the device has carried out every order, and no sequence waits or runs."""
        is_busy = (
            self.batch or self._queue or not self._closings.is_empty or self._plans.is_in_flight
        )
        return self.memory.is_idle and not is_busy

    # ------------------------------------------------------------------------------------ sequences

    def remaining_tokens(self, request: GenerationRequest) -> int:
        """Return the tokens that can be generated for a request: its limit, or fewer if context or
        KV cache end before.

        Raises `PromptTooLongError` or `PoolExhaustedError` if there are none.
        """
        tokens = len(request.prompt)
        in_context = self.limits.context_length - tokens
        if in_context < 1:
            raise PromptTooLongError(tokens=tokens, limit=self.limits.context_length)
        fits = self.memory.longest_row - tokens
        if fits < 1:
            total = self.memory.budget_bytes
            raise PoolExhaustedError(
                wanted=self.memory.row_bytes(tokens + 1), free=total, total=total
            )
        return min(request.max_tokens, in_context, fits)

    def add(
        self, request: GenerationRequest, decoder: TextDecoder, asker: Agent | None = None
    ) -> Sequence:
        """Queue a request.

        Without `asker` the agent is recognised by the prompt. Raises as `remaining_tokens` does.
        """
        self._arrivals += 1
        if not self.memory.forgotten.keys().isdisjoint(request.responses):
            asker = self.memory.agents.unlisted(is_deleted=True)
        sequence = Sequence(request, self.remaining_tokens(request), decoder, self._arrivals, asker)
        sequence.wait(0.0, self.limits.background_wait_seconds)
        if asker is not None:
            asker.open_turns += 1
            asker.responses.update(request.responses)
        self._queue.add(sequence)
        return sequence

    def abort(self, sequence: Sequence) -> None:
        """Cancel a sequence.

        The next step closes its row; the tokens it has read stay cached. A finished sequence is
        left as it is.
        """
        if sequence.phase is not Phase.FINISHED:
            self._closings.cancel(sequence)

    def hurry(self, sequence: Sequence) -> None:
        """Serve a background sequence as an interactive one from the next step on, and with it the
        ordered turns of its agent before it. A finished sequence is left as it is.
        """
        self._queue.hurry(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Take the row of a sequence away and put the sequence at the head of its class in the
        queue, with the tokens it has read and generated.
        """
        self._decoding.preempt(sequence)

    def refused(self) -> list[tuple[Sequence, Event]]:
        """Return the sequences that were refused since the last call, for want of memory or of a
        token that the grammar allows, with their events.
        """
        return self._closings.take_refused()

    # ---------------------------------------------------------------------------------------- steps

    def plan(self) -> StepPlan | None:
        """Return the next step; None if there is nothing to compute, to close or to wait for.

        The order is that of claims to memory. Rows grow before sequences are admitted: if memory is
        short, a row gives way (background rows first, then the youngest), and no new row takes what
        the elder ones need. A background row may also give way to an interactive sequence that is
        admitted. Then the batch stays as it is, and both parts of the pass are taken from it. Rows
        are published when the whole pass is known, for what they will have computed. Drops come
        last: every part before may evict entries.
        """
        self._decoding.grow()
        opened = self._admission.admit()
        read = self.batch.known_tokens()
        decoding, reading = (
            self.batch.in_phase(Phase.DECODING),
            self.batch.in_phase(Phase.PREFILLING),
        )
        decode = self._decoding.decodes(decoding)
        disturbs = (
            not all(self._flight.is_background(sequence) for sequence in decoding)
            or self.disturbs_others()
        )
        prefill = tuple(self._prefill.chunks(reading, disturbs=disturbs))
        self._publish()
        snapshots = self._prefill.snapshots(prefill)
        plan = StepPlan(
            self._closings.take(), *self.memory.take_drops(), opened, decode, prefill, snapshots
        )
        if not (plan.has_errands or plan.has_work or self._plans.is_in_flight):
            return None
        self._plans.add(plan, read)
        return plan

    def commit(self, result: StepResult) -> list[tuple[Sequence, Event]]:
        """Take the tokens that a step has sampled.

        Returns the events of each sequence, in order; tokens of rows that are gone are ignored.
        """
        self._plans.is_in_flight = result.in_flight
        self._closings.carried_out()
        if result.timing is not None:
            self._learn(result.timing)
        events = list(self._decoding.accept(result.sampled))
        self._decoding.refuse_stuck(result.stuck)
        return [*events, *self._prefill.finish_read(self._plans.rows_in_flight)]

    def elapse(self, seconds: float) -> list[Sequence]:
        """Count the seconds of the last step for the background sequences that it left out.

        Returns those that are served as interactive ones now.
        """
        held = [sequence for sequence in self._prefill.held if sequence.phase is Phase.PREFILLING]
        left_out = [sequence for sequence in (*self._queue, *held) if sequence.is_background]
        for sequence in left_out:
            sequence.wait(seconds, self.limits.background_wait_seconds)
        return [sequence for sequence in left_out if not sequence.is_background]

    def expected_seconds(self, plan: StepPlan) -> float:
        """Return the estimated duration of a step."""
        seconds = self.decode_pace.seconds(plan.decode_tokens)
        if plan.prefill:
            seconds += self.prefill_pace.seconds(plan.prompt_tokens, plan.prefill_context)
        return seconds

    def _publish(self) -> None:
        """Publish the tokens that rows will have computed after this step: other sequences may
        begin with them.
        """
        for sequence in self.batch:
            self.memory.rows.publish(sequence.row, sequence.known_tokens)

    def _learn(self, timing: StepTiming) -> None:
        if not timing.prefill_tokens:
            self.decode_pace.observe(timing.decode_tokens, timing.seconds)
            return
        extra = timing.seconds - self.decode_pace.seconds(timing.decode_tokens)
        self.prefill_pace.observe(timing.prefill_tokens, timing.prefill_context, extra)

    # ------------------------------------------------------------------------------------- failures

    def reconcile(self, inventory: Inventory) -> list[str]:
        """Make the block states agree with the inventory of an idle device.

        The next plan closes rows that no sequence has.

        Returns one line for each difference.
        """
        self._closings.close_unknown(inventory.rows)
        return self.memory.reconcile(inventory)

    def lose_rows(self) -> tuple[list[Sequence], tuple[SaveBlock, ...]]:
        """Take all rows away after the device has lost them.

        Returns the sequences that took part in the last steps, and the blocks to save.

        Other sequences with a row go back to the head of the queue, in their order.
        """
        saves = self._closings.lose_rows(self._plans.closings)
        saves += self.memory.rows.close_all(
            self._plans.read_before(self.batch.known_tokens()), self._plans.snapshots
        )
        lost = [sequence for sequence in self.batch if sequence.row in self._plans.rows]
        spared = [sequence for sequence in self.batch if sequence.row not in self._plans.rows]
        self.batch.clear()
        self._decoding.lose_rows()
        self._plans.clear()
        for sequence in reversed(spared):
            sequence.preempt()
            self._queue.put_back(sequence)
        for sequence in lost:
            self._closings.leave(sequence)
        return lost, saves

    def recovered(self, inventory: Inventory) -> None:
        """Take the inventory of a device that was reset.

        Blocks saved from lost rows are written as those of closed rows are.
        """
        self.memory.reconcile(inventory)
        self._closings.recovered()
