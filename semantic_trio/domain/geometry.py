"""The parts of a model's KV cache, in layers and bytes.

Knows layer kinds and sizes. Knows no arrays and no policy.
"""

import enum
from collections.abc import Iterable

import attrs

# Tokens per block. The windows of the families we test are multiples or divisors of it (128, 512,
# 1024); one block of an 8B model in fp16 (32 layers, 8 heads of 128, keys and values) is 32 MiB:
# one comfortable read from disk.
BLOCK_TOKENS = 256
# Sizes that a server can be told to use. With fewer than 64 positions a page leaves threads of the
# attention kernel without work; with more than 1024 the empty part of a row's last page is larger
# than most turns.
BLOCK_SIZES = (64, 128, 256, 512, 1024)
# The buffers of a live row grow by up to 480 positions at a time, whatever the blocks.
ROW_SLACK_TOKENS = 512


class LayerKind(enum.Enum):
    """The kind of a layer, by the positions that it keeps."""

    GLOBAL = "global"  # keys and values of every position
    SLIDING = "sliding"  # of the last `window` positions
    CHUNKED = "chunked"  # of the positions since the last multiple of `window`
    RECURRENT = "recurrent"  # a state of fixed size; that of a cache of unknown kind may grow


@attrs.frozen
class LayerGroup:
    """The layers of one kind and size."""

    kind: LayerKind
    layers: int
    # keys and values of one position, all layers of the group; what a state grows by
    token_bytes: int = 0
    window: int = 0  # tokens; sliding and chunked layers
    state_bytes: int = 0  # recurrent layers: all of them

    def times(self, count: int) -> "LayerGroup":
        """Return a group of `count` times the size."""
        return attrs.evolve(
            self,
            layers=self.layers * count,
            token_bytes=self.token_bytes * count,
            state_bytes=self.state_bytes * count,
        )

    def bytes_at(self, position: int) -> int:
        """Return the bytes of the group after `position` tokens."""
        if self.kind is LayerKind.RECURRENT:
            return self.state_bytes + self.token_bytes * position
        if self.kind is LayerKind.GLOBAL:
            return self.token_bytes * position
        if self.kind is LayerKind.SLIDING:
            return self.token_bytes * min(position, self.window)
        return self.token_bytes * (position % self.window)


