"""The scheduler's promises under any order of events."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from semantic_trio.domain.errors import PromptTooLongError
from semantic_trio.domain.generation import Event, Finished, GenerationRequest, TokenEvent
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.shares import fair_shares
from semantic_trio.domain.speculation import Speculation
from semantic_trio.domain.step import (
    Decode,
    Inventory,
    SampledToken,
    StepPlan,
    StepResult,
    StepTiming,
)
from semantic_trio.testing import ByteCodec
from tests.search import examples
from tests.unit.conftest import scheduler


def request(
    prompt: int = 8, max_tokens: int = 5, name: str = "r", priority: Priority = Priority.INTERACTIVE
) -> GenerationRequest:
    return GenerationRequest(
        name,
        tuple(range(prompt)),
        max_tokens,
        seed=1,
        stop_tokens=frozenset({0}),
        priority=priority,
    )


@given(st.integers(0, 500), st.lists(st.integers(0, 300), max_size=10))
def test_shares_are_whole_fair_and_waste_nothing(budget: int, wants: list[int]) -> None:
    shares = fair_shares(budget, wants)

    assert sum(shares) == min(budget, sum(wants))
    assert all(0 <= share <= want for share, want in zip(shares, wants, strict=True))
    for share, want in zip(shares, wants, strict=True):
        if share < want:
            assert all(other <= share + 1 for other in shares), (
                "nobody has more than one who would have liked more"
            )


class Device:
    """Keeps to the runner's side of the contract, and checks the scheduler's."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}  # tokens read
        self.drawn: dict[int, int] = {}  # tokens drawn
        self.late = StepResult()
        # rows draw one letter again and again; else one that they have not drawn lately
        self.repeats = True

    def step(self, plan: StepPlan, ends: bool) -> StepResult:
        for closing in plan.close:
            assert all(block.stop <= self.rows[closing.row] for block in closing.blocks), (
                "what is kept was read"
            )
            del self.rows[closing.row]
            self.drawn.pop(closing.row, None)
        for start in plan.open:
            assert start.row not in self.rows
            self.rows[start.row] = start.restore.length if start.restore else 0
            self.drawn[start.row] = -1
        now = []
        for decode in plan.decode:
            assert self.drawn[decode.row] == decode.draws - 1, "draws follow one another"
            now += self._verify(decode, ends)
        for chunk in plan.prefill:
            assert chunk.tokens, "no empty chunks"
            assert chunk.context == self.rows[chunk.row], "chunks follow one another"
            self.rows[chunk.row] += len(chunk.tokens)
            if chunk.draws is not None:
                now.append(self._draw(chunk.row, chunk.draws, ends))
        timing = (
            StepTiming(plan.decode_tokens, plan.prompt_tokens, 0, 0.01) if plan.has_work else None
        )
        answer, self.late = self.late, StepResult(tuple(now), timing)
        if plan.has_drafts:
            answer, self.late = answer.followed_by(self.late), StepResult()
            return answer
        return StepResult(answer.sampled, answer.timing, in_flight=plan.has_work)

    def _verify(self, decode: Decode, ends: bool) -> list[SampledToken]:
        """What a row draws: one token, and one behind each draft that is accepted."""
        drawn = [self._draw(decode.row, decode.draws, ends)]
        self.rows[decode.row] += 1
        for index, draft in enumerate(decode.drafts, decode.draws + 1):
            if drawn[-1].token != draft:
                break
            drawn.append(self._draw(decode.row, index, ends))
            self.rows[decode.row] += 1
        return drawn

    def _draw(self, row: int, index: int, ends: bool) -> SampledToken:
        self.drawn[row] = index
        letter = 97 if self.repeats else 98 + index % 25
        return SampledToken(row, index, 0 if ends else letter, -1.0)


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, go, fail and are preempted in any order."""

    @initialize(rows=st.integers(1, 4), chunk=st.integers(16, 64), drafts=st.integers(0, 8))
    def begin(self, rows: int, chunk: int, drafts: int) -> None:
        self.limits = Limits(
            context_length=200, max_rows=rows, chunk_tokens=chunk, max_stall_seconds=0.25
        )
        self.scheduler, self.device = (
            scheduler(self.limits, speculation=Speculation(drafts, 12)),
            Device(),
        )
        self.alive: list[Sequence] = []
        self.tokens: dict[Sequence, int] = {}

    @rule(
        prompt=st.integers(1, 190),
        max_tokens=st.integers(1, 30),
        priority=st.sampled_from(Priority),
    )
    def add(self, prompt: int, max_tokens: int, priority: Priority) -> None:
        sequence = self.scheduler.add(
            request(prompt, max_tokens, priority=priority), ByteCodec().decoder()
        )
        self.alive.append(sequence)
        self.tokens[sequence] = 0

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.alive))
        self.scheduler.abort(sequence)
        self.alive.remove(sequence)

    @precondition(
        lambda self: any(s.phase in (Phase.PREFILLING, Phase.DECODING) for s in self.alive)
    )
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        running = [s for s in self.alive if s.phase in (Phase.PREFILLING, Phase.DECODING)]
        self.scheduler.preempt(data.draw(st.sampled_from(running)))

    @rule(ends=st.booleans(), repeats=st.booleans(), steps=st.integers(1, 5))
    def advance(self, ends: bool, repeats: bool, steps: int) -> None:
        self.device.repeats = repeats
        for _ in range(steps):
            plan = self.scheduler.plan()
            if plan is None:
                return
            assert plan.prompt_tokens <= self.limits.chunk_tokens
            assert plan.decode_tokens <= max(12, len(plan.decode))
            assert all(
                self._room(decode.row) >= self.device.rows[decode.row] + len(decode.indices)
                for decode in plan.decode
            ), "what is read has memory"
            assert all(
                decode.indices.stop <= self._sequence(decode.row).max_tokens
                for decode in plan.decode
            )
            self._take(self.scheduler.commit(self.device.step(plan, ends)))
            self.scheduler.elapse(20.0)

    @rule()
    def lose_the_device(self) -> None:
        for sequence in self.scheduler.lose_rows()[0]:
            self.alive.remove(sequence)
        self.device = Device()

    def _room(self, row: int) -> int:
        return self.scheduler.memory.rows._tenants[row].fits

    def _sequence(self, row: int) -> Sequence:
        return next(sequence for sequence in self.alive if sequence.row == row)

    def _take(self, events: list[tuple[Sequence, Event]]) -> None:
        for sequence, event in events:
            assert sequence in self.alive, "nothing is delivered to who is gone"
            if isinstance(event, TokenEvent):
                self.tokens[sequence] += 1
            if isinstance(event, Finished):
                assert event.completion_tokens == self.tokens[sequence] <= sequence.max_tokens
                self.alive.remove(sequence)

    @invariant()
    def rows_are_never_more_than_allowed(self) -> None:
        assert self.scheduler.running <= self.limits.max_rows

    @invariant()
    def the_books_agree(self) -> None:
        self.scheduler.memory.audit()

    @invariant()
    def every_live_sequence_is_somewhere(self) -> None:
        assert self.scheduler.running + self.scheduler.waiting == len(self.alive)

    def teardown(self) -> None:
        for _ in range(2000):
            plan = self.scheduler.plan()
            if plan is None:
                break
            self._take(self.scheduler.commit(self.device.step(plan, ends=False)))
        assert not self.alive, "everyone is served in the end"
        assert not self.device.rows, "no row is left open"


TestScheduler = pytest.mark.exhaustive(pytest.mark.timeout(1200)(SchedulerMachine.TestCase))
TestScheduler.settings = settings(max_examples=examples(300), stateful_step_count=40, deadline=None)


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    policy = scheduler(Limits(context_length=8, max_rows=1, chunk_tokens=16, max_stall_seconds=1))

    with pytest.raises(PromptTooLongError):
        policy.add(request(prompt=8), ByteCodec().decoder())
    assert policy.remaining_tokens(request(prompt=7)) == 1


def test_max_tokens_is_never_drawn_beyond() -> None:
    """The device looks ahead; a row that has its last draw planned is not planned again."""
    policy, device = scheduler(Limits(100, 1, 16, 1.0)), Device()
    policy.add(request(prompt=4, max_tokens=3), ByteCodec().decoder())
    draws = []
    while (plan := policy.plan()) is not None:
        draws += [d.draws for d in plan.decode] + [c.draws for c in plan.prefill]
        policy.commit(device.step(plan, ends=False))

    assert draws == [0, 1, 2]


def test_who_only_held_a_row_when_the_device_failed_goes_on_later() -> None:
    policy, device = scheduler(Limits(100, 2, 1, 1.0)), Device()
    first, second = (
        policy.add(request(prompt=8, name=name), ByteCodec().decoder()) for name in "ab"
    )
    plan = policy.plan()
    assert plan is not None
    device.step(plan, ends=False)

    lost, _ = policy.lose_rows()

    assert [chunk.row for chunk in plan.prefill] == [first.row], "a chunk of one token is one row's"
    assert (lost, second.phase, policy.waiting) == ([first], Phase.WAITING, 1)


def test_who_only_reads_is_done_when_its_own_pass_has_landed() -> None:
    """A device that looks ahead answers for the pass before: this one may still fail."""
    policy, device = scheduler(Limits(100, 1, 16, 1.0)), Device()
    sequence = policy.add(request(prompt=8, max_tokens=0), ByteCodec().decoder())
    plans = [policy.plan()]
    assert plans[0] is not None
    early = policy.commit(device.step(plans[0], ends=False))
    plans.append(policy.plan())
    assert plans[1] is not None

    events = policy.commit(device.step(plans[1], ends=False))

    assert early == []
    assert [(who, type(event)) for who, event in events] == [(sequence, Finished)]


def preempted_before_the_last_answer(
    max_tokens: int,
) -> tuple[Scheduler, Device, Sequence, StepPlan]:
    """A sequence that was preempted while the answer to its last plan was on its way."""
    policy, device = scheduler(Limits(100, 1, 16, 1.0)), Device()
    sequence = policy.add(request(prompt=4, max_tokens=max_tokens), ByteCodec().decoder())
    for _ in range(2):
        plan = policy.plan()
        assert plan is not None
        policy.commit(device.step(plan, ends=False))
    plan = policy.plan()
    assert plan is not None
    policy.preempt(sequence)
    return policy, device, sequence, plan


def test_the_last_token_of_a_row_that_was_taken_away_ends_its_turn() -> None:
    policy, device, sequence, plan = preempted_before_the_last_answer(max_tokens=2)

    events = policy.commit(device.step(plan, ends=False))

    assert [type(event) for _, event in events] == [TokenEvent, Finished]
    assert (sequence.phase, policy.waiting) == (Phase.FINISHED, 0)


def test_the_last_token_of_a_row_that_was_taken_away_is_dropped_with_its_request() -> None:
    policy, device, sequence, plan = preempted_before_the_last_answer(max_tokens=9)

    policy.abort(sequence)
    events = policy.commit(device.step(plan, ends=False))

    assert events == []
    assert (sequence.phase, policy.waiting) == (Phase.FINISHED, 0)


def test_who_is_followed_no_more_is_forgotten() -> None:
    """What prompts have in common is kept while one of them is read, and there is always another
    that is.
    """
    policy, device = scheduler(Limits(4000, 2, 16, 1.0)), Device()
    for number in range(20):
        tokens = tuple(range(200 * number, 200 * number + 50 + 70 * (number % 2)))
        policy.add(
            GenerationRequest(f"{number}", tokens, max_tokens=1, seed=1), ByteCodec().decoder()
        )
    sizes = []
    while (plan := policy.plan()) is not None:
        sizes.append(len(policy._admission.flight._alike))
        assert {row for _, row in policy._admission.flight._alike} <= {
            sequence.row for sequence in policy.batch
        }
        policy.commit(device.step(plan, ends=False))

    assert 0 < max(sizes) <= 2 * 20


def test_rows_nobody_works_with_are_closed_with_the_next_plan() -> None:
    policy, device = scheduler(), Device()
    device.rows[7] = 3

    told = policy.reconcile(Inventory(frozenset({7}), frozenset(), frozenset()))

    plan = policy.plan()
    assert plan is not None
    device.step(plan, ends=False)
    assert told == ["1 rows nobody works with"]
    assert device.rows == {}


def test_a_row_that_has_read_nothing_leaves_nothing_behind() -> None:
    policy = scheduler(Limits(100, 2, 1, 1.0))
    _, second = (policy.add(request(prompt=8, name=name), ByteCodec().decoder()) for name in "ab")
    policy.plan()

    policy.abort(second)
    policy.abort(second)

    plan = policy.plan()
    assert plan is not None
    assert [closing.row for closing in plan.close] == [second.row]
    assert second.agent is not None
    assert second.agent.turns == 0
