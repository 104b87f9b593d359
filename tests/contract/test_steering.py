"""What is demanded of a row's draws holds for that row, and for no other row of the pass."""

import attrs
import pytest
import structlog

from semantic_trio.domain.errors import GrammarError
from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.steering import Steering
from semantic_trio.domain.step import Chunk, Decode, RowClose, RowStart, StepPlan
from semantic_trio.ports.runner import ModelRunner
from tests.contract.script import GREEDY, Script, logprobs, prompt, tokens

WARM = SamplingParams(temperature=1.5)
NO_REPETITION = SamplingParams(repetition_penalty=10.0)
ORDER = (7, 101, 101, 3, 200, 42, 42, 9)


@attrs.frozen
class Listed:
    """A grammar of one answer; it fails where `fails_at` says."""

    answer: tuple[int, ...]
    fails_at: int = -1

    def start(self) -> "ListedState":
        return ListedState(self)


@attrs.define
class ListedState:
    grammar: Listed
    at: int = 0

    def allowed(self) -> bytes:
        if self.at == self.grammar.fails_at:
            raise GrammarError("told to fail")
        return (1 << self.grammar.answer[min(self.at, len(self.grammar.answer) - 1)]).to_bytes(
            32, "little"
        )

    def take(self, token: int) -> None:
        assert self.at >= len(self.grammar.answer) or token == self.grammar.answer[self.at]
        self.at += 1


async def beside(runner: ModelRunner, start: RowStart, count: int = 8) -> Script:
    """A row that is steered between two that are not, one of which is still reading its prompt when
    the others draw.
    """
    script = Script(runner)
    neighbours = RowStart(1, 5, WARM), RowStart(3, 6, GREEDY)
    opened = (neighbours[0], attrs.evolve(start, row=2), neighbours[1])
    first = (
        Chunk(1, prompt(10), 0, 0),
        Chunk(2, prompt(12, 1), 0, 0),
        Chunk(3, prompt(4, 2), 0, None),
    )
    await script.step(StepPlan(open=opened, prefill=first))
    await script.step(
        StepPlan(decode=(Decode(1, 1), Decode(2, 1)), prefill=(Chunk(3, prompt(9, 2)[4:], 4, 0),))
    )
    for index in range(2, count):
        await script.step(
            StepPlan(decode=(Decode(3, index - 1), Decode(2, index), Decode(1, index)))
        )
    await script.land()
    await script.step(StepPlan(close=(RowClose(1), RowClose(2), RowClose(3))))
    return script


async def test_neighbours_draw_what_they_draw_alone(runner: ModelRunner) -> None:
    alone = await beside(runner, RowStart(2, 1, GREEDY))
    for start in (
        RowStart(2, 1, GREEDY, grammar=Listed(ORDER)),
        RowStart(2, 1, GREEDY, steering=Steering(((5, 50.0),), frequency_penalty=2.0)),
        RowStart(2, 1, WARM, top_logprobs=4),
        RowStart(2, 1, NO_REPETITION, penalised=prompt(12, 1)),
    ):
        together = await beside(runner, start)
        for row in (1, 3):
            assert tokens(together.drawn[row]) == tokens(alone.drawn[row])
            assert logprobs(together.drawn[row]) == pytest.approx(
                logprobs(alone.drawn[row]), abs=3e-4
            )


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
async def test_a_grammar_is_kept_to(runner: ModelRunner, sampling: SamplingParams) -> None:
    script = await beside(runner, RowStart(2, 1, sampling, grammar=Listed(ORDER)))
    assert tuple(tokens(script.drawn[2])) == ORDER


async def test_what_is_allowed_and_as_good_as_impossible_is_drawn_all_the_same(
    runner: ModelRunner,
) -> None:
    """Filters that keep a part of all probability have to find that part among what is left."""
    against = Steering(tuple((token, -300.0) for token in set(ORDER)))
    start = RowStart(
        4,
        1,
        SamplingParams(temperature=1.0, top_p=0.9, min_p=0.01),
        grammar=Listed(ORDER),
        steering=against,
    )
    assert tuple(tokens(await Script(runner).generate(4, prompt(10), 8, start))) == ORDER


async def test_a_row_that_comes_back_goes_on_in_its_grammar(runner: ModelRunner) -> None:
    start = RowStart(4, 1, GREEDY, grammar=Listed(ORDER), drawn=ORDER[:3])
    drawn = await Script(runner).generate(4, prompt(10) + ORDER[:3], 5, start)
    assert tuple(tokens(drawn)) == ORDER[3:]


async def test_log_probabilities_are_those_of_the_model_whatever_may_be_drawn(
    runner: ModelRunner,
) -> None:
    forced = await Script(runner).generate(4, prompt(10), 8, RowStart(4, 1, GREEDY, forced=ORDER))
    held = await Script(runner).generate(
        5, prompt(10), 8, RowStart(5, 1, GREEDY, grammar=Listed(ORDER))
    )
    plain = await Script(runner).generate(6, prompt(10), 1, RowStart(6, 1, GREEDY, top_logprobs=5))
    steered = await Script(runner).generate(
        7, prompt(10), 1, RowStart(7, 1, GREEDY, grammar=Listed(ORDER), top_logprobs=5)
    )
    assert dict(steered[0].top) == pytest.approx(dict(plain[0].top), abs=3e-4)
    assert tokens(held) == tokens(forced)
    assert logprobs(held) == pytest.approx(logprobs(forced), abs=3e-4)