@attrs.frozen
class ModelCacheSpec:
    """A model's layers in groups, and the block size its memory is kept in."""

    # of weights, adapter, dtype and KV bits: memory of one is of no use to another
    fingerprint: str
    groups: tuple[LayerGroup, ...]
    block_tokens: int = BLOCK_TOKENS
    arrays_per_block: int = 2  # buffers a stored block takes: devices bound their number too
    # rows and blocks are pages of one pool: rows share pages, and a partly filled page takes a
    # whole one
    is_paged: bool = False
    # positions that the buffers of a row which is not in pages may have beyond its tokens
    row_slack_tokens: int = ROW_SLACK_TOKENS

    @classmethod
    def of(
        cls,
        fingerprint: str,
        caches: Iterable[LayerGroup],
        *,
        is_paged: bool = False,
        block_tokens: int = BLOCK_TOKENS,
    ) -> "ModelCacheSpec":
        """Return the spec of a model with these caches, one group of one layer for each.

        Equal ones become one group, in the order they first come.

        Its rows, where they are not pages, have the buffers of mlx-lm's caches.
        """
        counts: dict[LayerGroup, int] = {}
        for cache in caches:
            counts[cache] = counts.get(cache, 0) + 1
        globals_ = sum(count for cache, count in counts.items() if cache.kind is LayerKind.GLOBAL)
        groups = tuple(cache.times(count) for cache, count in counts.items())
        arrays = 0 if is_paged else max(2 * globals_, 1)
        return cls(fingerprint, groups, block_tokens, arrays_per_block=arrays, is_paged=is_paged)

    @property
    def has_blocks(self) -> bool:
        """True if some layers keep every position.

        Without such layers blocks are empty, and only name their tokens.
        """
        return any(group.kind is LayerKind.GLOBAL for group in self.groups)

    @property
    def needs_snapshots(self) -> bool:
        """True if some layers have state that cannot be cut out of blocks."""
        return any(group.kind is not LayerKind.GLOBAL for group in self.groups)

    def block_amount(self, tokens: int) -> tuple[int, ...]:
        """Bytes of a stored block of so many tokens, by group: global layers alone."""
        positions = self._in_blocks(tokens) if self.is_paged else tokens
        return tuple(
            group.token_bytes * positions if group.kind is LayerKind.GLOBAL else 0
            for group in self.groups
        )

    def snapshot_amount(self, position: int) -> tuple[int, ...]:
        """Bytes of a snapshot at a position, by group: all layers but the global ones."""
        return tuple(
            0 if group.kind is LayerKind.GLOBAL else self._bytes_at(group, position)
            for group in self.groups
        )

    def row_amount(self, tokens: int, chunk_tokens: int, shared: int = 0) -> tuple[int, ...]:
        """Bytes of a live row that has read so many tokens, by group, but those of the first
        `shared`, whole blocks that are counted by themselves.

        It counts the positions that its buffers grow by, and what a chunk adds to a window.
        """
        positions = self._in_blocks(tokens) + (0 if self.is_paged else self.row_slack_tokens)
        windows = [self._window(group, tokens, chunk_tokens) for group in self.groups]
        return tuple(
            group.token_bytes * window
            if group.window
            else group.bytes_at(positions - shared if group.kind is LayerKind.GLOBAL else positions)
            for group, window in zip(self.groups, windows, strict=True)
        )

    def row_limit(self, tokens: int, chunk_tokens: int) -> int:
        """The most tokens that a live row can have read in the bytes that `tokens` take."""
        windows = (
            max(group.window, chunk_tokens)
            for group in self.groups
            if group.kind is not LayerKind.GLOBAL and not group.state_bytes
        )
        return (
            tokens
            if tokens < max(windows, default=0)
            else -(-tokens // self.block_tokens) * self.block_tokens
        )

    def block_bytes(self, tokens: int | None = None) -> int:
        """Bytes of a stored block of so many tokens; of a whole block by default."""
        return sum(self.block_amount(self.block_tokens if tokens is None else tokens))

    def snapshot_bytes(self, position: int) -> int:
        """Bytes of a snapshot at a position."""
        return sum(self.snapshot_amount(position))

    def context_bytes(self, tokens: int) -> int:
        """Bytes of the KV cache of a sequence of so many tokens."""
        return sum(group.bytes_at(tokens) for group in self.groups)

    def agents_that_fit(self, budget_bytes: int, tokens: int) -> int:
        """Return the number of sequences of so many tokens that fit into a budget if they share
        nothing.
        """
        return budget_bytes // max(self.context_bytes(tokens), 1)

    def _bytes_at(self, group: LayerGroup, position: int) -> int:
        """Bytes of a group at a position.

        In pages, the ones that a window begins and ends in are whole.
        """
        if not self.is_paged or group.kind is not LayerKind.SLIDING:
            return group.bytes_at(position)
        return group.token_bytes * (
            self._in_blocks(position)
            - max(position - group.window, 0) // self.block_tokens * self.block_tokens
        )

    def _window(self, group: LayerGroup, tokens: int, chunk_tokens: int) -> int:
        """Positions that a row of a sliding or chunked group holds while it reads a chunk."""
        positions = min(tokens, group.window) + min(tokens, chunk_tokens)
        return self._in_blocks(positions) + self.block_tokens if self.is_paged else positions

    def _in_blocks(self, tokens: int) -> int:
        """Positions of the blocks that so many tokens need, the last one included."""
        return -(-tokens // self.block_tokens) * self.block_tokens
