"""Drafts change nothing but the number of passes: the fake runner and real models, with drafts that
are right, wrong, and right for a while.
"""

from collections.abc import Callable, Sequence

import attrs
import pytest
import trio

from semantic_trio.adapters.mlx.runner import MlxRunner
from semantic_trio.domain.content import Item, Kind, Tensor
from semantic_trio.domain.generation import (
    FinishReason,
    GenerationRequest,
    GenerationResult,
    SamplingParams,
)
from semantic_trio.domain.memory import Memory as EngineMemory
from semantic_trio.domain.scheduler import Scheduler
from semantic_trio.domain.speculation import Speculation
from semantic_trio.domain.step import Chunk, Decode, RowClose, RowStart, StepPlan
from semantic_trio.ports.runner import ModelRunner
from semantic_trio.testing import ByteDecoder
from tests.contract.conftest import ALIKE, fresh
from tests.contract.memory import Memory, block_key
from tests.contract.models import random_runner
from tests.contract.script import GREEDY, Script, close, logprobs, prompt, tokens
from tests.engines import UNBOUND_LIMITS, new_engine, running
from tests.search import sample

DRAFTING = sample(
    [
        "fake",
        "llama",
        "qwen2",
        "qwen3",
        "llama_paged",
        "gemma3_paged",
        "gpt_oss_paged",
        "deepseek_v3_paged",
    ],
    ALIKE,
)
WITHOUT = sample(
    ["gemma3_text", "gpt_oss", "mamba2", "qwen3_next", "falcon_h1", "llama4", "deepseek_v3"], ALIKE
)
WARM = SamplingParams(temperature=1.0, top_p=0.95)
COUNT = 24

drafting = pytest.mark.parametrize("family", DRAFTING)

# drafts, of what a row will draw and how many it has drawn
Guess = Callable[[Sequence[int], int], tuple[int, ...]]


def right(answer: Sequence[int], drawn: int) -> tuple[int, ...]:
    return tuple(answer[drawn : drawn + 5])


def wrong(answer: Sequence[int], drawn: int) -> tuple[int, ...]:
    return tuple((token + 1) % 250 for token in answer[drawn : drawn + 3])


def right_for_a_while(answer: Sequence[int], drawn: int) -> tuple[int, ...]:
    return (*answer[drawn : drawn + drawn % 4], *wrong(answer, drawn + drawn % 4))


GUESSES = [right, wrong, right_for_a_while]


async def speculate(
    script: Script, answers: dict[int, Sequence[int]], guess: Guess, beside: tuple[int, ...] = ()
) -> int:
    """Go on with rows that have one token on its way, with drafts for those of `answers`.

    Returns the number of steps.
    """
    drawn, steps = dict.fromkeys((*answers, *beside), 1), 0
    while any(count < COUNT for count in drawn.values()):
        decodes = []
        for row in [row for row in drawn if drawn[row] < COUNT]:
            drafts = (
                guess(answers[row], drawn[row])[: COUNT - drawn[row] - 1] if row in answers else ()
            )
            decodes.append(Decode(row, drawn[row], drafts))
        await script.step(StepPlan(decode=tuple(decodes)))
        steps += 1
        for decode in decodes:
            drawn[decode.row] = (
                len(script.drawn[decode.row])
                if any(one.drafts for one in decodes)
                else decode.draws + 1
            )
    await script.land()
    return steps


async def begin(script: Script, *starts: RowStart) -> None:
    chunks = tuple(
        Chunk(start.row, prompt(20 + 9 * at, at), 0, 0) for at, start in enumerate(starts)
    )
    await script.step(StepPlan(open=starts, prefill=chunks))


async def answers_of(runner: ModelRunner, *starts: RowStart) -> Script:
    """What rows draw without drafts."""
    script = Script(runner)
    await begin(script, *starts)
    await speculate(script, {}, right, tuple(start.row for start in starts))
    await script.step(StepPlan(close=tuple(RowClose(start.row) for start in starts)))
    return script


