"""What crosses to the device and back in one step: ids, counts and frozen values, never arrays.

A step is one forward pass over rows of different lengths at once: one token of every decoding row, and a piece of each prompt that is being
read. Results may lag: the answer to a step carries whatever was finished since the answer before, so that a device can work on the next pass
while this one is being looked at.
"""

import attrs

from semantic_trio.domain.generation import SamplingParams


@attrs.frozen
class RowStart:
    """A row to open: an empty cache, and how its tokens are to be drawn."""

    row: int
    seed: int
    sampling: SamplingParams
    forced: tuple[int, ...] = ()  # taken instead of sampled tokens, by index of the generated token


@attrs.frozen
class Chunk:
    """The next piece of a row's prompt. With `draws` set, it ends the prompt and one token is drawn after it."""

    row: int
    tokens: tuple[int, ...]
    context: int  # tokens of the row before this piece
    draws: int | None = None  # index of the token drawn, counted from the first one the request generated


@attrs.frozen
class Decode:
    """One more token for a row that has drawn one: it reads that one and draws number `draws`."""

    row: int
    draws: int


@attrs.frozen
class StepTiming:
    """What one finished forward pass was, and how long the device was busy with it."""

    decode_rows: int
    prefill_tokens: int
    prefill_context: int  # tokens read before the chunks, their mean weighted by size
    seconds: float


@attrs.frozen
class StepPlan:
    """One forward pass, and the rows to close and open before it (in this order)."""

    close: tuple[int, ...] = ()
    open: tuple[RowStart, ...] = ()
    decode: tuple[Decode, ...] = ()
    prefill: tuple[Chunk, ...] = ()

    @property
    def has_work(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.decode or self.prefill)

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows that take part in the forward pass."""
        return tuple(d.row for d in self.decode) + tuple(c.row for c in self.prefill)

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens read in this step."""
        return sum(len(chunk.tokens) for chunk in self.prefill)

    def timing(self, seconds: float) -> StepTiming:
        """What to report of this step when it kept the device busy for so long."""
        weighted = sum(len(chunk.tokens) * chunk.context for chunk in self.prefill)
        return StepTiming(len(self.decode), self.prompt_tokens, weighted // max(self.prompt_tokens, 1), seconds)


@attrs.frozen
class Drawn:
    """A token a row has drawn."""

    row: int
    index: int  # of the generated token, from 0
    token: int
    logprob: float


@attrs.frozen
class StepResult:
    """What has finished since the last answer."""

    drawn: tuple[Drawn, ...] = ()
    timing: StepTiming | None = None
    in_flight: bool = False  # whether a pass was started whose tokens are still to come
