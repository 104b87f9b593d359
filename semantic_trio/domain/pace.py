"""Pace of steps: the time that a step will take, and the prompt tokens that fit into a bounded
delay, learned from the steps themselves.

Knows token counts and seconds it is given. Knows no clock.

A chunk of n tokens behind a context of c tokens costs about fixed + n * (linear + quadratic * (c +
n / 2)) seconds. The fixed part is what a pass over prompts costs at any size: on a GPU it is the
dispatch of the operations, and as much as a thousand tokens. The weights' share is the same for
every token; attention's share grows with what the token looks back on. All three are fitted by
least squares over the recent past, the fixed part only where the chunks of the recent past differ
clearly in size: noise in chunks of nearly one size looks like a fixed cost, and a pace that
believes in it makes chunks ever larger.
"""

import math

import attrs

# What one step forgets of all before it: half of the weight lies on the last 14 chunks, so a
# machine that gets slower is noticed in seconds.
FORGET = 0.95
# Tokens of the first chunk beside decoding neighbours, before anything was measured.
FIRST_CHUNK = 32
# A chunk is never smaller: below this a step's fixed cost dominates and a prompt would never end.
MIN_CHUNK = 16
# A chunk is at most so many times as large as one of the recent past: what larger ones take is not
# known well.
MOST_GROWTH = 4
# While no fixed cost is known, a token is expected to cost at least the mean token's cost divided
# by this: noise may look like the price of context.
MOST_CHEAPER = 2
# Rounds in which the fit approaches its solution; it begins near it.
SWEEPS = 64
# How much the fit prefers to explain a chunk by its number of tokens alone, as a part of what was
# seen.
PREFERENCE = 0.01
# Chunks are alike where the harmonic mean of their sizes is at least this part of their mean:
# always where none is more than four times as large as another.
ALIKE = 0.6
# Weight of the newest decode step in the running mean of its batch size.
NEWEST = 0.2
# A step that takes this many times what was expected is a stall (a kernel compiled, a shape
# planned, another process), not the price of a token...
STALL = 3.0
# ... unless so many follow each other: then the machine has become slower.
STALLS_IN_A_ROW = 4


@attrs.define
class Stalls:
    """Tells stalls from a machine that has become slower."""

    _in_a_row: int = attrs.field(init=False, default=0)

    def is_one(self, seconds: float, expected: float) -> bool:
        """True if a step of `seconds` should not be learned from.

        `expected` is 0 while nothing is known.
        """
        self._in_a_row = self._in_a_row + 1 if 0 < STALL * expected < seconds else 0
        return 0 < self._in_a_row < STALLS_IN_A_ROW


