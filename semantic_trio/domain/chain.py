"""Names of token sequences: equal history, equal name, whoever wrote it.

Knows token ids and hashes. Knows nothing of caches or agents.
"""

import array
import hashlib
import struct
from collections.abc import Iterable, Sequence

import attrs

from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.step import BlockKey, SnapshotKey

# token ids are kept packed: compared and hashed as bytes, a thousand times faster than as numbers
TOKEN_BYTES = 4


def pack(tokens: Iterable[int]) -> bytes:
    """Token ids as bytes, `TOKEN_BYTES` each."""
    return array.array("i", tokens).tobytes()


_ONE = struct.Struct("i")


def pack_one(token: int) -> bytes:
    """Pack a single token id as `pack` does, in a tenth of the time."""
    return _ONE.pack(token)


def unpack(packed: bytes) -> tuple[int, ...]:
    """The token ids again."""
    return tuple(array.array("i", packed))


def root_key(fingerprint: str, salt: Salt = NO_SALT) -> BlockKey:
    """Return the root of the chains of one model and one salt: the names of all their blocks follow
    from it.
    """
    root = hashlib.sha256(b"semantic_trio/1\0" + fingerprint.encode()).digest()
    return hashlib.sha256(b"salt\0" + root + salt).digest() if salt else root


def child_key(parent: BlockKey, packed: bytes) -> BlockKey:
    """The name of the tokens that follow what `parent` names."""
    return hashlib.sha256(parent + packed).digest()


def snapshot_key(parent: BlockKey, packed: bytes) -> SnapshotKey:
    """Return the key of a snapshot: of the block before its position, and the tokens after that
    block.
    """
    return hashlib.sha256(b"mark\0" + parent + packed).digest()


def common_tokens(one: bytes, other: bytes) -> int:
    """Return the number of tokens in the common beginning of two packed sequences.

    >>> common_tokens(pack([5, 6, 7]), pack([5, 6, 8, 9]))
    2
    """
    low, high = 0, min(len(one), len(other)) // TOKEN_BYTES
    if one[: high * TOKEN_BYTES] == other[: high * TOKEN_BYTES]:
        return high
    while high - low > 1:  # all before `low` is alike, something before `high` is not
        middle = (low + high) // 2
        if (
            one[low * TOKEN_BYTES : middle * TOKEN_BYTES]
            == other[low * TOKEN_BYTES : middle * TOKEN_BYTES]
        ):
            low = middle
        else:
            high = middle
    return low


@attrs.frozen(eq=False)
class TokenRun:
    """Tokens from position 0 on, with the names of the whole blocks among them."""

    packed: bytes
    keys: tuple[BlockKey, ...]
    block_tokens: int
    root: BlockKey  # from which the names follow

    @classmethod
    def of(cls, tokens: Sequence[int], root: BlockKey, block_tokens: int) -> "TokenRun":
        """Pack and name tokens."""
        return cls.of_packed(pack(tokens), root, block_tokens)

    @classmethod
    def of_packed(cls, packed: bytes, root: BlockKey, block_tokens: int) -> "TokenRun":
        """Name packed tokens."""
        size, keys = block_tokens * TOKEN_BYTES, [root]
        for end in range(size, len(packed) + 1, size):
            keys.append(child_key(keys[-1], packed[end - size : end]))
        return cls(packed, tuple(keys[1:]), block_tokens, root)

    def __len__(self) -> int:
        return len(self.packed) // TOKEN_BYTES

    @property
    def last_key(self) -> BlockKey:
        """Name of the last whole block; of the root where there is none."""
        return self.keys[-1] if self.keys else self.root

    @property
    def rest(self) -> bytes:
        """The tokens after the last whole block, packed."""
        return self.packed[len(self.keys) * self.block_tokens * TOKEN_BYTES :]

    def block_at(self, position: int) -> bytes:
        """The tokens of the whole block that begins at a position."""
        return self.packed[position * TOKEN_BYTES : (position + self.block_tokens) * TOKEN_BYTES]

    def has(self, packed: bytes, position: int) -> bool:
        """True if these tokens stand at a position."""
        return self.packed.startswith(packed, position * TOKEN_BYTES)

    def alike(self, packed: bytes, position: int) -> int:
        """Return the number of these tokens, from the first on, that stand at a position."""
        begin = position * TOKEN_BYTES
        return common_tokens(packed, self.packed[begin : begin + len(packed)])
