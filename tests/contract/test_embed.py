"""A text is one vector, whatever pieces it was read in and whoever generates meanwhile."""

import math

import pytest

from semantic_trio.adapters.mlx import runner as mlx_runner
from semantic_trio.adapters.mlx.embedding import TextsReading
from semantic_trio.domain import embedding
from semantic_trio.domain.embedding import MEMORY_SHARE, Pooling
from semantic_trio.domain.step import Chunk, Decode, RowClose, RowStart, StepPlan
from semantic_trio.ports.runner import ModelRunner
from tests.contract.models import random_runner
from tests.contract.script import GREEDY, Script, prompt, tokens


@pytest.mark.parametrize("pooling", list(Pooling))
async def test_a_vector_has_length_one_and_depends_on_the_text_alone(
    runner: ModelRunner, pooling: Pooling, monkeypatch: pytest.MonkeyPatch
) -> None:
    [whole] = await runner.embed([prompt(40)], pooling)
    [other] = await runner.embed([(*prompt(39), 7)], pooling)
    monkeypatch.setattr(embedding, "FIRST_TOKENS", 2)
    # every chunk takes too long: the next ones are of the least size
    monkeypatch.setattr(embedding, "CHUNK_SECONDS", 0.0)
    [pieces] = await runner.embed([prompt(40)], pooling)

    assert math.hypot(*whole) == pytest.approx(1, abs=1e-5)
    assert pieces == pytest.approx(whole, abs=1e-4)
    assert (other == pytest.approx(whole, abs=1e-4)) == (pooling is Pooling.FIRST)


async def test_rows_do_not_notice(runner: ModelRunner) -> None:
    alone = tokens(await Script(runner).generate(1, prompt(10), 6))
    script = Script(runner)
    await script.step(
        StepPlan(open=(RowStart(2, 0, GREEDY),), prefill=(Chunk(2, prompt(10), 0, 0),))
    )
    for index in range(1, 6):
        await runner.embed([prompt(20 + index), prompt(7)], Pooling.MEAN)
        await script.step(StepPlan(decode=(Decode(2, index),)))
    await script.land()
    await script.step(StepPlan(close=(RowClose(2),)))

    assert tokens(script.drawn[2]) == alone


@pytest.mark.parametrize("pooling", list(Pooling))
async def test_texts_that_are_read_together_have_the_vectors_that_they_have_alone(
    runner: ModelRunner, pooling: Pooling, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [prompt(count, first) for first, count in enumerate((40, 1, 33, 21, 60, 38, 1, 57))]
    alone = [vector for text in texts for vector in await runner.embed([text], pooling)]
    monkeypatch.setattr(embedding, "FIRST_TOKENS", 24)  # so that texts end in different pieces

    together = await runner.embed(texts, pooling)

    for vector, wanted in zip(together, alone, strict=True):
        assert vector == pytest.approx(wanted, abs=1e-4)


async def test_few_texts_are_read_together_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner, read = random_runner("llama"), list[int]()

    class Noted(TextsReading):
        """Notes how many texts are read together."""

        def __attrs_post_init__(self) -> None:
            read.append(len(self.texts))
            super().__attrs_post_init__()

    monkeypatch.setattr(mlx_runner, "TextsReading", Noted)
    texts = [prompt(40, first) for first in range(20)]
    wanted = await runner.embed(texts, Pooling.MEAN)
    text_bytes = sum(group.bytes_at(40) for group in runner.spec.groups)
    monkeypatch.setattr(mlx_runner, "free_bytes", lambda: round(3 * text_bytes / MEMORY_SHARE))

    found = await runner.embed(texts, Pooling.MEAN)

    assert read == [16, 4, 3, 3, 3, 3, 3, 1, 3, 1]
    assert [list(vector) for vector in found] == [
        pytest.approx(list(vector), abs=1e-4) for vector in wanted
    ]
