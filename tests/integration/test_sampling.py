"""Our filters keep what mlx-lm's keep; theirs are compiled anew for every value."""

import pytest

from semantic_trio.adapters.mlx.sampling import _min_p, _top_k, _top_p
from tests.device import on_device

import mlx.core as mx  # isort: skip
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p


def logprobs() -> mx.array:
    logits = mx.random.normal((4, 500), key=mx.random.key(7)) * 3
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def kept(filtered: mx.array) -> list[list[bool]]:
    told: list[list[bool]] = (filtered > -mx.inf).tolist()  # type: ignore[assignment]
    return told


@pytest.mark.parametrize("value", [0.02, 0.5, 0.93, 0.999])
def test_the_nucleus_is_the_same(value: float) -> None:
    ours, theirs = on_device(lambda: (kept(_top_p(logprobs(), value)), kept(apply_top_p(logprobs(), value))))
    assert ours == theirs
    assert all(1 <= sum(row) < 500 for row in ours)


@pytest.mark.parametrize("value", [1, 7, 499])
def test_the_likeliest_are_the_same(value: int) -> None:
    ours, theirs = on_device(lambda: (kept(_top_k(logprobs(), value)), kept(apply_top_k(logprobs(), value))))
    assert ours == theirs
    assert all(sum(row) == value for row in ours)


@pytest.mark.parametrize("value", [0.001, 0.1, 1.0])
def test_what_is_likely_enough_is_the_same(value: float) -> None:
    ours, theirs = on_device(lambda: (kept(_min_p(logprobs(), value)), kept(apply_min_p(logprobs(), value))))
    assert ours == theirs


def test_what_stays_is_as_likely_as_before() -> None:
    def differences() -> float:
        before = logprobs()
        after = _top_p(before, 0.9)
        return float(mx.where(after > -mx.inf, mx.abs(after - before), 0.0).max().item())

    assert on_device(differences) == 0.0
