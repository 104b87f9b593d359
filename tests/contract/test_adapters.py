"""Rows of several adapters, and of none, in one batch: each computes what mlx-lm computes with its
adapter alone.
"""

import gc
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import pytest
from mlx_lm.tuner.utils import load_adapters

from semantic_trio.adapters.mlx.lora import AdaptableLayer
from semantic_trio.adapters.mlx.runner import MlxRunner
from semantic_trio.domain.errors import ModelNotFoundError, StepFailedError
from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.salt import NO_ADAPTER
from semantic_trio.domain.step import Chunk, Decode, RowClose, RowStart, StepPlan
from tests.adapters import ATTENTION, write_adapter
from tests.contract.models import random_model, random_runner
from tests.device import on_device

ONE, OTHER = b"1" * 16, b"2" * 16
# By family the layers of the first adapter: None stands for all that can be adapted, experts and
# embeddings included.
ATTENTION_ALONE = ["llama", "llama_paged", "gemma3_text", "gemma3_paged", "gpt_oss"]
EVERYTHING = ["llama", "llama_paged", "gpt_oss", "gpt_oss_paged", "qwen3_next", "mamba2", "llama4"]
CASES = [
    *((family, ATTENTION) for family in ATTENTION_ALONE),
    *((family, None) for family in EVERYTHING),
    # Layers that are used behind the body: a tied embedding, and a head.
    *((family, [*ATTENTION, "model.embed_tokens"]) for family in ("llama", "llama_paged")),
    *((family, [*ATTENTION, "lm_head"]) for family in ("llama_head", "llama_head_paged")),
]
TOLERANCE = 1e-4  # of the range of the logits


def directory(path: Path, family: str, seed: int, **more: Any) -> Path:
    """Write an adapter of a family's random model."""
    return on_device(lambda: write_adapter(path, random_model(family), seed, **more))


def expected(
    family: str, adapter: Path | None, tokens: Sequence[int], start: int
) -> tuple[list[float], float]:
    """Log-probabilities of the tokens from `start` on, by mlx-lm alone and without a cache; and the
    range of the logits.
    """

    def compute() -> tuple[list[float], float]:
        model = random_model(family)
        if adapter is not None:
            cast(Any, load_adapters(model, str(adapter))).eval()
        logits = cast(Any, model)(mx.array([tokens]))[0].astype(mx.float32)
        scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        span = cast(float, (logits.max() - logits.min()).item())
        return [
            cast(float, scores[at - 1, tokens[at]].item()) for at in range(start, len(tokens))
        ], span

    return on_device(compute)


async def scores(
    runner: MlxRunner, rows: Sequence[tuple[bytes, Sequence[int], int]], steps: int
) -> list[list[float]]:
    """Log-probabilities of forced tokens of rows that run together: the adapter of each, its
    tokens, and how many of them are its prompt.
    """
    opened = tuple(
        RowStart(number, 0, SamplingParams(), forced=tuple(tokens[start:]), adapter=adapter)
        for number, (adapter, tokens, start) in enumerate(rows)
    )
    chunks = tuple(
        Chunk(number, tuple(tokens[:start]), 0, draws=0)
        for number, (_, tokens, start) in enumerate(rows)
    )
    results = [await runner.step(StepPlan(open=opened, prefill=chunks))]
    results += [
        await runner.step(
            StepPlan(decode=tuple(Decode(number, step) for number in range(len(rows))))
        )
        for step in range(1, steps)
    ]
    results.append(
        await runner.step(StepPlan(close=tuple(RowClose(number) for number in range(len(rows)))))
    )
    sampled = [token for result in results for token in result.sampled]
    return [
        [token.logprob for token in sampled if token.row == number] for number in range(len(rows))
    ]


def tokens_of(number: int, count: int) -> list[int]:
    return [(at * 31 + number * 17) % 290 + 1 for at in range(count)]


@pytest.mark.parametrize(("family", "keys"), CASES)
async def test_rows_of_two_adapters_and_of_none_compute_what_each_computes_alone(
    family: str, keys: list[str] | None, tmp_path: Path
) -> None:
    steps, starts, adapters = 4, (5, 40, 9, 3), (ONE, OTHER, NO_ADAPTER, ONE)
    paths: dict[bytes, Path | None] = {
        ONE: directory(tmp_path / "one", family, 1, keys=keys),
        OTHER: directory(tmp_path / "other", family, 2, rank=3, layers=2),
        NO_ADAPTER: None,
    }
    runner = random_runner(family)
    for digest, path in paths.items():
        if path is not None:
            await runner.load_adapter(path, "name", digest)
    rows = [
        (adapter, tokens_of(number, start + steps), start)
        for number, (adapter, start) in enumerate(zip(adapters, starts, strict=True))
    ]

    found = await scores(runner, rows, steps)

    for (adapter, tokens, start), row in zip(rows, found, strict=True):
        wanted, span = expected(family, paths[adapter], tokens, start)
        assert row == pytest.approx(wanted, abs=TOLERANCE * span)


@pytest.mark.parametrize(
    ("family", "keys", "shares"),
    [
        ("llama", None, True),
        ("llama", ATTENTION, True),
        ("gpt_oss", ATTENTION, True),
        ("gpt_oss", None, False),
        ("mamba2", None, True),
        ("llama", ["model.embed_tokens"], False),
        ("llama_head", ["lm_head"], False),
    ],
)
async def test_adapters_of_linear_layers_share_passes(
    family: str, keys: list[str] | None, shares: bool, tmp_path: Path
) -> None:
    path, runner = directory(tmp_path / "one", family, 1, keys=keys), random_runner(family)
    await runner.load_adapter(path, "name", ONE)

    loaded = runner.batch.adapters[ONE]

    assert loaded is not None
    assert loaded.shares_passes is shares