@drafting
@pytest.mark.parametrize("guess", GUESSES, ids=lambda guess: guess.__name__)
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
async def test_answers_are_those_without_drafts(
    family: str, guess: Guess, sampling: SamplingParams
) -> None:
    runner, starts = (
        fresh(family),
        [RowStart(row, row, sampling, top_logprobs=2) for row in range(3)],
    )
    plain, script = await answers_of(runner, *starts), Script(runner)

    await begin(script, *starts)
    steps = await speculate(
        script, {row: tokens(plain.drawn[row]) for row in (0, 2)}, guess, beside=(1,)
    )

    for row in range(3):
        assert tokens(script.drawn[row]) == tokens(plain.drawn[row])
        assert [one.index for one in script.drawn[row]] == list(range(COUNT))
        assert close(logprobs(script.drawn[row]), logprobs(plain.drawn[row]))
    assert steps == COUNT - 1, "a row without drafts draws one token in each pass"


@drafting
async def test_drafts_that_are_right_save_passes(family: str) -> None:
    runner, start = fresh(family), RowStart(0, 0, WARM)
    plain, script = await answers_of(runner, start), Script(runner)

    await begin(script, start)
    steps = await speculate(script, {0: tokens(plain.drawn[0])}, right)

    assert steps == 4  # of six tokens each
    assert tokens(script.drawn[0]) == tokens(plain.drawn[0])


@drafting
async def test_forced_tokens_are_verified_like_sampled_ones(family: str) -> None:
    runner, forced = fresh(family), prompt(COUNT, salt=9)
    plain, script = await answers_of(runner, RowStart(0, 0, GREEDY, forced)), Script(runner)

    await begin(script, RowStart(0, 0, GREEDY, forced))
    await speculate(script, {0: forced}, right_for_a_while)

    assert tokens(script.drawn[0]) == list(forced)
    assert close(logprobs(script.drawn[0]), logprobs(plain.drawn[0]))


