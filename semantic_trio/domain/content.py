"""Blocks, snapshots and agents outside the process: names and bytes.

Knows shapes and kinds of numbers. Knows nothing of files or devices.
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple

import attrs

from semantic_trio.domain.conversation import NOTHING_SAID, Conversation
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.step import BlockKey, SnapshotKey


class Kind(enum.StrEnum):
    """The kind of a cache entry."""

    BLOCK = "block"
    SNAPSHOT = "mark"  # as it is called on disk and in archives


class ImportTrust(enum.StrEnum):
    """The agents that use the blocks of an imported archive."""

    AGENT = "agent"  # the imported one and its forks
    SHARED = "shared"  # all, as any other block


class Item(NamedTuple):
    """A block or a snapshot by its key."""

    kind: Kind
    key: bytes


@attrs.frozen(eq=False)
class Tensor:
    """Numbers as bytes, row by row, little-endian."""

    dtype: str  # as safetensors calls it: F32, F16, BF16, U32, I32, U8 ...
    shape: tuple[int, ...]
    data: memoryview  # contiguous, of single bytes


Content = Mapping[str, Tensor]

# The axis on which a block's tensors have its tokens is the last but one, or the only one.
TOKENS_AXIS = -2
# Name of the tensor with the position of a snapshot, for snapshots that store it.
POSITION = "position"


def tokens_in(content: Content) -> set[int]:
    """Return the numbers of tokens that the tensors of a block have: one number, unless the block
    is damaged.
    """
    return {tensor.shape[TOKENS_AXIS:][0] for tensor in content.values() if tensor.shape}


def positions_in(content: Content) -> set[int]:
    """Return the position that a snapshot has stored, if any."""
    return (
        {int.from_bytes(content[POSITION].data, "little", signed=True)}
        if POSITION in content
        else set()
    )


@attrs.frozen
class HistoryEnd:
    """The position in a token history at which one beginning of a conversation ends."""

    digest: bytes
    stop: int  # tokens
    is_answer: bool


@attrs.frozen
class TokenHistory:
    """The exact tokens in which a conversation was read and generated, packed, and the beginnings
    of it that can be found again.
    """

    packed: bytes
    ends: tuple[HistoryEnd, ...]


@attrs.frozen(kw_only=True)
class AgentRecord:
    """All that is known of an agent but the content of its blocks and snapshots, whose names follow
    from its history.
    """

    id: str
    is_named: bool
    is_kept: bool
    is_pinned: bool
    parent: str | None
    turns: int
    used: int  # grows with every record of a directory: the order of use, whatever clocks say
    history: bytes  # packed tokens
    prompt_tokens: int
    # of the tokenizer and chat template that history and token histories were read with; empty:
    # unknown
    text_fingerprint: str = ""
    # of the names of its blocks and snapshots, and of the conversations in its token histories
    salt: Salt = NO_SALT
    # key of the last whole block of the history, for the tokens to be checked against; of the root
    # where there is none
    chain: bytes
    snapshots: tuple[tuple[int, SnapshotKey], ...] = ()  # by position, of those on its way
    # blocks it has read that are not on its way any more: they are deleted with it
    strays: tuple[BlockKey, ...] = ()
    # Ids of the responses of the Responses API that it has read or given: it is deleted with any of
    # them.
    responses: tuple[str, ...] = ()
    conversation: Conversation = NOTHING_SAID
    token_histories: tuple[TokenHistory, ...] = ()
