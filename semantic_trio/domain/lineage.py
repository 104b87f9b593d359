"""The keys that the record of an agent leads to: those of its blocks and snapshots, which follow
from its tokens and its salt.

Knows records and keys. Knows nothing of the entries under these keys, or of their places.
"""

from collections.abc import Iterator

import attrs

from semantic_trio.domain.chain import (
    TOKEN_BYTES,
    TokenRun,
    child_key,
    root_key,
    snapshot_key,
    unpack,
)
from semantic_trio.domain.content import AgentRecord, Item, Kind
from semantic_trio.domain.geometry import BLOCK_TOKENS
from semantic_trio.domain.salt import Salt, adapted, adapter_of

# Sizes of blocks that records may have been written with, those of fakes included: a record does
# not tell. The usual one comes first.
RECORD_BLOCK_SIZES = (
    BLOCK_TOKENS,
    *(1 << bits for bits in range(4, 13) if 1 << bits != BLOCK_TOKENS),
)


@attrs.frozen
class Lineage:
    """The names a record leads to."""

    blocks: tuple[Item, ...]  # the whole ones, from the first on
    tail: Item | None
    snapshots: tuple[Item, ...]  # by position

    def __iter__(self) -> Iterator[Item]:
        """All of them, in the order in which they are of use."""
        yield from self.blocks
        yield from (self.tail,) if self.tail else ()
        yield from self.snapshots

    @property
    def own(self) -> frozenset[Item]:
        """The items that only records with this very history lead to."""
        return frozenset(self.snapshots) | ({self.tail} if self.tail else set())


def lineage(record: AgentRecord, fingerprint: str) -> Lineage:
    """The names a record leads to with a model of this fingerprint.

    A snapshot that it lists and does not pass is left out.

    Raises `ValueError` for a record whose tokens are not those its blocks were named after.
    """
    run = _run(record, fingerprint)
    return Lineage(
        tuple(Item(Kind.BLOCK, key) for key in run.keys),
        Item(Kind.BLOCK, child_key(run.last_key, run.rest)) if run.rest else None,
        tuple(
            Item(Kind.SNAPSHOT, key)
            for position, key in sorted(record.snapshots)
            if key == _snapshot_key_at(position, run)
        ),
    )


def salted(
    record: AgentRecord, fingerprint: str, salt: Salt | None
) -> tuple[AgentRecord, dict[Item, Item]]:
    """A record under another salt, and the new names of its blocks and snapshots by their old ones;
    with None as salt all stays as it is.

    The adapter that has computed them stays the same. Blocks beside its history, which only their
    names are known of, are left out. Raises as `lineage` does.
    """
    before = lineage(record, fingerprint)
    if salt is None:
        return record, {item: item for item in before}
    run, salt = _run(record, fingerprint), adapted(salt, adapter_of(record.salt))
    renamed = TokenRun.of_packed(record.history, root_key(fingerprint, salt), run.block_tokens)
    snapshots = tuple(
        (position, _snapshot_key_at(position, renamed))
        for position, key in sorted(record.snapshots)
        if key == _snapshot_key_at(position, run)
    )
    after = attrs.evolve(record, salt=salt, chain=renamed.last_key, snapshots=snapshots, strays=())
    return after, dict(zip(before, lineage(after, fingerprint), strict=True))


def largest_token(record: AgentRecord) -> int:
    """The largest of a record's tokens; -1 where it has none."""
    return max(
        (
            max(unpack(packed), default=-1)
            for packed in (record.history, *(history.packed for history in record.token_histories))
        ),
        default=-1,
    )


def _run(record: AgentRecord, fingerprint: str) -> TokenRun:
    tokens, root = len(record.history) // TOKEN_BYTES, root_key(fingerprint, record.salt)
    for size in RECORD_BLOCK_SIZES if record.chain != root else (tokens + 1,):
        run = TokenRun.of_packed(record.history, root, size)
        if record.chain == run.last_key:
            return run
    raise ValueError("its tokens are not those of its blocks")


def _snapshot_key_at(position: int, run: TokenRun) -> bytes:
    """The name of a snapshot at a position of a history."""
    whole = min(position // run.block_tokens, len(run.keys))
    after = run.keys[whole - 1] if whole else run.root
    return snapshot_key(
        after, run.packed[whole * run.block_tokens * TOKEN_BYTES : position * TOKEN_BYTES]
    )
