"""Token histories: the exact tokens in which a conversation was read and generated, found again
however the client sends it back.

Knows conversations by their digests. Knows nothing of agents or caches. What it keeps costs four
bytes a token, which the turns of a conversation share; the conversation that was used least
recently goes first.
"""

import collections
from collections.abc import Iterable

import attrs

from semantic_trio.domain.chain import TOKEN_BYTES, pack, unpack
from semantic_trio.domain.content import HistoryEnd, TokenHistory
from semantic_trio.domain.conversation_digests import (
    HASH_BYTES,
    Digest,
    salt_of_digest,
)
from semantic_trio.domain.prompt import NOTHING_KNOWN, Known
from semantic_trio.domain.salt import NO_SALT, Salt

# About 16 million tokens: the conversations of weeks.
BUDGET_BYTES = 64 << 20
# Bytes of a history beside its tokens, of its entry with its owner, and of each end in it: measured
# with tracemalloc, tables that have just grown included.
HISTORY_BYTES, OWNER_BYTES, END_BYTES = 320, 330, 215
# Histories of one agent that outlive the process: those from before a conversation was edited, or
# went back, are found again too.
MOST_HISTORIES = 4


@attrs.define(eq=False, weakref_slot=False)
class _History:
    """The tokens of one history, and the conversations that end in it."""

    packed: bytes
    owner: str = ""  # id of the agent whose turn used it last; empty if that agent is gone
    ends: dict[Digest, "_End"] = attrs.field(factory=dict)

    @property
    def salt(self) -> Salt:
        return next(map(salt_of_digest, self.ends), NO_SALT)

    @property
    def size(self) -> int:
        return (
            len(self.packed)
            + HISTORY_BYTES
            + OWNER_BYTES * bool(self.owner)
            + (END_BYTES + len(self.salt)) * len(self.ends)
        )


@attrs.frozen(weakref_slot=False)
class _End:
    """End of a beginning of a conversation in its history."""

    history: _History
    stop: int  # bytes of the history
    # the beginning ends with an answer; else before one that no client has sent back
    is_answer: bool


