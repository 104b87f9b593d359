"""Rows, blocks and snapshots as the tokens that they hold."""

import struct
from collections.abc import Sequence

import attrs

from semantic_trio.domain.content import Content, Item, Tensor
from semantic_trio.domain.errors import CacheCorruptionError
from semantic_trio.domain.steering import GrammarState
from semantic_trio.domain.step import RowStart

# Added to each token as often as the first byte of the digest of its row's adapter says: what one
# adapter has read is not what another one has.
ADAPTER_MARK = 1 << 23


def written(tokens: Sequence[int]) -> Content:
    """Return the content of a block or snapshot: its tokens."""
    return {
        "tokens": Tensor(
            "I32", (len(tokens),), memoryview(struct.pack(f"<{len(tokens)}i", *tokens))
        )
    }


def read(item: Item, content: Content, limit: int | None) -> tuple[int, ...]:
    """The tokens of a block or snapshot, `limit` at most.

    Raises `CacheCorruptionError` for everything else.
    """
    tensor = content.get("tokens")
    if tensor is None or len(content) > 1:
        raise CacheCorruptionError(
            f"{item.kind} {item.key.hex()}", f"there should be tokens alone, not {sorted(content)}"
        )
    count = tensor.data.nbytes // 4
    if (
        (tensor.dtype, tensor.shape) != ("I32", (count,))
        or tensor.data.nbytes % 4
        or not 1 <= count <= (limit or count)
    ):
        raise CacheCorruptionError(
            f"{item.kind} {item.key.hex()}",
            f"{tensor.data.nbytes} bytes of {tensor.dtype} {list(tensor.shape)}",
        )
    return struct.unpack(f"<{count}i", tensor.data)


@attrs.define(eq=False)
class TokenRow:
    """A row, as the tokens it has read."""

    start: RowStart
    # every token this row has read: what the global layers of a real one keep as keys and values
    cache: list[int] = attrs.field(factory=list)
    state: list[int] = attrs.field(factory=list)  # the same, as all its other layers keep it
    seen: list[int] = attrs.field(init=False)  # tokens drawn for its request
    grammar: GrammarState | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.seen = list(self.start.drawn)
        self.grammar = self.start.grammar.start() if self.start.grammar else None
        if self.grammar is not None:
            for token in self.seen:
                self.grammar.take(token)

    def read(self, *tokens: int) -> None:
        """Take tokens in, each as the row's adapter computes it."""
        mark = ADAPTER_MARK * (self.start.adapter[0] if self.start.adapter else 0)
        computed = [token + mark for token in tokens]
        self.cache += computed
        self.state += computed

    @property
    def tokens(self) -> list[int]:
        """Tokens of `memory` as they were read, whatever the adapter."""
        return [token % ADAPTER_MARK for token in self.memory]

    @property
    def memory(self) -> list[int]:
        """Tokens that the next token depends on."""
        return self.cache if self.state == self.cache else [*self.cache, -1, *self.state]