async def test_a_grammar_that_fails_stops_its_row_alone(runner: ModelRunner) -> None:
    script = Script(runner)
    failing = RowStart(2, 1, GREEDY, grammar=Listed(ORDER, fails_at=2), log_ids={"agent": "ada"})
    opened = (RowStart(1, 5, GREEDY), failing)
    results = [
        await runner.step(
            StepPlan(open=opened, prefill=(Chunk(1, prompt(10), 0, 0), Chunk(2, prompt(10), 0, 0)))
        )
    ]
    with structlog.testing.capture_logs() as lines:
        results += [
            await runner.step(StepPlan(decode=(Decode(1, index), Decode(2, index))))
            for index in range(1, 5)
        ]
        results.append(await runner.step(StepPlan()))

    assert all((line["agent"], line["row"]) == ("ada", 2) for line in lines)
    told = [one for result in results for one in result.sampled]
    assert [one.token for one in told if one.row == 2] == list(ORDER[:2])
    assert [one.index for one in told if one.row == 1] == [0, 1, 2, 3, 4]
    assert {row for result in results for row in result.stuck} == {2}
    await script.step(StepPlan(close=(RowClose(1), RowClose(2))))


async def test_a_bias_decides(runner: ModelRunner) -> None:
    wanted = ord("q")
    pushed = await Script(runner).generate(
        4, prompt(10), 5, RowStart(4, 1, WARM, steering=Steering(((wanted, 100.0),)))
    )
    plain = await Script(runner).generate(5, prompt(10), 1)
    banned = await Script(runner).generate(
        6, prompt(10), 1, RowStart(6, 1, GREEDY, steering=Steering(((plain[0].token, -100.0),)))
    )
    unknown = await Script(runner).generate(
        7,
        prompt(10),
        1,
        RowStart(7, 1, GREEDY, steering=Steering(((2**31, 100.0), (10**9, 100.0)))),
    )
    assert tokens(pushed) == [wanted] * 5
    assert tokens(unknown) == tokens(plain)
    assert tokens(banned) != tokens(plain)


@pytest.mark.parametrize(
    "steering", [Steering(frequency_penalty=400.0), Steering(presence_penalty=400.0)]
)
async def test_a_penalty_counts_what_was_drawn(runner: ModelRunner, steering: Steering) -> None:
    pushed = attrs.evolve(steering, bias=((40, 700.0), (41, 600.0), (42, 500.0)))
    drawn = await Script(runner).generate(4, prompt(10), 3, RowStart(4, 1, GREEDY, steering=pushed))
    resumed = await Script(runner).generate(
        5, prompt(10) + (40,), 2, RowStart(5, 1, GREEDY, steering=pushed, drawn=(40,))
    )
    assert tokens(drawn) == [40, 41, 42]
    assert tokens(resumed) == [41, 42]


async def test_a_repetition_penalty_is_on_prompt_and_answer(runner: ModelRunner) -> None:
    read = prompt(10)
    start = RowStart(4, 1, NO_REPETITION, penalised=read)
    drawn = tokens(await Script(runner).generate(4, read, 8, start))
    resumed = attrs.evolve(start, row=5, drawn=tuple(drawn[:3]))
    again = tokens(await Script(runner).generate(5, read + tuple(drawn[:3]), 5, resumed))
    forced = tokens(
        await Script(runner).generate(
            6, read, 8, attrs.evolve(start, row=6, forced=tuple(drawn[:3]))
        )
    )

    assert len({*read, *drawn}) == len(set(read)) + len(drawn), (
        "nothing that was read or drawn is drawn again"
    )
    assert again == drawn[3:]
    assert forced == drawn


async def test_a_repetition_penalty_leaves_log_probabilities_as_they_are(
    runner: ModelRunner,
) -> None:
    plain = await Script(runner).generate(4, prompt(10), 1, RowStart(4, 1, GREEDY, top_logprobs=5))
    penalised = await Script(runner).generate(
        5, prompt(10), 1, RowStart(5, 1, NO_REPETITION, penalised=(plain[0].token,), top_logprobs=5)
    )

    assert penalised[0].token != plain[0].token
    assert dict(penalised[0].top) == pytest.approx(dict(plain[0].top), abs=3e-4)


async def test_the_likeliest_tokens_are_told_in_order(runner: ModelRunner) -> None:
    script = await beside(runner, RowStart(2, 1, WARM, top_logprobs=5))
    for one in script.drawn[2]:
        values = [value for _, value in one.top]
        assert len(set(dict(one.top))) == 5
        assert values == sorted(values, reverse=True)
        told = dict(one.top)
        assert told.get(one.token, values[-1]) == pytest.approx(
            one.logprob if one.token in told else values[-1], abs=1e-5
        )
        assert one.token in told or one.logprob <= values[-1] + 1e-5
    assert all(one.top == () for row in (1, 3) for one in script.drawn[row])
