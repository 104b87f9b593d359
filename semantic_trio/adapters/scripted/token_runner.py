"""A runner without a model.

On trio's virtual clock a whole engine runs on it without a thread or a moment's waiting.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
import trio

from semantic_trio.adapters.scripted.rows import TokenRow, read, written
from semantic_trio.domain.content import Content, Item, Kind
from semantic_trio.domain.embedding import Pooling
from semantic_trio.domain.geometry import LayerKind, ModelCacheSpec
from semantic_trio.domain.step import (
    BlockKey,
    Decode,
    Inventory,
    PassSizes,
    Piece,
    Restore,
    RowStart,
    SampledToken,
    SaveBlock,
    SaveSnapshot,
    SnapshotKey,
    StepPlan,
    StepResult,
)

EMBEDDING_SIZE = 8
PASSES = PassSizes(rows=8, prompt_tokens=512, decode_tokens=32)
LETTERS = range(ord("a"), ord("z") + 1)


@attrs.define(eq=False)
class TokenRunner:
    """A runner that keeps of rows, blocks and snapshots the tokens they were made of.

    A subclass draws the tokens.

    `seconds_per_step` and `seconds_per_prompt_token` pass on trio's clock. Results come one step
    late, as those of a device do, unless `look_ahead` is off or drafts are verified. A plan that
    asks for what is not there fails an assertion.
    """

    seconds_per_step: float = 0.0
    seconds_per_prompt_token: float = 0.0
    look_ahead: bool = True
    sizes: PassSizes = PASSES
    layout: str = "no model"
    # with a group that is not global, rows are restored from snapshots too
    spec: ModelCacheSpec = attrs.field(kw_only=True)
    rows: dict[int, TokenRow] = attrs.field(init=False, factory=dict)
    blocks: dict[BlockKey, tuple[int, ...]] = attrs.field(init=False, factory=dict)
    snapshots: dict[SnapshotKey, tuple[int, ...]] = attrs.field(init=False, factory=dict)
    _late: StepResult = attrs.field(init=False, factory=StepResult)

    async def step(self, plan: StepPlan) -> StepResult:
        """See `ModelRunner.step`."""
        self._keep_and_drop(plan)
        for start in plan.open:
            self._open(start)
        seconds = self._seconds(plan)
        await trio.sleep(seconds)
        now = self._compute(plan, seconds)
        for snapshot in plan.snapshots:
            self._save_snapshot(snapshot)
        if not self.look_ahead:
            return now
        answer, self._late = self._late, now
        if plan.has_drafts:
            answer, self._late = answer.followed_by(now), StepResult()
            return answer
        return attrs.evolve(answer, in_flight=plan.has_work)

    async def reset(self, keep: tuple[SaveBlock, ...] = ()) -> frozenset[BlockKey]:
        """See `ModelRunner.reset`."""
        await trio.lowlevel.checkpoint()
        readable = [
            block
            for block in keep
            if block.row in self.rows and len(self.rows[block.row].cache) >= block.stop
        ]
        for block in readable:
            self._save_block(block)
        self.rows.clear()
        self._late = StepResult()
        return frozenset(block.key for block in readable)

    async def inventory(self) -> Inventory:
        """See `ModelRunner.inventory`."""
        await trio.lowlevel.checkpoint()
        return Inventory(frozenset(self.rows), frozenset(self.blocks), frozenset(self.snapshots))

    async def export(self, items: Sequence[Item]) -> Mapping[Item, Content]:
        """See `ModelRunner.export`."""
        await trio.lowlevel.checkpoint()
        return {
            item: written(self._kept(item.kind)[item.key])
            for item in items
            if item.key in self._kept(item.kind)
        }

    @property
    def embedding_size(self) -> int:
        """See `ModelRunner.embedding_size`."""
        return EMBEDDING_SIZE

    async def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling
    ) -> list[tuple[float, ...]]:
        """See `ModelRunner.embed`."""
        await trio.lowlevel.checkpoint()
        return [_vector(text, pooling) for text in texts]

    async def load(self, items: Mapping[Item, Content]) -> None:
        """See `ModelRunner.load`."""
        await trio.lowlevel.checkpoint()
        limits = {Kind.BLOCK: self.spec.block_tokens, Kind.SNAPSHOT: None}
        found = {item: read(item, content, limits[item.kind]) for item, content in items.items()}
        for item, tokens in found.items():
            self._kept(item.kind)[item.key] = tokens

    def _kept(self, kind: Kind) -> dict[bytes, tuple[int, ...]]:
        return self.blocks if kind is Kind.BLOCK else self.snapshots

    def _seconds(self, plan: StepPlan) -> float:
        return (
            self.seconds_per_step * plan.has_work
            + self.seconds_per_prompt_token * plan.prompt_tokens
        )

    def _keep_and_drop(self, plan: StepPlan) -> None:
        for closing in plan.close:
            for block in closing.blocks:
                self._save_block(block)
            if closing.snapshot is not None:
                self._save_snapshot(closing.snapshot)
            del self.rows[closing.row]
        for key in plan.drop_blocks:
            del self.blocks[key]
        for key in plan.drop_snapshots:
            del self.snapshots[key]

    def _save_block(self, block: SaveBlock) -> None:
        tokens = self.rows[block.row].cache[block.start : block.stop]
        assert len(tokens) == block.stop - block.start, f"the row ends before position {block.stop}"
        self.blocks[block.key] = tuple(tokens)

    def _save_snapshot(self, snapshot: SaveSnapshot) -> None:
        state = self.rows[snapshot.row].state
        assert len(state) == snapshot.position, (
            f"the row has read {len(state)} tokens, not {snapshot.position}"
        )
        self.snapshots[snapshot.key] = tuple(state)

    def _open(self, start: RowStart) -> None:
        assert start.row not in self.rows, "a row is opened once"
        row = self.rows[start.row] = TokenRow(start)
        if start.restore is None:
            return
        row.cache = self._gathered(start.restore)
        row.state = list(row.cache)
        if self.spec.needs_snapshots:
            row.state = self._restored_state(start.restore)
            row.cache = row.cache or list(row.state)

    def _gathered(self, restore: Restore) -> list[int]:
        tokens: list[int] = []
        for piece in restore.pieces:
            assert piece.start == len(tokens), "pieces follow each other without gaps"
            tokens += self._piece(piece)
        has_global = any(group.kind is LayerKind.GLOBAL for group in self.spec.groups)
        assert len(tokens) == (restore.length if has_global else 0), (
            "pieces hold the positions [0, length)"
        )
        return tokens

    def _piece(self, piece: Piece) -> tuple[int, ...]:
        count = piece.stop - piece.start
        if piece.row is not None:
            tokens = tuple(self.rows[piece.row].cache[piece.start : piece.stop])
        else:
            assert piece.block is not None
            tokens = self.blocks.pop(piece.block) if piece.is_last_use else self.blocks[piece.block]
        assert len(tokens) >= count > 0, f"{len(tokens)} positions where {count} are wanted"
        return tokens[:count]

    def _restored_state(self, restore: Restore) -> list[int]:
        assert restore.snapshot is not None, (
            "layers that are not global are restored from a snapshot"
        )
        state = self.snapshots[restore.snapshot]
        others = [group for group in self.spec.groups if group.kind is not LayerKind.GLOBAL]
        reaches_back = all(
            group.kind is LayerKind.SLIDING and len(state) <= group.window for group in others
        )
        assert len(state) == restore.length or (reaches_back and len(state) > restore.length), (
            f"a snapshot at {len(state)}, not at {restore.length}"
        )
        return list(state[: restore.length])

    def _compute(self, plan: StepPlan, seconds: float) -> StepResult:
        drawn = []
        for decode in plan.decode:
            row = self.rows[decode.row]
            row.read(row.seen[-1])
            drawn.append(self._draw(row, decode.draws))
            drawn += self._verify(row, decode)
        for chunk in plan.prefill:
            row = self.rows[chunk.row]
            assert chunk.context == len(row.cache)
            row.read(*chunk.tokens)
            if chunk.draws is not None:
                drawn.append(self._draw(row, chunk.draws))
        if not plan.has_work:
            return StepResult()
        told = tuple(one for one in drawn if isinstance(one, SampledToken))
        return StepResult(
            told, plan.timing(seconds), tuple(one for one in drawn if isinstance(one, int))
        )

    def _verify(self, row: TokenRow, decode: Decode) -> Iterator[SampledToken | int]:
        """Read drafts as long as they equal what is drawn, and draw behind each."""
        for index, draft in enumerate(decode.drafts, decode.draws + 1):
            if row.seen[-1] != draft:
                return
            row.read(draft)
            yield self._draw(row, index)

    def _draw(self, row: TokenRow, index: int) -> SampledToken | int:
        """Draw token `index` of a row.

        Returns the number of a row whose grammar cannot say what may come next.
        """
        raise NotImplementedError

    def _drawn(
        self, row: TokenRow, index: int, token: int, digest_of: Callable[[str], bytes]
    ) -> SampledToken:
        if index < len(row.start.forced):
            token = row.start.forced[index]
        row.seen.append(token)
        if row.grammar is not None:
            row.grammar.take(token)

        def logprob(one: int) -> float:
            return -digest_of(str(one))[0] / 16

        others = (
            sorted(((one, logprob(one)) for one in LETTERS), key=lambda found: -found[1])
            if row.start.top_logprobs
            else []
        )
        return SampledToken(
            row.start.row, index, token, logprob(token), tuple(others[: row.start.top_logprobs])
        )


def _vector(tokens: Sequence[int], pooling: Pooling) -> tuple[float, ...]:
    """Return a vector of length 1 that depends on the tokens that the pooling looks at."""
    beginnings = [tokens[: end + 1] for end in range(len(tokens))]
    found = {
        Pooling.FIRST: beginnings[:1],
        Pooling.LAST: beginnings[-1:],
        Pooling.MEAN: beginnings,
    }[pooling]
    vectors = [hashlib.sha256(f"{list(one)}".encode()).digest()[:EMBEDDING_SIZE] for one in found]
    total = [float(sum(numbers)) for numbers in zip(*vectors, strict=True)]
    return tuple(number / math.hypot(*total) for number in total)


def digests(tokens: Sequence[int]) -> Callable[[str], bytes]:
    """Function from a text to the digest of the tokens and that text.

    The tokens, which may be many, are spelled and hashed once.
    """
    hashed = hashlib.sha256(f"{tokens}".encode())

    def digest_of(text: str) -> bytes:
        one = hashed.copy()
        one.update(text.encode())
        return one.digest()

    return digest_of
