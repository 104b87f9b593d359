"""What crosses to the device and back in one step: ids, counts and frozen values, never arrays.

A step is one forward pass over rows of different lengths at once: one token of every decoding row, with drafts of those that may follow it, and a
piece of each prompt that is being read. Results may lag: the answer to a step carries whatever was finished since the answer before, so that a device
can work on the next pass while this one is being looked at.
"""

from collections.abc import Sequence

import attrs

from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.steering import NO_STEERING, Grammar, Steering

# Names of what is kept of a row after it was closed. A block holds the rows that global layers have for a run of positions; a snapshot holds, for
# one position, what cannot be cut out of blocks: the last rows of sliding layers, the state of recurrent ones. Equal keys, equal content.
BlockKey = bytes
SnapshotKey = bytes


@attrs.frozen
class PassSizes:
    """The sizes of a pass that a device is fast with."""

    rows: int  # that decode at the same time
    prompt_tokens: int  # read in one pass
    decode_tokens: int = 0  # of rows that decode, drafts included; 0: rows cannot be rewound, and take no drafts


@attrs.frozen
class Piece:
    """Where a run of a row's positions comes from: a stored block (its first rows), or another row that has read the same tokens."""

    start: int
    stop: int
    block: BlockKey | None = None
    row: int | None = None
    is_last_use: bool = False  # the stored block goes: the row that takes it has what it holds


@attrs.frozen
class Restore:
    """What a row begins with instead of nothing: the positions [0, length)."""

    length: int
    pieces: tuple[Piece, ...]  # in order, without gaps; none where no layer is global
    snapshot: SnapshotKey | None = None  # for models with layers that blocks do not hold


@attrs.frozen
class SaveBlock:
    """Keep what global layers of a row hold for the positions [start, stop)."""

    key: BlockKey
    row: int
    start: int
    stop: int


@attrs.frozen
class SaveSnapshot:
    """Keep what the other layers of a row hold now, `position` being the tokens it has read."""

    key: SnapshotKey
    row: int
    position: int


@attrs.frozen
class Closing:
    """A row to close, and what to keep of it."""

    row: int
    blocks: tuple[SaveBlock, ...] = ()
    snapshot: SaveSnapshot | None = None


@attrs.frozen
class Inventory:
    """What a device holds, for the books to be checked against."""

    rows: frozenset[int]
    blocks: frozenset[BlockKey]
    snapshots: frozenset[SnapshotKey]


@attrs.frozen
class RowStart:
    """A row to open: what its cache begins with, and how its tokens are to be drawn."""

    row: int
    seed: int
    sampling: SamplingParams
    forced: tuple[int, ...] = ()  # taken instead of sampled tokens, by index of the generated token
    restore: Restore | None = None
    steering: Steering = NO_STEERING
    grammar: Grammar | None = None
    top_logprobs: int = 0
    drawn: tuple[int, ...] = ()  # what the request has generated already, in a row it had before
    penalised: tuple[int, ...] = ()  # tokens of the prompt, where the sampling has a repetition penalty

    @property
    def looks_back(self) -> bool:
        """Whether a draw depends on the tokens that were drawn before."""
        return self.grammar is not None or self.steering.looks_back


@attrs.frozen
class Chunk:
    """The next piece of a row's prompt. With `draws` set, it ends the prompt and one token is drawn after it."""

    row: int
    tokens: tuple[int, ...]
    context: int  # tokens of the row before this piece
    draws: int | None = None  # index of the token drawn, counted from the first one the request generated


@attrs.frozen
class Decode:
    """A decoding row's part in a step: the row reads the token that it drew last and draws number `draws`.

    `drafts` are the tokens that may be drawn next. The row reads each of them while it equals the token that is drawn in its place, and draws one
    more token behind each that it reads.
    """

    row: int
    draws: int
    drafts: tuple[int, ...] = ()

    @property
    def indices(self) -> range:
        """Indices of the tokens that are drawn if all drafts are accepted."""
        return range(self.draws, self.draws + 1 + len(self.drafts))

    def accepted(self, drawn: Sequence[int]) -> int:
        """The number of drafts that equal the tokens drawn in their places."""
        pairs = enumerate(zip(self.drafts, drawn, strict=False))
        return next((place for place, (draft, token) in pairs if draft != token), len(self.drafts))


@attrs.frozen
class StepTiming:
    """What one finished forward pass was, and how long the device was busy with it."""

    decode_tokens: int  # of decoding rows, drafts included
    prefill_tokens: int
    prefill_context: int  # see `StepPlan.prefill_context`
    seconds: float


@attrs.frozen
class StepPlan:
    """In this order: rows to close, what to drop, rows to open, one forward pass, snapshots of rows as that pass leaves them."""

    close: tuple[Closing, ...] = ()
    drop_blocks: tuple[BlockKey, ...] = ()
    drop_snapshots: tuple[SnapshotKey, ...] = ()
    open: tuple[RowStart, ...] = ()
    decode: tuple[Decode, ...] = ()
    prefill: tuple[Chunk, ...] = ()
    snapshots: tuple[SaveSnapshot, ...] = ()

    @property
    def has_work(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.decode or self.prefill)

    @property
    def has_errands(self) -> bool:
        """Whether there is anything to keep or to drop."""
        return bool(self.close or self.drop_blocks or self.drop_snapshots or self.snapshots)

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows that take part in the forward pass."""
        return tuple(d.row for d in self.decode) + tuple(c.row for c in self.prefill)

    @property
    def has_drafts(self) -> bool:
        """True if drafts are verified in this step."""
        return any(decode.drafts for decode in self.decode)

    @property
    def decode_tokens(self) -> int:
        """Tokens of decoding rows that are read in this step, drafts included."""
        return sum(len(decode.indices) for decode in self.decode)

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens read in this step."""
        return sum(len(chunk.tokens) for chunk in self.prefill)

    @property
    def prefill_context(self) -> int:
        """Tokens read before the chunks: their mean, weighted by the chunks' sizes."""
        return sum(len(chunk.tokens) * chunk.context for chunk in self.prefill) // max(self.prompt_tokens, 1)

    def timing(self, seconds: float) -> StepTiming:
        """What to report of this step when it kept the device busy for so long."""
        return StepTiming(self.decode_tokens, self.prompt_tokens, self.prefill_context, seconds)


@attrs.frozen
class Drawn:
    """A token a row has drawn."""

    row: int
    index: int  # of the generated token, from 0
    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens with their logarithms, as many as were asked for


@attrs.frozen
class StepResult:
    """What has finished since the last answer."""

    drawn: tuple[Drawn, ...] = ()
    timing: StepTiming | None = None
    stuck: tuple[int, ...] = ()  # rows whose grammar cannot say what may come next: they draw no more
    in_flight: bool = False  # whether a pass was started whose tokens are still to come

    def followed_by(self, later: "StepResult") -> "StepResult":
        """Two answers in one."""
        return StepResult(self.drawn + later.drawn, later.timing, tuple(sorted({*self.stuck, *later.stuck})), later.in_flight)