@attrs.define
class DecodePace:
    """Seconds of a step without prompts, by the number of its rows."""

    _seconds: dict[int, float] = attrs.field(init=False, factory=dict)
    _stalls: Stalls = attrs.field(init=False, factory=Stalls)

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one step.

        A stall is not learned from, and a first step that was one is corrected by the next.
        """
        known = self._seconds.get(rows, seconds)
        if self._stalls.is_one(seconds, known):
            return
        is_first_a_stall = STALL * seconds < known
        self._seconds[rows] = seconds if is_first_a_stall else known + NEWEST * (seconds - known)

    def seconds(self, rows: int) -> float:
        """Expected length of a step of `rows` rows: what the nearest measured size took, 0 while
        nothing is known.
        """
        if rows == 0 or not self._seconds:
            return 0.0
        return self._seconds[min(self._seconds, key=lambda known: abs(known - rows))]


@attrs.define
class PrefillPace:
    """Seconds of a chunk as a function of its tokens and of the context behind it."""

    # Normal equations of the fit, and its solution: coefficients of 1 / n, 1 and the context of a
    # chunk's middle token, for the seconds per token.
    _products: list[list[float]] = attrs.field(
        init=False, factory=lambda: [[0.0] * 3 for _ in range(3)]
    )
    _targets: list[float] = attrs.field(init=False, factory=lambda: [0.0] * 3)
    _fit: list[float] = attrs.field(init=False, factory=lambda: [0.0] * 3)
    # tokens of the largest chunk of the recent past
    _largest: float = attrs.field(init=False, default=0.0)
    _stalls: Stalls = attrs.field(init=False, factory=Stalls)

    @property
    def is_known(self) -> bool:
        """True once a chunk was measured."""
        return self._products[1][1] > 0

    def observe(self, tokens: int, context: int, seconds: float) -> None:
        """Learn from a chunk of `tokens` behind `context` tokens that lengthened its step by
        `seconds`.

        A stall is not learned from. A chunk that is much faster than expected shows that those
        before it were stalls: they are forgotten. A smaller chunk than the mean one may still take
        as long as that, and a larger one may take no longer: the rest may be fixed cost. A chunk
        larger than any of the recent past may take longer than expected, in proportion: what was
        taken for fixed cost may be none.
        """
        mean = round(self._products[1][1] / self._products[0][1]) if self.is_known else tokens
        growth = max(1.0, tokens / self._largest) if self.is_known else 1.0
        if self._stalls.is_one(seconds, self.seconds(max(tokens, mean), context) * growth):
            return
        kept = 0.0 if STALL * seconds < self.seconds(min(tokens, mean), context) else FORGET
        self._fit = [known if kept else 0.0 for known in self._fit]
        self._largest = max(self._largest * kept, tokens)
        features = (1 / tokens, 1.0, context + tokens / 2)
        for row, one in enumerate(features):
            self._targets[row] = self._targets[row] * kept + one * max(seconds, 0.0)
            for column, other in enumerate(features):
                self._products[row][column] = (
                    self._products[row][column] * kept + tokens * one * other
                )
        self._solve()

    def seconds_per_token(self, context: float) -> float:
        """Expected cost of one more prompt token behind `context` tokens, in a pass that is made
        anyway; needs `is_known`.
        """
        _, linear, slope = self._fit
        return max(linear + slope * context, 1e-9)

    def seconds(self, tokens: int, context: int) -> float:
        """Expected cost of so many prompt tokens behind `context` others; 0 while nothing was
        measured.
        """
        return (
            self._fit[0] + tokens * self.seconds_per_token(context + tokens / 2)
            if self.is_known
            else 0.0
        )

    def tokens_within(self, seconds: float, context: int) -> int:
        """Return the largest chunk behind `context` tokens that should not lengthen a step by more
        than `seconds`.

        The chunk is at most `MOST_GROWTH` times as large as one that was measured, and
        `MOST_CHEAPER` bounds what it saves by a shorter context. Where the fixed cost leaves less
        than a quarter of itself, the chunk takes that: with fewer tokens a prompt would cost many
        such steps.
        """
        if not self.is_known:
            return FIRST_CHUNK
        left = max(seconds - self._fit[0], self._fit[0] / 4)
        least = 0.0 if self._fit[0] else self._targets[1] / self._products[1][1] / MOST_CHEAPER
        first = max(self.seconds_per_token(context), least)
        tokens = 2 * left / (first + math.sqrt(first * first + 2 * self._fit[2] * left))
        return max(MIN_CHUNK, int(min(tokens, MOST_GROWTH * self._largest)))

    def _solve(self) -> None:
        """Approach the coefficients, none of them negative, one after the other.

        The fixed cost is 0 while the chunks are alike in size.
        """
        inverses, chunks, tokens = self._products[0][0], self._products[0][1], self._products[1][1]
        against_fixed = math.inf if chunks * chunks >= ALIKE * tokens * inverses else 1 + PREFERENCE
        for _ in range(SWEEPS):
            for place, scale in ((1, 1.0), (2, 1 + PREFERENCE), (0, against_fixed)):
                others = sum(
                    self._products[place][other] * self._fit[other]
                    for other in range(3)
                    if other != place
                )
                self._fit[place] = max(self._targets[place] - others, 0.0) / (
                    self._products[place][place] * scale
                )
