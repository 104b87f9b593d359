"""Drawing the next token of every row of a pass.

A draw is a function of the row's logits, its parameters, its seed and the index of the token: not of the batch it happens in, nor of what was
drawn for others. Rows with equal parameters are drawn in one call.
"""

from collections.abc import Sequence

import attrs
import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from semantic_trio.domain.generation import SamplingParams

_MASK = (1 << 64) - 1


@attrs.frozen
class Draw:
    """How one row's next token is to be drawn."""

    sampling: SamplingParams
    seed: int
    index: int
    forced: int | None = None


def draw(logits: mx.array, draws: Sequence[Draw]) -> tuple[mx.array, mx.array]:
    """Draw from `logits` (rows, vocabulary). Lazy.

    Returns the tokens (rows,) int32 and the natural logarithms (rows,) float32 of their probabilities at temperature 1, before any filter.
    """
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    tokens = _force(_draw_groups(logprobs, draws), draws)
    return tokens, mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]


def _draw_groups(logprobs: mx.array, draws: Sequence[Draw]) -> mx.array:
    groups: dict[SamplingParams, list[int]] = {}
    for place, one in enumerate(draws):
        groups.setdefault(one.sampling, []).append(place)
    if len(groups) == 1:
        return _draw_alike(logprobs, draws)
    drawn = [_draw_alike(logprobs[mx.array(places)], [draws[p] for p in places]) for places in groups.values()]
    order = [place for places in groups.values() for place in places]
    back = sorted(range(len(order)), key=order.__getitem__)
    return mx.concatenate(drawn)[mx.array(back)]


def _draw_alike(logprobs: mx.array, draws: Sequence[Draw]) -> mx.array:
    """Draw for rows that share their parameters."""
    params = draws[0].sampling
    if params.is_greedy:
        return mx.argmax(logprobs, axis=-1).astype(mx.int32)
    if params.top_k and params.top_k < logprobs.shape[-1]:
        logprobs = apply_top_k(logprobs, params.top_k)
    if params.top_p < 1.0:
        logprobs = apply_top_p(logprobs, params.top_p)
    if params.min_p:
        logprobs = apply_min_p(logprobs, params.min_p)
    noise = mx.stack([mx.random.gumbel(logprobs.shape[-1:], key=_key(one)) for one in draws])
    # The largest of (logarithm + Gumbel noise) is a draw from the distribution. Source: Gumbel 1954; Maddison et al. 2014.
    return mx.argmax(logprobs / params.temperature + noise, axis=-1).astype(mx.int32)


def _force(tokens: mx.array, draws: Sequence[Draw]) -> mx.array:
    if all(one.forced is None for one in draws):
        return tokens
    is_forced = mx.array([one.forced is not None for one in draws])
    forced = mx.array([one.forced or 0 for one in draws], dtype=mx.int32)
    return mx.where(is_forced, forced, tokens)


def _key(one: Draw) -> mx.array:
    """A random key of its own for each seed and index: two words, mixed so that neighbours share nothing. Source: splitmix64, Steele et al. 2014."""
    mixed = _mix(_mix(one.seed & _MASK) ^ one.index)
    return mx.array([mixed >> 32, mixed & 0xFFFFFFFF], dtype=mx.uint32)


def _mix(word: int) -> int:
    word = (word + 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)
