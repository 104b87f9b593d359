"""How long a step will take, and how many prompt tokens fit into a bounded delay: learned from the steps themselves.

Knows token counts and seconds it is told. Knows no clock.

A chunk of n tokens behind a context of c tokens costs about n * (linear + quadratic * (c + n / 2)) seconds: the weights' share is the same for
every token, attention's share grows with what the token looks back on. Both are fitted by least squares over the recent past.
"""

import attrs

# What one step forgets of all before it: half of the weight lies on the last 14 chunks, so a machine that gets slower is noticed in seconds.
FORGET = 0.95
# Tokens of the first chunk beside decoding neighbours, before anything was measured.
FIRST_CHUNK = 32
# A chunk is never smaller: below this a step's fixed cost dominates and a prompt would never end.
MIN_CHUNK = 16


# Weight of the newest decode step in the running mean of its batch size.
NEWEST = 0.2
# A step that takes this many times what was expected is a stall (a kernel compiled, a shape planned, another process), not the price of a token...
STALL = 3.0
# ... unless so many follow each other: then the machine has become slower.
STALLS_IN_A_ROW = 4


@attrs.define
class Stalls:
    """Tells stalls from a machine that has become slower."""

    _in_a_row: int = attrs.field(init=False, default=0)

    def is_one(self, seconds: float, expected: float) -> bool:
        """True if a step of `seconds` should not be learned from. `expected` is 0 while nothing is known."""
        self._in_a_row = self._in_a_row + 1 if 0 < STALL * expected < seconds else 0
        return 0 < self._in_a_row < STALLS_IN_A_ROW


@attrs.define
class DecodePace:
    """Seconds of a step without prompts, by the number of its rows."""

    _seconds: dict[int, float] = attrs.field(init=False, factory=dict)
    _stalls: Stalls = attrs.field(init=False, factory=Stalls)

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one step. A stall is not learned from, and a first step that was one is corrected by the next."""
        known = self._seconds.get(rows, seconds)
        if self._stalls.is_one(seconds, known):
            return
        is_first_a_stall = STALL * seconds < known
        self._seconds[rows] = seconds if is_first_a_stall else known + NEWEST * (seconds - known)

    def seconds(self, rows: int) -> float:
        """Expected length of a step of `rows` rows: what the nearest measured size took, 0 while nothing is known."""
        if rows == 0 or not self._seconds:
            return 0.0
        return self._seconds[min(self._seconds, key=lambda known: abs(known - rows))]


@attrs.define
class PrefillPace:
    """Seconds per prompt token as a function of the context behind it."""

    _n: float = attrs.field(init=False, default=0.0)
    _x: float = attrs.field(init=False, default=0.0)
    _xx: float = attrs.field(init=False, default=0.0)
    _y: float = attrs.field(init=False, default=0.0)
    _xy: float = attrs.field(init=False, default=0.0)
    _stalls: Stalls = attrs.field(init=False, factory=Stalls)

    @property
    def is_known(self) -> bool:
        """Whether at least one chunk was measured."""
        return self._n > 0

    def observe(self, tokens: int, context: int, seconds: float) -> None:
        """Learn from a chunk of `tokens` behind `context` tokens that lengthened its step by `seconds`.

        A stall is not learned from. A chunk that is much faster than expected shows that those before it were stalls: they are forgotten.
        """
        expected = self.seconds(tokens, context)
        if self._stalls.is_one(seconds, expected):
            return
        kept = 0.0 if STALL * seconds < expected else FORGET
        per_token, behind = max(seconds, 0.0) / tokens, context + tokens / 2
        for name in ("_n", "_x", "_xx", "_y", "_xy"):
            setattr(self, name, getattr(self, name) * kept)
        self._n += tokens
        self._x += tokens * behind
        self._xx += tokens * behind * behind
        self._y += tokens * per_token
        self._xy += tokens * behind * per_token

    def seconds_per_token(self, context: float) -> float:
        """Expected cost of one more prompt token behind `context` tokens; needs `is_known`."""
        linear, slope = self._fit()
        return max(linear + slope * context, 1e-9)

    def seconds(self, tokens: int, context: int) -> float:
        """Expected cost of so many prompt tokens behind `context` others; 0 while nothing was measured."""
        return tokens * self.seconds_per_token(context + tokens / 2) if self.is_known else 0.0

    def tokens_within(self, seconds: float, context: int) -> int:
        """The largest chunk behind `context` tokens that should not lengthen a step by more than `seconds`."""
        if not self.is_known:
            return FIRST_CHUNK
        tokens = seconds / self.seconds_per_token(context)
        tokens = seconds / self.seconds_per_token(context + tokens / 2)
        return max(MIN_CHUNK, int(tokens))

    def _fit(self) -> tuple[float, float]:
        mean_x, mean_y = self._x / self._n, self._y / self._n
        spread = self._xx / self._n - mean_x * mean_x
        if spread <= 1e-6 * (1.0 + mean_x * mean_x):
            return mean_y, 0.0
        slope = max(0.0, (self._xy / self._n - mean_x * mean_y) / spread)
        return mean_y - slope * mean_x, slope
