"""What the engine relies on, claimed of the fake runner and of real models of several families
alike.
"""

import pytest

from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.step import Chunk, Decode, RowClose, RowStart, StepPlan
from semantic_trio.ports.runner import ModelRunner
from tests.contract.script import GREEDY, Script, close, logprobs, prompt, tokens
from tests.search import sample

WARM = SamplingParams(temperature=1.0, top_p=0.95)
LENGTHS = (40, 3, 17, 64, 1, 33, 8, 50)  # around and beyond the tiny models' window of 32


async def batch_of_eight(script: Script, forced: list[tuple[int, ...]], chunks: int = 16) -> None:
    """Eight rows of different lengths that join one step apart, read in pieces beside each other's
    decoding, and leave one by one.
    """
    count = len(forced[0])
    read, drawn = [0] * len(LENGTHS), [0] * len(LENGTHS)
    closed: set[int] = set()
    for tick in range(200):
        joined = range(min(tick + 1, len(LENGTHS)))
        opening = tuple(RowStart(i, i, GREEDY, forced[i]) for i in joined if i == tick)
        decode, prefill = [], []
        for i in joined:
            if read[i] == LENGTHS[i] and 0 < drawn[i] < count:
                decode.append(Decode(i, drawn[i]))
                drawn[i] += 1
        for i in joined:
            if read[i] < LENGTHS[i]:
                piece = prompt(LENGTHS[i], i)[read[i] : read[i] + chunks]
                ends = read[i] + len(piece) == LENGTHS[i]
                prefill.append(Chunk(i, piece, read[i], 0 if ends else None))
                read[i], drawn[i] = read[i] + len(piece), int(ends)
        done = {
            i for i in joined if drawn[i] == count and len(script.drawn.get(i, ())) == count
        } - closed
        closed |= done
        await script.step(
            StepPlan(
                close=tuple(map(RowClose, done)),
                open=opening,
                decode=tuple(decode),
                prefill=tuple(prefill),
            )
        )
        if len(closed) == len(LENGTHS):
            return


async def test_forced_positions_score_alone_as_beside_seven_others(runner: ModelRunner) -> None:
    forced = [prompt(20, salt=i + 50) for i in range(len(LENGTHS))]
    alone = Script(runner)
    for i, length in enumerate(LENGTHS):
        await alone.generate(
            100 + i, prompt(length, i), 20, RowStart(100 + i, i, GREEDY, forced[i])
        )

    together = Script(runner)
    await batch_of_eight(together, forced)

    for i in range(len(LENGTHS)):
        assert tokens(together.drawn[i]) == list(forced[i])
        assert close(logprobs(together.drawn[i]), logprobs(alone.drawn[100 + i])), f"row {i}"


def spoil(history: tuple[int, ...], wrong: str, at: int) -> tuple[int, ...]:
    return {
        "one token less": history[:at] + history[at + 1 :],
        "one token changed": history[:at] + (history[at] + 1,) + history[at + 1 :],
        "two swapped": history[:at] + (history[at + 1], history[at]) + history[at + 2 :],
        "another row's prompt": prompt(len(history), salt=1),
    }[wrong]


async def scores(runner: ModelRunner, history: tuple[int, ...]) -> list[float]:
    forced = prompt(20, salt=99)
    return logprobs(await Script(runner).generate(0, history, 20, RowStart(0, 0, GREEDY, forced)))


WRONGS = ["one token less", "one token changed", "two swapped", "another row's prompt"]


@pytest.mark.parametrize("wrong", WRONGS)
async def test_the_comparison_sees_a_wrong_history(runner: ModelRunner, wrong: str) -> None:
    """The sabotage of the test above: what it must notice is noticed."""
    history = prompt(60)

    assert not close(
        await scores(runner, history), await scores(runner, spoil(history, wrong, at=57))
    )


@pytest.mark.parametrize("wrong", WRONGS)
@pytest.mark.parametrize(
    "runner",
    sample(
        ["fake", "llama", "qwen3", "gemma3_text", "gpt_oss", "deepseek_v3"], ("qwen3", "gpt_oss")
    ),
    indirect=True,
)
async def test_models_with_global_layers_see_it_however_far_back(
    runner: ModelRunner, wrong: str
) -> None:
    history = prompt(60)

    assert not close(
        await scores(runner, history), await scores(runner, spoil(history, wrong, at=4))
    )


@pytest.mark.parametrize("chunk", sample([1, 7, 31, 32, 33, 64], (7, 64)))
async def test_pieces_of_a_prompt_read_as_the_whole(runner: ModelRunner, chunk: int) -> None:
    script, forced = Script(runner), prompt(20, salt=9)
    whole = await script.generate(0, prompt(70), 20, RowStart(0, 0, GREEDY, forced))
    pieces = await script.generate(1, prompt(70), 20, RowStart(1, 0, GREEDY, forced), chunk=chunk)

    assert close(logprobs(whole), logprobs(pieces))


async def test_a_seed_repeats_alone_in_a_batch_and_after_its_row_was_taken_away(
    runner: ModelRunner,
) -> None:
    script, start = Script(runner), RowStart(0, 1234, WARM)
    alone = tokens(await script.generate(0, prompt(10), 12, start))

    await script.step(
        StepPlan(
            open=tuple(
                RowStart(i, seed, WARM if i != 3 else GREEDY)
                for i, seed in ((1, 1234), (2, 5), (3, 1234))
            ),
            prefill=tuple(Chunk(i, prompt(10, salt), 0, 0) for i, salt in ((1, 0), (2, 0), (3, 1))),
        )
    )
    for index in range(1, 12):
        await script.step(StepPlan(decode=tuple(Decode(i, index) for i in (2, 1, 3))))
    await script.land()

    resumed = Script(runner)
    await resumed.step(
        StepPlan(
            close=tuple(map(RowClose, (1, 2, 3))),
            open=(RowStart(9, 1234, WARM),),
            prefill=(Chunk(9, prompt(10) + tuple(alone[:5]), 0, 5),),
        )
    )
    for index in range(6, 12):
        await resumed.step(StepPlan(decode=(Decode(9, index),)))
    await resumed.land()

    assert tokens(script.drawn[1]) == alone
    assert tokens(script.drawn[2]) != alone
    assert tokens(resumed.drawn[9]) == alone[5:]


async def test_different_seeds_and_temperatures_differ(runner: ModelRunner) -> None:
    script = Script(runner)
    texts = [
        tuple(tokens(await script.generate(i, prompt(10), 10, RowStart(i, i, WARM))))
        for i in range(5)
    ]
    greedy = [
        tuple(tokens(await script.generate(10 + i, prompt(10), 10, RowStart(10 + i, i, GREEDY))))
        for i in range(2)
    ]

    assert len(set(texts)) > 1
    assert greedy[0] == greedy[1]


async def test_a_step_without_work_collects_what_is_in_flight(runner: ModelRunner) -> None:
    first = await runner.step(
        StepPlan(open=(RowStart(0, 0, GREEDY),), prefill=(Chunk(0, prompt(5), 0, 0),))
    )
    second = await runner.step(StepPlan())

    assert len(first.sampled) + len(second.sampled) == 1
    assert not second.in_flight
    assert (second.timing or first.timing) is not None


async def test_reset_forgets_rows_and_what_was_in_flight(runner: ModelRunner) -> None:
    await runner.step(
        StepPlan(open=(RowStart(0, 0, GREEDY),), prefill=(Chunk(0, prompt(5), 0, 0),))
    )
    await runner.reset()
    script = Script(runner)

    drawn = await script.generate(0, prompt(12), 3)

    assert [one.index for one in drawn] == [0, 1, 2]
