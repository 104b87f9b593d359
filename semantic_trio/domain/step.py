"""Plans and results of one step, as they go to the device and come back: ids, counts and frozen
values, never arrays.

A step is one forward pass over rows of different lengths at once: one token of every decoding row,
with drafts of those that may follow it, and a chunk of each prompt that is being read. Results may
lag: the answer to a step carries whatever was finished since the answer before, so that a device
can work on the next pass while this one is being looked at.
"""

from collections.abc import Mapping, Sequence

import attrs

from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.salt import NO_ADAPTER
from semantic_trio.domain.steering import NO_STEERING, Grammar, Steering

# Keys of the parts of a row that stay stored after the row was closed. A block holds a range of
# positions of global layers. A snapshot holds, for one position, what cannot be cut out of blocks:
# the last positions of sliding layers, the state of recurrent ones. Equal keys, equal content.
BlockKey = bytes
SnapshotKey = bytes


@attrs.frozen
class PassSizes:
    """Sizes of a pass at which a device is fast."""

    rows: int  # that decode at the same time
    prompt_tokens: int  # read in one pass
    # of rows that decode, drafts included; 0: rows cannot be rewound, and take no drafts
    decode_tokens: int = 0


@attrs.frozen
class Piece:
    """The source of a range of a row's positions: a stored block (its first positions), or another
    row that has read the same tokens.
    """

    start: int
    stop: int
    block: BlockKey | None = None
    row: int | None = None
    is_last_use: bool = False  # the stored block is removed: the row takes its content over


@attrs.frozen
class Restore:
    """The positions [0, length) that a row begins with."""

    length: int
    pieces: tuple[Piece, ...]  # in order, without gaps; none where no layer is global
    snapshot: SnapshotKey | None = None  # for models with layers that blocks do not hold


@attrs.frozen
class SaveBlock:
    """An order to store the positions [start, stop) of the global layers of a row."""

    key: BlockKey
    row: int
    start: int
    stop: int


@attrs.frozen
class SaveSnapshot:
    """An order to store the state of the other layers of a row, which has read `position`
    tokens.
    """

    key: SnapshotKey
    row: int
    position: int


@attrs.frozen
class RowClose:
    """A row to close, and the parts of it to store."""

    row: int
    blocks: tuple[SaveBlock, ...] = ()
    snapshot: SaveSnapshot | None = None


@attrs.frozen
class Inventory:
    """Rows, blocks and snapshots on a device, for the block states to be checked against."""

    rows: frozenset[int]
    blocks: frozenset[BlockKey]
    snapshots: frozenset[SnapshotKey]


@attrs.frozen
class RowStart:
    """A row to open: the beginning of its cache, and the sampling of its tokens."""

    row: int
    seed: int
    sampling: SamplingParams
    forced: tuple[int, ...] = ()  # taken instead of sampled tokens, by index of the generated token
    restore: Restore | None = None
    steering: Steering = NO_STEERING
    grammar: Grammar | None = None
    top_logprobs: int = 0
    drawn: tuple[int, ...] = ()  # tokens that the request has generated before, in another row
    # tokens of the prompt, where the sampling has a repetition penalty
    penalised: tuple[int, ...] = ()
    # digest of the adapter that computes the row: it is loaded for as long as its requests are open
    adapter: bytes = NO_ADAPTER
    # of the request, for log lines on the row
    log_ids: Mapping[str, str] = attrs.field(factory=dict, eq=False)

    @property
    def needs_sampled_ids(self) -> bool:
        """True if sampling depends on the tokens sampled before."""
        return self.grammar is not None or self.steering.needs_sampled_ids


@attrs.frozen
class Chunk:
    """The next chunk of a row's prompt.

    With `draws` set, the chunk ends the prompt and one token is sampled after it.
    """

    row: int
    tokens: tuple[int, ...]
    context: int  # tokens of the row before this chunk
    # index of the sampled token, from the first one that the request generated
    draws: int | None = None


@attrs.frozen
class Decode:
    """The part of a decoding row in a step: the row reads its last sampled token and samples the
    one with index `draws`.

    `drafts` are tokens that may come next. The row reads each of them while it equals the token
    sampled in its place, and samples one more token behind each that it reads.
    """

    row: int
    draws: int
    drafts: tuple[int, ...] = ()

    @property
    def indices(self) -> range:
        """Indices of the tokens that are sampled if all drafts are accepted."""
        return range(self.draws, self.draws + 1 + len(self.drafts))

    def accepted(self, sampled: Sequence[int]) -> int:
        """Return the number of drafts that equal the tokens sampled in their places."""
        pairs = enumerate(zip(self.drafts, sampled, strict=False))
        return next((place for place, (draft, token) in pairs if draft != token), len(self.drafts))


@attrs.frozen
class StepTiming:
    """Sizes of a finished forward pass, and the seconds the device was busy with it."""

    decode_tokens: int  # of decoding rows, drafts included
    prefill_tokens: int
    prefill_context: int  # see `StepPlan.prefill_context`
    seconds: float


@attrs.frozen
class StepPlan:
    """One step, in this order: rows to close, keys to drop, rows to open, one forward pass,
    snapshots of rows after that pass.
    """

    close: tuple[RowClose, ...] = ()
    drop_blocks: tuple[BlockKey, ...] = ()
    drop_snapshots: tuple[SnapshotKey, ...] = ()
    open: tuple[RowStart, ...] = ()
    decode: tuple[Decode, ...] = ()
    prefill: tuple[Chunk, ...] = ()
    snapshots: tuple[SaveSnapshot, ...] = ()

    @property
    def has_work(self) -> bool:
        """True if the step has a forward pass."""
        return bool(self.decode or self.prefill)

    @property
    def has_errands(self) -> bool:
        """True if the step stores, drops or closes something."""
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
        return sum(len(chunk.tokens) * chunk.context for chunk in self.prefill) // max(
            self.prompt_tokens, 1
        )

    def timing(self, seconds: float) -> StepTiming:
        """Return the timing of this step, which kept the device busy for `seconds`."""
        return StepTiming(self.decode_tokens, self.prompt_tokens, self.prefill_context, seconds)


@attrs.frozen
class SampledToken:
    """A token that a row has sampled."""

    row: int
    index: int  # of the generated token, from 0
    token: int
    logprob: float
    # the likeliest tokens with their log-probabilities, as many as the request asks for
    top: tuple[tuple[int, float], ...] = ()


@attrs.frozen
class StepResult:
    """Results that have finished since the previous `StepResult`."""

    sampled: tuple[SampledToken, ...] = ()
    timing: StepTiming | None = None
    # rows whose grammar cannot be evaluated any more: they sample no more tokens
    stuck: tuple[int, ...] = ()
    in_flight: bool = False  # True if a pass was started whose tokens are still to come

    def followed_by(self, later: "StepResult") -> "StepResult":
        """Return this result and a later one as one."""
        return StepResult(
            self.sampled + later.sampled,
            later.timing,
            tuple(sorted({*self.stuck, *later.stuck})),
            later.in_flight,
        )
