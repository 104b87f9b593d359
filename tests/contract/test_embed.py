"""A text is one vector, whatever pieces it was read in and whoever generates meanwhile."""

import math

import pytest

from semantic_trio.adapters.mlx import runner as mlx_runner
from semantic_trio.domain import embedding
from semantic_trio.domain.embedding import Pooling
from semantic_trio.domain.step import Chunk, Closing, Decode, RowStart, StepPlan
from semantic_trio.ports import ModelRunner
from tests.contract.script import GREEDY, Script, prompt, tokens


@pytest.mark.parametrize("pooling", list(Pooling))
async def test_a_vector_has_length_one_and_depends_on_the_text_alone(runner: ModelRunner, pooling: Pooling, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await runner.embed(prompt(40), pooling)
    other = await runner.embed((*prompt(39), 7), pooling)
    monkeypatch.setattr(mlx_runner, "FIRST_TOKENS", 2)
    monkeypatch.setattr(embedding, "CHUNK_SECONDS", 0.0)  # every chunk takes too long: the next ones are of the least size
    pieces = await runner.embed(prompt(40), pooling)

    assert math.hypot(*whole) == pytest.approx(1, abs=1e-5)
    assert pieces == pytest.approx(whole, abs=1e-4)
    assert (other == pytest.approx(whole, abs=1e-4)) == (pooling is Pooling.FIRST)


async def test_rows_do_not_notice(runner: ModelRunner) -> None:
    alone = tokens(await Script(runner).generate(1, prompt(10), 6))
    script = Script(runner)
    await script.step(StepPlan(open=(RowStart(2, 0, GREEDY),), prefill=(Chunk(2, prompt(10), 0, 0),)))
    for index in range(1, 6):
        await runner.embed(prompt(20 + index), Pooling.MEAN)
        await script.step(StepPlan(decode=(Decode(2, index),)))
    await script.land()
    await script.step(StepPlan(close=(Closing(2),)))

    assert tokens(script.drawn[2]) == alone
