"""The text of a conversation, with the place of everything that is said in it.

A template is shown placeholders and what is said is put in afterwards. So it can neither trim nor
drop nor split it, takes the same time however long it is, and the place of each message is known.
"""

import bisect
import enum
import re
import secrets
from collections.abc import Iterable

import attrs

from semantic_trio.adapters.text.guard import Segment

# Letters and digits, so that no template changes them; drawn at the start, so that nobody can say
# one.
NONCE = secrets.token_hex(8)
PLACEHOLDER = re.compile(f"Q{NONCE}x([0-9]+)Q")
NOBODY = -1  # owner of what is no message


class SlotKind(enum.Enum):
    """Kind of a slot's text."""

    WORDS = enum.auto()  # all that a turn says; nothing of it may be lost
    NAME = enum.auto()  # of a called tool
    ARGUMENTS = enum.auto()  # of a call
    FRAME = enum.auto()  # no content: delimiters that are kept from the template
    SPLIT = enum.auto()  # nothing: a place at which no token may go on


@attrs.frozen
class Slot:
    """Text of one place."""

    text: str
    owner: int  # the message's number
    kind: SlotKind


@attrs.frozen
class SlotSpan:
    """A slot, and where its text is."""

    slot: Slot
    start: int
    end: int


@attrs.define
class Slots:
    """Texts that a template is not shown."""

    _slots: list[Slot] = attrs.field(factory=list)

    def hold(self, text: str, owner: int = NOBODY, kind: SlotKind = SlotKind.WORDS) -> str:
        """Return the placeholder that the template is shown instead of a text."""
        self._slots.append(Slot(encodable(text), owner, kind))
        return f"Q{NONCE}x{len(self._slots) - 1}Q"

    def fill(self, skeleton: str) -> tuple[str, list[SlotSpan]]:
        """The text of what a template has written, and where in it everything is."""
        pieces = PLACEHOLDER.split(skeleton)
        texts, spans, at = [pieces[0]], [], len(pieces[0])
        for number, frame in zip(pieces[1::2], pieces[2::2], strict=True):
            slot = self._slots[int(number)]
            spans.append(SlotSpan(slot, at, at + len(slot.text)))
            texts += (slot.text, frame)
            at += len(slot.text) + len(frame)
        return "".join(texts), spans

    def lost(self, skeleton: str) -> list[tuple[str, Slot]]:
        """Words that a template has not written, by their placeholders."""
        found = {int(number) for number in PLACEHOLDER.findall(skeleton)}
        words = (
            (number, slot)
            for number, slot in enumerate(self._slots)
            if slot.kind in {SlotKind.WORDS, SlotKind.FRAME} and slot.text
        )
        return [(f"Q{NONCE}x{number}Q", slot) for number, slot in words if number not in found]

    def first_name(self, owner: int, skeleton: str) -> int:
        """Return the place of the first tool name in a message's calls; -1 where there is none."""
        for match in PLACEHOLDER.finditer(skeleton):
            slot = self._slots[int(match[1])]
            if slot.owner == owner and slot.kind is SlotKind.NAME:
                return match.start()
        return -1


@attrs.frozen
class PromptLayout:
    """A prompt's text and its parts."""

    text: str
    starts: tuple[int, ...]  # where each message's words begin
    ends: tuple[int, ...]  # and where they end
    certain: frozenset[int]  # messages whose end is exactly where they end in the model's own words
    # Of tools that are told in front of all messages: where they end; 0 where only the template
    # knows; None without.
    tools_end: int | None
    opening: str  # the end of the text, as far as the answer has begun
    # where in the text something is said; all else is frame
    contents: tuple[tuple[int, int], ...] = ()
    splits: tuple[int, ...] = ()  # places at which no token may go on

    @property
    def answer(self) -> int:
        """Place at which the answer begins."""
        return len(self.text) - len(self.opening)

    def segment(self, start: int, end: int) -> Segment:
        """A part of the text, with the contents in it."""
        first = bisect.bisect_right(self.contents, start, key=lambda place: place[1])
        last = bisect.bisect_left(self.contents, end, key=lambda place: place[0])
        contents = tuple(
            (max(one, start) - start, min(other, end) - start)
            for one, other in self.contents[first:last]
        )
        return Segment(
            self.text[start:end],
            contents,
            tuple(split - start for split in self.splits if start < split < end),
        )

    def is_content(self, start: int, end: int) -> bool:
        """True if something of a place is said, and no frame."""
        return bool(self.segment(start, end).contents)


def contents_of(spans: Iterable[SlotSpan]) -> tuple[tuple[int, int], ...]:
    """The places of what is said."""
    return tuple(
        (span.start, span.end)
        for span in spans
        if span.slot.kind not in {SlotKind.FRAME, SlotKind.SPLIT} and span.start < span.end
    )


def splits_of(spans: Iterable[SlotSpan]) -> tuple[int, ...]:
    """The places at which no token may go on."""
    return tuple(span.start for span in spans if span.slot.kind is SlotKind.SPLIT)


def encodable(text: str) -> str:
    """The text with halves of surrogate pairs replaced: JSON may carry them, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
