"""Drawing the next token of every row of a pass.

A draw is a function of the row's logits, its parameters, its seed, the index of the token and,
where it is steered, the tokens before it: not of the batch it happens in, nor of what was drawn for
others. Rows with equal parameters are drawn in one call.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import attrs
import mlx.core as mx
import numpy as np

from semantic_trio.domain.generation import SamplingParams

_MASK = (1 << 64) - 1


@attrs.frozen(eq=False)
class Draw:
    """Way in which one row's next token is to be drawn."""

    sampling: SamplingParams
    seed: int
    index: int
    forced: int | None = None
    additions: Mapping[int, float] = MappingProxyType({})  # to the logits, by token
    allowed: bytes | None = None  # a bit for each token, the lowest first; None: all may be drawn
    top: int = 0  # how many of the likeliest tokens are told too
    # (vocabulary,) bool: tokens on which the repetition penalty is; None: there is none
    seen: mx.array | None = None


@attrs.frozen(eq=False)
class Draws:
    """Tokens drawn for the rows of a pass. Lazy."""

    tokens: mx.array  # (rows,) int32
    # (rows,) float32: natural logarithms of their probabilities at temperature 1, before any filter
    logprobs: mx.array
    top_tokens: mx.array | None  # (rows, most) int32: the likeliest first; None where nobody asks
    top_logprobs: mx.array | None  # (rows, most) float32: theirs

    @property
    def arrays(self) -> list[mx.array]:
        """All there is to compute."""
        return [
            array
            for array in (self.tokens, self.logprobs, self.top_tokens, self.top_logprobs)
            if array is not None
        ]

    def likeliest(self, place: int, most: int) -> tuple[tuple[int, float], ...]:
        """The likeliest tokens of one row with their logarithms.

        To be asked once all is computed.
        """
        if not most or self.top_tokens is None or self.top_logprobs is None:
            return ()
        tokens, logprobs = (
            cast(list[int], self.top_tokens[place].tolist()),
            cast(list[float], self.top_logprobs[place].tolist()),
        )
        return tuple(zip(tokens, logprobs, strict=True))[:most]


def draw(logits: mx.array, draws: Sequence[Draw]) -> Draws:
    """Draw from `logits` (rows, vocabulary)."""
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    tokens = _force(
        _draw_groups(_steered(_penalised(logits, logprobs, draws), draws), draws), draws
    )
    drawn = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
    return Draws(tokens, drawn, *_likeliest(logprobs, max(one.top for one in draws)))


def _penalised(logits: mx.array, logprobs: mx.array, draws: Sequence[Draw]) -> mx.array:
    """Log-probabilities with the repetition penalties of the rows that have one: a seen token's
    logit is made smaller by that factor.

    The sign of a logit matters, so this cannot start from log-probabilities. Source: Keskar et al.
    2019 (CTRL), as in Hugging Face's transformers.
    """
    found = [
        (place, one.seen, one.sampling.repetition_penalty)
        for place, one in enumerate(draws)
        if one.seen is not None
    ]
    if not found:
        return logprobs
    places, seen, penalties = zip(*found, strict=True)
    rows, factors = logits[mx.array(places)], mx.array(penalties, dtype=mx.float32)[:, None]
    rows = mx.where(mx.stack(list(seen)), mx.where(rows > 0, rows / factors, rows * factors), rows)
    logprobs = mx.array(logprobs)  # assignment changes an array where it is
    logprobs[mx.array(places)] = rows - mx.logsumexp(rows, axis=-1, keepdims=True)
    return logprobs


def _steered(logprobs: mx.array, draws: Sequence[Draw]) -> mx.array:
    """Return log-probabilities with the additions of each row; tokens that are barred get -inf.

    Rows that ask for nothing are left bit for bit as they are.
    """
    size = logprobs.shape[-1]
    added = [
        (place, token, value)
        for place, one in enumerate(draws)
        for token, value in one.additions.items()
        if token < size
    ]
    held = [place for place, one in enumerate(draws) if one.allowed is not None]
    changed = sorted({place for place, _, _ in added} | set(held))
    if not changed:
        return logprobs
    logprobs = mx.array(logprobs)  # assignment changes an array where it is
    if added:
        where, tokens, values = zip(*added, strict=True)
        logprobs = logprobs.at[mx.array(where), mx.array(tokens)].add(
            mx.array(values, dtype=mx.float32)
        )
    if held:
        masks = mx.array(np.stack([_mask(draws[place].allowed or b"", size) for place in held]))
        logprobs[mx.array(held)] = mx.where(masks, logprobs[mx.array(held)], -mx.inf)
    rows = logprobs[mx.array(changed)]  # filters look at probabilities, which have to add up to one
    logprobs[mx.array(changed)] = rows - mx.logsumexp(rows, axis=-1, keepdims=True)
    return logprobs


