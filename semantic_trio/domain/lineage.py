"""What the record of an agent leads to: the names of its blocks and marks, which follow from its tokens alone.

Knows records and names. Knows nothing of what is kept under these names, or of where.
"""

from collections.abc import Iterator

import attrs

from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun, child_key, mark_key, unpack
from semantic_trio.domain.content import AgentRecord, Item, Kind
from semantic_trio.domain.geometry import BLOCK_TOKENS
from semantic_trio.domain.step import BlockKey

# Sizes of blocks that records may have been written with: a record does not tell. That of all models but fakes comes first.
BLOCK_SIZES = (BLOCK_TOKENS, *(1 << bits for bits in range(4, 13) if 1 << bits != BLOCK_TOKENS))


@attrs.frozen
class Lineage:
    """The names a record leads to."""

    blocks: tuple[Item, ...]  # the whole ones, from the first on
    tail: Item | None
    marks: tuple[Item, ...]  # by position

    def __iter__(self) -> Iterator[Item]:
        """All of them, in the order in which they are of use."""
        yield from self.blocks
        yield from (self.tail,) if self.tail else ()
        yield from self.marks

    @property
    def own(self) -> frozenset[Item]:
        """What only this record, and those with the very same history, lead to."""
        return frozenset(self.marks) | ({self.tail} if self.tail else set())


def lineage(record: AgentRecord, root: BlockKey) -> Lineage:
    """The names a record leads to, under a model's root. A mark that it lists and does not pass is left out.

    Raises `ValueError` for a record whose tokens are not those its blocks were named after.
    """
    run = _run(record, root)
    last = run.keys[-1] if run.keys else root
    rest = run.packed[len(run.keys) * run.block_tokens * TOKEN_BYTES :]
    return Lineage(
        tuple(Item(Kind.BLOCK, key) for key in run.keys),
        Item(Kind.BLOCK, child_key(last, rest)) if rest else None,
        tuple(Item(Kind.MARK, key) for position, key in sorted(record.marks) if key == _mark_at(position, run, root)),
    )


def largest_token(record: AgentRecord) -> int:
    """The largest of a record's tokens; -1 where it has none."""
    return max((max(unpack(packed), default=-1) for packed in (record.history, *(line.packed for line in record.said))), default=-1)


def _run(record: AgentRecord, root: BlockKey) -> TokenRun:
    tokens = len(record.history) // TOKEN_BYTES
    for size in BLOCK_SIZES if record.chain != root else (tokens + 1,):
        run = TokenRun.of_packed(record.history, root, size)
        if record.chain == (run.keys[-1] if run.keys else root):
            return run
    raise ValueError("its tokens are not those of its blocks")


def _mark_at(position: int, run: TokenRun, root: BlockKey) -> bytes:
    """The name of a mark at a position of a history."""
    whole = min(position // run.block_tokens, len(run.keys))
    after = run.keys[whole - 1] if whole else root
    return mark_key(after, run.packed[whole * run.block_tokens * TOKEN_BYTES : position * TOKEN_BYTES])