@attrs.define(eq=False)
class TokenHistories:
    """Token histories by the digests of their conversations.

    `held_bytes` is what they take in memory, overheads included.
    """

    budget_bytes: int = BUDGET_BYTES
    held_bytes: int = attrs.field(init=False, default=0)
    _ends: dict[Digest, _End] = attrs.field(init=False, factory=dict)
    # least recently used first
    _histories: collections.OrderedDict[_History, None] = attrs.field(
        init=False, factory=collections.OrderedDict
    )
    # histories by their owner, least recently used first
    _owned: dict[str, dict[_History, None]] = attrs.field(init=False, factory=dict)

    def __len__(self) -> int:
        return len(self._histories)

    def known(self, digests: tuple[Digest, ...]) -> Known:
        """Return the tokens known of the beginning of a conversation.

        The last message counts as new and is not looked up.
        """
        draft: _End | None = None
        for at in range(len(digests) - 2, -1, -1):
            end = self._ends.get(digests[at])
            if end is not None and end.is_answer:
                self._touch(end.history)
                return Known(at + 1, _tokens(end.history, 0, end.stop), _beyond(draft, end))
            draft = draft or end
        return (
            NOTHING_KNOWN if draft is None else Known(draft=_tokens(draft.history, 0, draft.stop))
        )

    def remember(
        self,
        digests: tuple[Digest, ...],
        prompt: tuple[int, ...],
        answer: tuple[int, ...],
        answered: Digest | None,
        owner: str = "",
    ) -> None:
        """Keep the tokens of a conversation and its answer, as those of the agent `owner` if it has
        one.

        `answered`: digest of the conversation with the answer added; None if the answer was cut
        short, or not sent as it was sampled.
        """
        packed = pack((*prompt, *answer))
        history = self._history_for(digests, packed)
        self._give(history, owner)
        self._put(digests[-1], _End(history, len(packed), is_answer=False))
        if answered is not None:
            self._put(answered, _End(history, len(packed), is_answer=True))
        self._keep_to_budget()

    def of_agent(self, owner: str, salt: Salt = NO_SALT) -> tuple[TokenHistory, ...]:
        """Return the token histories of an agent under a salt: the `MOST_HISTORIES` used last."""
        histories = [history for history in self._owned.get(owner, ()) if history.salt == salt][
            -MOST_HISTORIES:
        ]
        return tuple(
            TokenHistory(
                history.packed,
                tuple(_history_end(digest, end) for digest, end in history.ends.items()),
            )
            for history in histories
        )

    def adopt(self, owner: str, histories: Iterable[TokenHistory], salt: Salt = NO_SALT) -> None:
        """Take in token histories of an agent from an earlier process, under a salt."""
        for adopted in histories:
            history = self._add(adopted.packed)
            self._give(history, owner)
            for end in adopted.ends:
                self._put(salt + end.digest, _End(history, end.stop * TOKEN_BYTES, end.is_answer))
        self._keep_to_budget()

    def remove(self, owner: str) -> None:
        """Remove all token histories of an agent."""
        for history in list(self._owned.get(owner, ())):
            self._remove(history)

    def disown(self, owner: str) -> None:
        """Remove the id of an agent that is gone.

        Its token histories stay, and are found by conversation.
        """
        for history in list(self._owned.get(owner, ())):
            self._give(history, "")

    def _keep_to_budget(self) -> None:
        while self.held_bytes > self.budget_bytes and len(self._histories) > 1:
            self._remove(next(iter(self._histories)))

    def _history_for(self, digests: tuple[Digest, ...], packed: bytes) -> _History:
        """Return the history that these tokens continue; a new one if they differ from it."""
        last = next(
            (self._ends[digest] for digest in reversed(digests) if digest in self._ends), None
        )
        if last is not None and packed.startswith(last.history.packed):
            self.held_bytes += len(packed) - len(last.history.packed)
            last.history.packed = packed
            self._touch(last.history)
            return last.history
        return self._add(packed)

    def _add(self, packed: bytes) -> _History:
        history = _History(packed)
        self._histories[history] = None
        self.held_bytes += history.size
        return history

    def _give(self, history: _History, owner: str) -> None:
        """Make an agent the owner of a history; an empty id means no owner."""
        self._take_from_owner(history)
        history.owner = owner
        if owner:
            self._owned.setdefault(owner, {})[history] = None
            self.held_bytes += OWNER_BYTES

    def _take_from_owner(self, history: _History) -> None:
        if history.owner:
            del self._owned[history.owner][history]
            if not self._owned[history.owner]:
                del self._owned[history.owner]
            history.owner = ""
            self.held_bytes -= OWNER_BYTES

    def _touch(self, history: _History) -> None:
        """Make a history the most recently used one."""
        self._histories.move_to_end(history)
        self._give(history, history.owner)

    def _put(self, digest: Digest, end: _End) -> None:
        before = self._ends.get(digest)
        self._ends[digest] = end.history.ends[digest] = end
        self.held_bytes += END_BYTES + len(salt_of_digest(digest))
        if before is not None:
            self._end_moved(digest, before.history, end.history)

    def _end_moved(self, digest: Digest, before: _History, after: _History) -> None:
        """Move the end of a conversation to another history; the one before is removed if no
        conversation ends in it any more.
        """
        self.held_bytes -= END_BYTES + len(salt_of_digest(digest))
        if before is not after:
            del before.ends[digest]
            if not before.ends:
                self._remove(before)

    def _remove(self, history: _History) -> None:
        del self._histories[history]
        self._take_from_owner(history)
        for digest in history.ends:
            del self._ends[digest]
        self.held_bytes -= history.size


def _history_end(digest: Digest, end: _End) -> HistoryEnd:
    return HistoryEnd(digest[-HASH_BYTES:], end.stop // TOKEN_BYTES, end.is_answer)


def _beyond(draft: _End | None, end: _End) -> tuple[int, ...]:
    """Return the tokens of a draft after an end; none if the draft does not continue from there."""
    if (
        draft is None
        or draft.stop <= end.stop
        or not draft.history.packed.startswith(end.history.packed[: end.stop])
    ):
        return ()
    return _tokens(draft.history, end.stop, draft.stop)


def _tokens(history: _History, start: int, stop: int) -> tuple[int, ...]:
    return unpack(history.packed[start:stop])