def _mask(allowed: bytes, size: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The bits as truth values (size,): models may know more tokens than their grammars, and these
    may not be drawn.
    """
    bits = np.unpackbits(np.frombuffer(allowed, np.uint8), bitorder="little")[:size].view(np.bool_)
    return np.pad(bits, (0, size - len(bits)))


def _likeliest(logprobs: mx.array, most: int) -> tuple[mx.array | None, mx.array | None]:
    if not most:
        return None, None
    most = min(most, logprobs.shape[-1])
    found = mx.argpartition(-logprobs, kth=most - 1, axis=-1)[:, :most]
    values = mx.take_along_axis(logprobs, found, axis=-1)
    order = mx.argsort(-values, axis=-1)
    return mx.take_along_axis(found, order, axis=-1).astype(mx.int32), mx.take_along_axis(
        values, order, axis=-1
    )


def _draw_groups(logprobs: mx.array, draws: Sequence[Draw]) -> mx.array:
    groups: dict[SamplingParams, list[int]] = {}
    for place, one in enumerate(draws):
        groups.setdefault(one.sampling, []).append(place)
    if len(groups) == 1:
        return _draw_alike(logprobs, draws)
    drawn = [
        _draw_alike(logprobs[mx.array(places)], [draws[p] for p in places])
        for places in groups.values()
    ]
    order = [place for places in groups.values() for place in places]
    back = sorted(range(len(order)), key=order.__getitem__)
    return mx.concatenate(drawn)[mx.array(back)]


def _draw_alike(logprobs: mx.array, draws: Sequence[Draw]) -> mx.array:
    """Draw for rows that share their parameters."""
    params = draws[0].sampling
    if params.is_greedy:
        return mx.argmax(logprobs, axis=-1).astype(mx.int32)
    if params.top_k and params.top_k < logprobs.shape[-1]:
        logprobs = _top_k(logprobs, params.top_k)
    if params.top_p < 1.0:
        logprobs = _top_p(logprobs, params.top_p)
    if params.min_p:
        logprobs = _min_p(logprobs, params.min_p)
    noise = mx.stack([mx.random.gumbel(logprobs.shape[-1:], key=_key(one)) for one in draws])
    # The largest of (logarithm + Gumbel noise) is a draw from the distribution. Source: Gumbel
    # 1954; Maddison et al. 2014.
    return mx.argmax(logprobs / params.temperature + noise, axis=-1).astype(mx.int32)


# mlx-lm's own filters are compiled for every value they are called with: a second and a file for
# each that is new, in the middle of a step.


def _top_k(logprobs: mx.array, count: int) -> mx.array:
    """The `count` likeliest tokens, and those that are as likely as the last of them."""
    least = mx.min(mx.topk(logprobs, count, axis=-1), axis=-1, keepdims=True)
    return mx.where(logprobs >= least, logprobs, -mx.inf)


def _top_p(logprobs: mx.array, mass: float) -> mx.array:
    """The likeliest tokens that together have so much of all probability: the nucleus.

    Source: Holtzman et al. 2020.
    """
    order = mx.argsort(-logprobs, axis=-1)
    sorted_logprobs = mx.take_along_axis(logprobs, order, axis=-1)
    probabilities = mx.exp(sorted_logprobs)
    # of those that are likelier; of the likeliest 0
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    total = mx.sum(probabilities, axis=-1, keepdims=True)
    kept = mx.where(before < mass * total, sorted_logprobs, -mx.inf)
    return mx.put_along_axis(logprobs, order, kept, axis=-1)


def _min_p(logprobs: mx.array, share: float) -> mx.array:
    """The tokens that have at least this share of the likeliest one's probability."""
    return mx.where(
        logprobs >= mx.max(logprobs, axis=-1, keepdims=True) + math.log(share), logprobs, -mx.inf
    )


def _force(tokens: mx.array, draws: Sequence[Draw]) -> mx.array:
    if all(one.forced is None for one in draws):
        return tokens
    is_forced = mx.array([one.forced is not None for one in draws])
    forced = mx.array([one.forced or 0 for one in draws], dtype=mx.int32)
    return mx.where(is_forced, forced, tokens)


def _key(one: Draw) -> mx.array:
    """A random key of its own for each seed and index: two words, mixed so that neighbours share
    nothing.

    Source: splitmix64, Steele et al. 2014.
    """
    mixed = _mix(_mix(one.seed & _MASK) ^ one.index)
    return mx.array([mixed >> 32, mixed & 0xFFFFFFFF], dtype=mx.uint32)


def _mix(word: int) -> int:
    word = (word + 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)