@pytest.mark.parametrize("family", DRAFTING[1:])
async def test_a_row_that_is_not_rewound_is_noticed(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sabotage of the tests above."""
    runner, forced = fresh(family), prompt(COUNT, salt=9)
    assert isinstance(runner, MlxRunner)
    plain, script = await answers_of(runner, RowStart(0, 0, GREEDY, forced)), Script(runner)
    monkeypatch.setattr(type(runner.batch.layout), "rewind", lambda *_: None)

    await begin(script, RowStart(0, 0, GREEDY, forced))
    await speculate(script, {0: forced}, right_for_a_while)

    assert not close(logprobs(script.drawn[0]), logprobs(plain.drawn[0]))


def numbers(tensor: Tensor) -> list[float]:
    return list(tensor.data.cast("B").cast("f" if tensor.dtype == "F32" else "i"))


async def kept(
    runner: ModelRunner, answer: Sequence[int] | None
) -> tuple[list[int], dict[Item, dict[str, Tensor]]]:
    """What a row draws around the end of a block and what is stored of it; with drafts where the
    answer is known.
    """
    script, history = Memory(runner), prompt(245)
    start = attrs.evolve(script.start(), forced=())
    await script.step(StepPlan(open=(start,), prefill=(Chunk(start.row, history, 0, 0),)))
    await speculate(
        script,
        {} if answer is None else {start.row: answer},
        right_for_a_while,
        (start.row,) if answer is None else (),
    )
    await script.close(start.row, len(history) + COUNT - 1)
    return tokens(script.drawn[start.row]), await script.take_away()


@drafting
async def test_what_is_kept_of_a_row_is_what_is_kept_without_drafts(family: str) -> None:
    runner = fresh(family)
    answer, plain = await kept(runner, None)
    _, drafted = await kept(runner, answer)

    assert (
        plain.keys()
        == drafted.keys()
        == {Item(Kind.BLOCK, block_key(0)), Item(Kind.BLOCK, block_key(256))}
    )
    for item, content in plain.items():
        for name, tensor in content.items():
            other = drafted[item][name]
            assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype)
            assert numbers(other) == pytest.approx(numbers(tensor), abs=1e-4)


@pytest.mark.parametrize("family", WITHOUT)
def test_layouts_whose_rows_cannot_be_rewound_cheaply_take_no_drafts(family: str) -> None:
    assert random_runner(family).sizes.decode_tokens == 0


@pytest.mark.parametrize("family", ["mamba2", "llama4"])
def test_a_row_that_takes_no_drafts_is_never_rewound(family: str) -> None:
    with pytest.raises(NotImplementedError):
        random_runner(family).batch.layout.rewind([], 1)


# ------------------------------------------------------------------------------------------- engine


def request(tokens: tuple[int, ...], count: int = 60, **more: object) -> GenerationRequest:
    fields: dict[str, object] = {"seed": 1, "sampling": GREEDY, "boundaries": (20,)} | more
    return GenerationRequest("r", tokens, count, **fields)  # type: ignore[arg-type]


REPEATING = prompt(30) * 3
REQUESTS = {
    "greedy": request(REPEATING),
    "sampled": request(prompt(40, 3), sampling=SamplingParams(temperature=0.3)),
    "forced": request(prompt(50, 4), forced=prompt(30, 5) * 2),
    "ends": request(
        REPEATING,
        forced=(*REPEATING[:25], 99, *REPEATING[25:]),
        stop_tokens=frozenset({REPEATING[17]}),
    ),
    "short": request(REPEATING, 7, forced=REPEATING),
    "penalised": request(prompt(30, 6) * 2, sampling=SamplingParams(repetition_penalty=1.2)),
}


async def served(
    runner: ModelRunner, most: int, budget: int = 1 << 30
) -> tuple[dict[str, GenerationResult], Scheduler]:
    """The answers to all requests at once, and then to what goes on from one of them."""
    engine = new_engine(
        runner,
        UNBOUND_LIMITS,
        budget=budget,
        speculation=Speculation(most, runner.sizes.decode_tokens),
    )
    results: dict[str, GenerationResult] = {}

    async def ask(name: str, one: GenerationRequest) -> None:
        results[name] = await engine.submit(one, ByteDecoder()).result()

    async with running(engine):
        async with trio.open_nursery() as asking:
            for name, one in REQUESTS.items():
                asking.start_soon(ask, name, one)
        history = REPEATING + results["greedy"].tokens + prompt(5)
        await ask("next turn", request(history, 20))
    return results, engine.scheduler


@drafting
@pytest.mark.parametrize("rows", [20, 3.3], ids=["roomy", "tight"])
async def test_an_engine_that_speculates_answers_as_one_that_does_not(
    family: str, rows: float
) -> None:
    roomy, _ = await served(fresh(family), 0)
    runner = fresh(family)
    budget = int(rows * EngineMemory(runner.spec, 1 << 30, 128).row_bytes(160))

    found, scheduler = await served(runner, 8, budget)

    for name, plain in roomy.items():
        assert found[name].tokens == plain.tokens, name
        assert found[name].finished.reason == plain.finished.reason, name
        assert close(list(found[name].logprobs), list(plain.logprobs)), name
    assert found["ends"].finished.reason is FinishReason.END_OF_TURN
    assert len(found["short"].tokens) == 7
    assert 0 < scheduler.speculation.accepted <= scheduler.speculation.drafted
    if rows == 20:
        assert found["next turn"].finished.reuse.tokens == roomy["next turn"].finished.reuse.tokens


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3_next"])
async def test_an_engine_drafts_nothing_where_rows_cannot_be_rewound(family: str) -> None:
    _, scheduler = await served(random_runner(family), 8)

    assert scheduler.speculation.drafted == 0
