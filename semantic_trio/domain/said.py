"""Said is said: which tokens a conversation was read and said in, found again however the client tells it back.

Knows conversations by a chain of digests, one for each message with all before it, that overlooks what clients rewrite. In front of each stands the
salt: conversations of different salts are never taken for each other. Knows nothing of agents or caches. What it keeps costs four bytes a token,
which the turns of a conversation share; the conversation that was used least recently goes first.
"""

import collections
import hashlib
import json
import math
from collections.abc import Callable, Iterable

import attrs

from semantic_trio.domain.chain import TOKEN_BYTES, pack, unpack
from semantic_trio.domain.content import SaidEnd, SaidLine
from semantic_trio.domain.conversation import NOTHING_KNOWN, Conversation, Known, Message, Role, ToolCall
from semantic_trio.domain.salt import NO_SALT, Salt

Digest = bytes  # a salt, and the hash of a conversation

HASH_BYTES = 32

# About 16 million tokens: the conversations of weeks.
BUDGET_BYTES = 64 << 20
# What a line of conversation takes beside its tokens, what more to know whose it is, and what each end of it takes: measured with tracemalloc,
# tables that have just grown included.
LINE_BYTES, OWNER_BYTES, END_BYTES = 320, 330, 215
# Lines of one agent that outlive the process: what it said before it was edited, or went back, is found again too.
MOST_LINES = 4


def chain(conversation: Conversation, salt: Salt = NO_SALT) -> tuple[Digest, ...]:
    """A name for each beginning of a canonical conversation that ends with a message: equal where clients of one salt mean the same."""
    digests, last = [], salt + _hash(b"", [[tool.name, tool.description, tool.parameters] for tool in conversation.tools])
    for message in conversation.messages:
        last = link(last, message)
        digests.append(last)
    return tuple(digests)


def link(before: Digest, message: Message) -> Digest:
    """The name of what was said before with one message more."""
    return _salt_of(before) + _hash(before[-HASH_BYTES:], _meaning(message))


def _salt_of(digest: Digest) -> Salt:
    return digest[:-HASH_BYTES]


def _hash(before: bytes, what: object) -> bytes:
    return hashlib.sha256(before + json.dumps(what).encode()).digest()


def _meaning(message: Message) -> list[object]:
    """What is left of a message when all is taken away that clients change: thoughts (many send none back) and blanks around an answer."""
    text = message.text.strip() if message.role is Role.ASSISTANT else message.text
    calls = [[call.id, call.name, _arguments(call)] for call in message.calls]
    results = [[result.call_id, result.text, result.is_error] for result in message.results]
    return [message.role.value, text, calls, results, *(["late"] if message.is_late else [])]


def _arguments(call: ToolCall) -> object:
    """Arguments without the blanks at the ends of lines, which editing tools strip, and in numbers as clients know them that have but one kind."""
    try:
        return _stripped(json.loads(call.arguments, parse_float=_number))
    except (ValueError, RecursionError):
        return call.arguments


def _number(written: str) -> float | str:
    """The number as a client with one kind of number knows it; as it is written where no float holds it."""
    value = float(written)
    if not math.isfinite(value):
        return written
    return int(value) if value.is_integer() else value


