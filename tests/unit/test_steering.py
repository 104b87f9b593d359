"""What is demanded of an answer is demanded of it all the way: also after its row was taken away,
and where it cannot be said any more.
"""

from collections import Counter

import attrs
import pytest
import trio
from trio.testing import MockClock

from semantic_trio.domain.errors import GrammarError
from semantic_trio.domain.generation import FinishReason
from semantic_trio.domain.steering import NO_STEERING, Steering
from semantic_trio.domain.step import StepResult
from semantic_trio.testing import ByteDecoder, FakeRunner
from semantic_trio.testing.grammar import OneAnswer, OneAnswerState
from tests.unit.conftest import StartEngine, prompt, scheduler
from tests.unit.test_scheduler import request

ANSWER = b'{"name": "Ada", "age": 36}'


@attrs.frozen
class Fleeting(OneAnswer):
    """A grammar that cannot say what comes after some tokens."""

    after: int = 3

    def start(self) -> "FleetingState":
        return FleetingState(self.text, self.after)


@attrs.define(slots=False)
class FleetingState(OneAnswerState):
    left: int

    def allowed(self) -> bytes:
        if not self.left:
            raise GrammarError("too much")
        self.left -= 1
        return super().allowed()


@pytest.mark.parametrize(
    ("steering", "drawn", "added"),
    [
        (NO_STEERING, (1, 1), {}),
        (Steering(((5, 2.0),)), (5,), {5: 2.0}),
        (Steering(frequency_penalty=0.5), (1, 2, 1), {1: -1.0, 2: -0.5}),
        (Steering(presence_penalty=0.5), (1, 2, 1), {1: -0.5, 2: -0.5}),
        (Steering(((1, 3.0), (9, -1.0)), 1.0, 0.25), (1, 1), {1: 0.75, 9: -1.0}),
        (Steering(frequency_penalty=-1.0), (7,), {7: 1.0}),
    ],
)
def test_what_is_added_to_logits(
    steering: Steering, drawn: tuple[int, ...], added: dict[int, float]
) -> None:
    assert steering.additions(Counter(drawn)) == added


async def test_an_answer_that_had_to_give_way_keeps_its_form(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1))
    held = bench.submit(prompt(20), 100, grammar=OneAnswer(ANSWER))
    await trio.sleep(8.5)
    [sequence] = bench.engine.scheduler.batch
    bench.engine.scheduler.preempt(sequence)
    result = await held.result()

    assert result.text.encode() == ANSWER
    assert result.finished.reason is FinishReason.END_OF_TURN
    assert bench.engine.scheduler.preemptions == 1
    assert any(start.drawn for plan in bench.runner.plans for start in plan.open)


async def test_an_answer_whose_form_is_lost_fails_alone(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    lost = bench.submit(prompt(20), 100, grammar=Fleeting(ANSWER))
    other = bench.submit(prompt(20, 1), 30)

    with pytest.raises(GrammarError):
        await lost.result()
    assert (await other.result()).finished.completion_tokens == 30
    assert len(lost.stamps) == 3
    assert bench.engine.open_generations == 0
    bench.engine.memory.audit()


def test_a_row_that_is_gone_may_be_stuck() -> None:
    policy = scheduler()
    sequence = policy.add(request(), ByteDecoder())
    plan = policy.plan()
    assert plan is not None
    policy.abort(sequence)

    assert policy.commit(StepResult(stuck=(plan.open[0].row,))) == []
    assert policy.refused() == []