async def test_a_dora_adapter_computes_what_it_computes_alone_beside_one_of_another_kind(
    tmp_path: Path,
) -> None:
    paths = {
        ONE: directory(tmp_path / "one", "llama", 1, keys=ATTENTION, kind="dora"),
        OTHER: directory(tmp_path / "other", "llama", 2, keys=ATTENTION),
    }
    runner = random_runner("llama")
    for digest, path in paths.items():
        await runner.load_adapter(path, "name", digest)
    rows = [(ONE, tokens_of(0, 12), 8), (OTHER, tokens_of(1, 9), 5), (ONE, tokens_of(2, 10), 6)]

    found = await scores(runner, rows, 4)

    for (adapter, tokens, start), row in zip(rows, found, strict=True):
        wanted, span = expected("llama", paths[adapter], tokens, start)
        assert row == pytest.approx(wanted, abs=TOLERANCE * span)


async def test_a_model_is_as_it_was_once_its_adapters_are_unloaded(tmp_path: Path) -> None:
    runner, rows = random_runner("llama"), [(NO_ADAPTER, tokens_of(0, 12), 8)]
    before = await scores(runner, rows, 4)
    await runner.load_adapter(directory(tmp_path / "one", "llama", 1), "name", ONE)
    beside = await scores(runner, rows, 4)
    await runner.drop_adapter(ONE)

    after = await scores(runner, rows, 4)

    assert before == beside == after  # to the last bit
    assert not any(
        isinstance(module, AdaptableLayer)
        for module in cast(Any, runner.batch.layout.model).modules()
    )
    with pytest.raises(StepFailedError):
        await runner.step(StepPlan(open=(RowStart(9, 0, SamplingParams(), adapter=ONE),)))


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Nothing of other tests is freed while this one measures memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
async def test_unloading_gives_the_memory_of_an_adapter_back(tmp_path: Path) -> None:
    runner, path = (
        random_runner("llama"),
        directory(tmp_path / "one", "llama", 1, rank=64, keys=ATTENTION),
    )
    await scores(runner, [(NO_ADAPTER, tokens_of(0, 12), 8)], 4)
    before = on_device(mx.get_active_memory)
    size = await runner.load_adapter(path, "name", ONE)
    await scores(runner, [(ONE, tokens_of(0, 12), 8), (NO_ADAPTER, tokens_of(1, 12), 8)], 4)
    during = on_device(mx.get_active_memory)

    await runner.drop_adapter(ONE)

    assert during - before >= size
    assert on_device(mx.get_active_memory) - before < size / 10


def damage_nothing(path: Path) -> None:
    """Leave an adapter as it is."""


def without_weights(path: Path) -> None:
    """Remove the weights."""
    (path / "adapters.safetensors").unlink()


def without_one_weight(path: Path) -> None:
    """Remove one of the weights."""

    def rewrite() -> None:
        weights = dict(cast(dict[str, mx.array], mx.load(str(path / "adapters.safetensors"))))
        weights.pop(min(weights))
        mx.eval(weights)
        mx.save_safetensors(str(path / "adapters.safetensors"), weights)

    on_device(rewrite)


def with_config(**changed: object) -> Callable[[Path], None]:
    """Change the configuration."""

    def change(path: Path) -> None:
        file = path / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))

    return change


def with_damaged_config(path: Path) -> None:
    """Cut the configuration off."""
    (path / "adapter_config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "family", "reason"),
    [
        (without_weights, "llama", "the adapter has no adapters.safetensors"),
        (without_one_weight, "llama", "the adapter does not fit the model: 1 weights are missing"),
        (with_damaged_config, "llama", "adapter_config.json of the adapter is damaged"),
        (with_config(fine_tune_type="full"), "llama", "fine_tune_type of the adapter is 'full'"),
        (with_config(lora_parameters={"rank": 8, "scale": 2.0, "dropout": 0.0, "keys": ATTENTION}), "llama", "does not match"),
        (with_config(lora_parameters={"rank": 4, "alpha": 2.0, "dropout": 0.0}), "llama", "missing required key 'scale'"),
        (with_config(lora_parameters={"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["no.such"]}), "llama", "not an adapter parameter"),
        (damage_nothing, "gemma3_text", "the adapter does not fit the model"),
    ],
)  # fmt: skip
async def test_an_adapter_that_cannot_be_used_is_refused_in_a_line_and_changes_nothing(
    damage: Callable[[Path], None], family: str, reason: str, tmp_path: Path
) -> None:
    path, runner, rows = (
        directory(tmp_path / "one", "llama", 1, keys=ATTENTION),
        random_runner(family),
        [(NO_ADAPTER, tokens_of(0, 12), 8)],
    )
    before = await scores(runner, rows, 4)
    damage(path)

    with pytest.raises(ModelNotFoundError, match=re.escape(reason)) as refused:
        await runner.load_adapter(path, "model:one", ONE)

    assert "\n" not in str(refused.value)
    assert await scores(runner, rows, 4) == before


async def test_a_second_adapter_that_is_refused_leaves_the_first_one_as_it_was(
    tmp_path: Path,
) -> None:
    good, bad = directory(tmp_path / "good", "llama", 1), directory(tmp_path / "bad", "llama", 2)
    without_one_weight(bad)
    runner, rows = (
        random_runner("llama"),
        [(ONE, tokens_of(0, 12), 8), (NO_ADAPTER, tokens_of(1, 9), 5)],
    )
    await runner.load_adapter(good, "good", ONE)
    before = await scores(runner, rows, 4)

    with pytest.raises(ModelNotFoundError):
        await runner.load_adapter(bad, "bad", OTHER)

    assert await scores(runner, rows, 4) == before