def _stripped(value: object) -> object:
    if isinstance(value, str):
        return "\n".join(line.rstrip() for line in value.rstrip().split("\n"))
    if isinstance(value, dict):
        return {key: _stripped(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    return value


@attrs.define(eq=False, weakref_slot=False)
class _Strip:
    """The tokens of one line of conversation, and the conversations that end in it."""

    packed: bytes
    owner: str = ""  # the agent whose turn used it last; empty where that is gone
    ends: dict[Digest, "_End"] = attrs.field(factory=dict)

    @property
    def salt(self) -> Salt:
        return next(map(_salt_of, self.ends), NO_SALT)

    @property
    def size(self) -> int:
        return len(self.packed) + LINE_BYTES + OWNER_BYTES * bool(self.owner) + (END_BYTES + len(self.salt)) * len(self.ends)


@attrs.frozen(weakref_slot=False)
class _End:
    """How far a beginning of the conversation reaches."""

    strip: _Strip
    stop: int  # bytes of the strip
    is_answer: bool  # it ends with what the assistant said; else with an answer nobody has told back yet


@attrs.define(eq=False)
class Said:
    """What was read and said, by the conversation it was said in. `held_bytes` is what it takes in memory, overheads included."""

    budget_bytes: int = BUDGET_BYTES
    told: Callable[[str], None] = lambda owner: None  # an agent has said something
    held_bytes: int = attrs.field(init=False, default=0)
    _ends: dict[Digest, _End] = attrs.field(init=False, factory=dict)
    _strips: collections.OrderedDict[_Strip, None] = attrs.field(init=False, factory=collections.OrderedDict)  # least recently used first
    _owned: dict[str, dict[_Strip, None]] = attrs.field(init=False, factory=dict)  # strips by their owner, least recently used first

    def __len__(self) -> int:
        return len(self._strips)

    def known(self, digests: tuple[Digest, ...]) -> Known:
        """What is known of the beginning of a conversation. Its last message is never looked at: that is what is new."""
        draft: _End | None = None
        for at in range(len(digests) - 2, -1, -1):
            end = self._ends.get(digests[at])
            if end is not None and end.is_answer:
                self._touch(end.strip)
                return Known(at + 1, _tokens(end.strip, 0, end.stop), _beyond(draft, end))
            draft = draft or end
        return NOTHING_KNOWN if draft is None else Known(draft=_tokens(draft.strip, 0, draft.stop))

    def remember(self, digests: tuple[Digest, ...], prompt: tuple[int, ...], answer: tuple[int, ...], told: Digest | None, owner: str = "") -> None:
        """A conversation was read and answered, by the agent `owner` where one is known.

        `told` names it with the answer added; None where that was broken off, or not told as it was drawn.
        """
        packed = pack((*prompt, *answer))
        strip = self._strip_for(digests, packed)
        self._give(strip, owner)
        self._put(digests[-1], _End(strip, len(packed), is_answer=False))
        if told is not None:
            self._put(told, _End(strip, len(packed), is_answer=True))
        self._keep_to_budget()
        self.told(owner)

    def lines(self, owner: str, salt: Salt = NO_SALT) -> tuple[SaidLine, ...]:
        """What an agent has read and said under a salt, the lines used last."""
        strips = [strip for strip in self._owned.get(owner, ()) if strip.salt == salt][-MOST_LINES:]
        return tuple(SaidLine(strip.packed, tuple(_line_end(digest, end) for digest, end in strip.ends.items())) for strip in strips)

    def adopt(self, owner: str, lines: Iterable[SaidLine], salt: Salt = NO_SALT) -> None:
        """Remember what an agent has said in an earlier process, under a salt."""
        for line in lines:
            strip = self._add(line.packed)
            self._give(strip, owner)
            for end in line.ends:
                self._put(salt + end.digest, _End(strip, end.stop * TOKEN_BYTES, end.is_answer))
        self._keep_to_budget()

    def forget(self, owner: str) -> None:
        """Remove all that an agent has said."""
        for strip in list(self._owned.get(owner, ())):
            self._remove(strip)

    def disown(self, owner: str) -> None:
        """Remove every trace of the id of an agent that is gone. What it has said is found by the conversation, as before."""
        for strip in list(self._owned.get(owner, ())):
            self._give(strip, "")

    def _keep_to_budget(self) -> None:
        while self.held_bytes > self.budget_bytes and len(self._strips) > 1:
            self._remove(next(iter(self._strips)))

    def _strip_for(self, digests: tuple[Digest, ...], packed: bytes) -> _Strip:
        """The strip these tokens go on; a new one where they leave it."""
        last = next((self._ends[digest] for digest in reversed(digests) if digest in self._ends), None)
        if last is not None and packed.startswith(last.strip.packed):
            self.held_bytes += len(packed) - len(last.strip.packed)
            last.strip.packed = packed
            self._touch(last.strip)
            return last.strip
        return self._add(packed)

    def _add(self, packed: bytes) -> _Strip:
        strip = _Strip(packed)
        self._strips[strip] = None
        self.held_bytes += strip.size
        return strip

    def _give(self, strip: _Strip, owner: str) -> None:
        """Make an agent the owner of a strip; an empty owner is none."""
        self._take_from_owner(strip)
        strip.owner = owner
        if owner:
            self._owned.setdefault(owner, {})[strip] = None
            self.held_bytes += OWNER_BYTES

    def _take_from_owner(self, strip: _Strip) -> None:
        if strip.owner:
            del self._owned[strip.owner][strip]
            if not self._owned[strip.owner]:
                del self._owned[strip.owner]
            strip.owner = ""
            self.held_bytes -= OWNER_BYTES

    def _touch(self, strip: _Strip) -> None:
        """Make a strip the last one to have been used."""
        self._strips.move_to_end(strip)
        self._give(strip, strip.owner)

    def _put(self, digest: Digest, end: _End) -> None:
        before = self._ends.get(digest)
        self._ends[digest] = end.strip.ends[digest] = end
        self.held_bytes += END_BYTES + len(_salt_of(digest))
        if before is not None:
            self._end_moved(digest, before.strip, end.strip)

    def _end_moved(self, digest: Digest, before: _Strip, after: _Strip) -> None:
        """A conversation ends in another strip than before; the one before is removed where no conversation ends in it any more."""
        self.held_bytes -= END_BYTES + len(_salt_of(digest))
        if before is not after:
            del before.ends[digest]
            if not before.ends:
                self._remove(before)

    def _remove(self, strip: _Strip) -> None:
        del self._strips[strip]
        self._take_from_owner(strip)
        for digest in strip.ends:
            del self._ends[digest]
        self.held_bytes -= strip.size


def _line_end(digest: Digest, end: _End) -> SaidEnd:
    return SaidEnd(digest[-HASH_BYTES:], end.stop // TOKEN_BYTES, end.is_answer)


def _beyond(draft: _End | None, end: _End) -> tuple[int, ...]:
    """What a draft has after an end, where it goes on from there."""
    if draft is None or draft.stop <= end.stop or not draft.strip.packed.startswith(end.strip.packed[: end.stop]):
        return ()
    return _tokens(draft.strip, end.stop, draft.stop)


def _tokens(strip: _Strip, start: int, stop: int) -> tuple[int, ...]:
    return unpack(strip.packed[start:stop])
