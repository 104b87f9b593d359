"""Our filters keep what mlx-lm's keep; theirs are compiled anew for every value."""

import pytest

from semantic_trio.adapters.mlx.sampling import Draw, _min_p, _top_k, _top_p, draw
from semantic_trio.domain.generation import SamplingParams
from tests.device import on_device

import mlx.core as mx  # isort: skip
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, make_repetition_penalty


def logprobs() -> mx.array:
    logits = mx.random.normal((4, 500), key=mx.random.key(7)) * 3
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def kept(filtered: mx.array) -> list[list[bool]]:
    told: list[list[bool]] = (filtered > -mx.inf).tolist()  # type: ignore[assignment]
    return told


@pytest.mark.parametrize("value", [0.02, 0.5, 0.93, 0.999])
def test_the_nucleus_is_the_same(value: float) -> None:
    ours, theirs = on_device(
        lambda: (kept(_top_p(logprobs(), value)), kept(apply_top_p(logprobs(), value)))
    )
    assert ours == theirs
    assert all(1 <= sum(row) < 500 for row in ours)


@pytest.mark.parametrize("value", [1, 7, 499])
def test_the_likeliest_are_the_same(value: int) -> None:
    ours, theirs = on_device(
        lambda: (kept(_top_k(logprobs(), value)), kept(apply_top_k(logprobs(), value)))
    )
    assert ours == theirs
    assert all(sum(row) == value for row in ours)


@pytest.mark.parametrize("value", [0.001, 0.1, 1.0])
def test_what_is_likely_enough_is_the_same(value: float) -> None:
    ours, theirs = on_device(
        lambda: (kept(_min_p(logprobs(), value)), kept(apply_min_p(logprobs(), value)))
    )
    assert ours == theirs


@pytest.mark.parametrize("penalty", [1.05, 2.0, 0.8])
def test_a_repetition_penalty_is_that_of_others(penalty: float) -> None:
    def compared() -> tuple[list[int], list[int]]:
        logits = mx.random.normal((3, 500), key=mx.random.key(7)) * 3
        seen = mx.random.uniform(shape=(3, 500), key=mx.random.key(8)) < 0.5
        theirs = make_repetition_penalty(penalty, context_size=500)
        expected = [
            mx.argmax(theirs(mx.array(_places(seen[row])), logits[row : row + 1])).item()
            for row in range(3)
        ]
        draws = [
            Draw(SamplingParams(repetition_penalty=penalty), 0, 0, seen=seen[row])
            for row in range(3)
        ]
        return draw(logits, draws).tokens.tolist(), expected  # type: ignore[return-value]

    ours, theirs = on_device(compared)
    assert ours == theirs


def _places(flags: mx.array) -> list[int]:
    return [place for place, flag in enumerate(flags.tolist()) if flag]  # type: ignore[arg-type]


def test_what_stays_is_as_likely_as_before() -> None:
    def differences() -> float:
        before = logprobs()
        after = _top_p(before, 0.9)
        return float(mx.where(after > -mx.inf, mx.abs(after - before), 0.0).max().item())

    assert on_device(differences) == 0.0
