"""The shortest way to have a model speak: greedy, alone, without any of the product's engine."""

from collections.abc import Sequence
from typing import cast

from tests.device import on_device  # first: it loads the BLAS

import mlx.core as mx  # isort: skip
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache


def greedy(
    model: Module, prompt: Sequence[int], count: int, stop: frozenset[int] = frozenset()
) -> list[int]:
    """The likeliest tokens after a prompt, at most `count`, without the one that stops them."""
    return on_device(lambda: _greedy(model, prompt, count, stop))


def logits(model: Module, tokens: Sequence[int]) -> mx.array:
    """(tokens, vocabulary) float32, of one pass over a text."""
    return on_device(lambda: _evaluated(model(mx.array([tokens]))[0].astype(mx.float32)))


def spread(array: mx.array) -> float:
    """The range of the values."""
    return on_device(lambda: cast(float, (array.max() - array.min()).item()))


def distance(left: mx.array, right: mx.array) -> float:
    """The largest difference."""
    return on_device(lambda: cast(float, mx.abs(left - right).max().item()))


def _greedy(model: Module, prompt: Sequence[int], count: int, stop: frozenset[int]) -> list[int]:
    cache, step, answer = make_prompt_cache(model), mx.array([prompt]), list[int]()
    while len(answer) < count:
        token = int(model(step, cache=cache)[0, -1].argmax().item())
        if token in stop:
            break
        answer.append(token)
        step = mx.array([[token]])
    return answer


def _evaluated(array: mx.array) -> mx.array:
    mx.eval(array)
    return array
