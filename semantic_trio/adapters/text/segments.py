"""A prompt's text cut into segments that are tokenised by themselves: one for each message, so that
its tokens never depend on what follows.

Knows where special tokens end, for there a cut changes nothing. Knows nothing of templates.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import chain, islice

import attrs
from tokenizers import Tokenizer

from semantic_trio.adapters.text.guard import Guard, Segment
from semantic_trio.adapters.text.layout import PromptLayout
from semantic_trio.domain.conversation import Conversation, Role

# Segments as long as this come again: heads of agents, files that were read.
CACHED_CHARACTERS = 2_000
# Characters of all that are kept: some 25 MB with their tokens.
MOST_CACHED_CHARACTERS = 2_000_000

Key = tuple[bool, Segment]  # whether it begins a text, and the segment


@attrs.define(eq=False)
class SegmentEncoder:
    """A tokenizer that is given segments."""

    _tokenizer: Tokenizer
    guard: Guard
    # a special token: what comes after it is not tokenised as the beginning of a text
    _anchor: str = attrs.field(init=False)
    is_seamless: bool = attrs.field(init=False)  # a text may be cut anywhere and means the same
    _special: re.Pattern[str] = attrs.field(init=False)
    _cache: OrderedDict[Key, tuple[int, ...]] = attrs.field(init=False, factory=OrderedDict)
    _cached_characters: int = attrs.field(init=False, default=0)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        specials = [
            token
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if token.special and token.content
        ]
        specials.sort(key=lambda token: -len(token.content))
        # Some take the blanks after them for their own.
        self._special = re.compile(
            "|".join(re.escape(token.content) + r"\s*" * token.rstrip for token in specials)
            or "(?!)"
        )
        self._anchor = next(
            (token.content for token in reversed(specials) if not (token.lstrip or token.rstrip)),
            "",
        )
        self.is_seamless = all(
            self._is_whole(one, other)
            for one, other in (("one", "two"), ("one", " two"), ("one\n", "two"))
        )

    def encode(self, segments: Sequence[Segment], *, begins: bool) -> list[tuple[int, ...]]:
        """The tokens of segments, one after the other; `begins`: the first one begins the text.

        Releases the interpreter's lock.

        Delimiters that contents spell are no delimiters in the tokens.
        """
        keys = [(begins and at == 0, segment) for at, segment in enumerate(segments)]
        known = self._recalled(keys)
        new = self._encoded(
            {key: key[1].pieces(()) for key in dict.fromkeys(keys) if key not in known}
        )
        forged = [
            key
            for key, tokens in new.items()
            if key[1].contents and self.guard.is_forged(key[1], tokens)
        ]
        new |= self._encoded({key: key[1].pieces(self.guard.cuts(key[1])) for key in forged})
        # A tokenizer may find delimiters that a text does not spell, where it changes letters
        # before it looks for them.
        hidden = [key for key in forged if self.guard.is_forged(key[1], new[key])]
        new |= self._encoded(
            {
                key: key[1].pieces(at for start, end in key[1].contents for at in range(start, end))
                for key in hidden
            }
        )
        self._remember(new)
        return [known[key] if key in known else new[key] for key in keys]

    def _encoded(self, pieces: Mapping[Key, Sequence[str]]) -> dict[Key, tuple[int, ...]]:
        """The tokens of texts in pieces, each piece tokenised by itself."""
        firsts = [
            (key[0] and at == 0, piece)
            for key, cut in pieces.items()
            for at, piece in enumerate(cut)
        ]
        # A batch, also of one: for a single `encode` the library holds the interpreter's lock all
        # the time, 35 ms for 100 KB.
        texts = [piece if is_first else self._anchor + piece for is_first, piece in firsts]
        encodings = (
            self._tokenizer.encode_batch_fast(texts, add_special_tokens=False) if texts else []
        )
        skipped = bool(self._anchor)
        tokens = (
            found.ids[0 if is_first else skipped :]
            for (is_first, _), found in zip(firsts, encodings, strict=True)
        )
        return {
            key: tuple(chain.from_iterable(islice(tokens, len(cut)))) for key, cut in pieces.items()
        }

    def borders(self, layout: PromptLayout, conversation: Conversation, opening: str) -> "Borders":
        """Return the places to cut a prompt at: after each message, and where an answer begins and
        has been opened.

        They are the same whatever comes later.
        """
        text, next_starts = layout.text, (*layout.starts[1:], layout.answer)
        after = tuple(
            self._after(text, end, start)
            for end, start in zip(layout.ends, next_starts, strict=False)
        )
        head = self._head(layout, conversation.leading, after)
        cuts = {cut for cut in (head, *after) if cut is not None}
        if self.is_seamless:
            said = zip(layout.starts, conversation.messages, strict=True)
            begun = [
                *(start for start, message in said if message.role is Role.ASSISTANT),
                layout.answer,
            ]
            cuts |= {*begun, *(at + len(opening) for at in begun if text.startswith(opening, at))}
        return Borders(tuple(sorted(cuts - {0, len(text)})), after, head)

    def can_go_on(self, layout: PromptLayout, message: int) -> bool:
        """True if a prompt can go on from a message that stands in other tokens: its end is
        certain, and a text can be cut there.
        """
        return message in layout.certain and (
            self.is_seamless or self._special.match(layout.text, layout.ends[message]) is not None
        )

    def _head(self, layout: PromptLayout, leading: int, after: Sequence[int | None]) -> int | None:
        """Return the end of the tools and of so many leading system messages."""
        if not leading and layout.tools_end is None:
            return None
        stop = layout.starts[leading] if leading < len(after) else layout.answer
        base = (
            after[leading - 1]
            if leading
            else self._after(layout.text, layout.tools_end, stop)
            if layout.tools_end
            else None
        )
        if leading == len(after) or layout.tools_end != 0:
            return base
        # Where a template tells tools, only it knows: they end where the turn does they stand in,
        # with what ends the first speaker's turn too.
        ender = self._special.search(layout.text, layout.ends[leading])
        at = layout.text.rfind(ender[0], base or 0, stop) if ender else -1
        return base if ender is None or at < 0 else at + len(ender[0])

    def _after(self, text: str, end: int, next_start: int) -> int | None:
        """The first place after a message where the text can be cut."""
        special = self._special.search(text, end, max(end, next_start))
        if special is not None:
            return special.end()
        return end if self.is_seamless else None

    def _is_whole(self, one: str, other: str) -> bool:
        first, second = self.encode([Segment(one), Segment(other)], begins=True)
        return bool(
            self._tokenizer.decode([*first, *second], skip_special_tokens=False) == one + other
        )

    def _recalled(self, keys: Sequence[Key]) -> dict[Key, tuple[int, ...]]:
        with self._lock:
            found = {key: self._cache[key] for key in keys if key in self._cache}
            for key in found:
                self._cache.move_to_end(key)
        return found

    def _remember(self, new: dict[Key, tuple[int, ...]]) -> None:
        with self._lock:
            for key in (
                key
                for key in new
                if len(key[1].text) >= CACHED_CHARACTERS and key not in self._cache
            ):
                self._cache[key] = new[key]
                self._cached_characters += len(key[1].text)
            while self._cached_characters > MOST_CACHED_CHARACTERS:
                self._cached_characters -= len(self._cache.popitem(last=False)[0][1].text)


@attrs.frozen
class Borders:
    """Places in a prompt's text."""

    cuts: tuple[int, ...]  # where segments end, in order
    # where each message's segment ends; None where the text cannot be cut behind it
    after: tuple[int | None, ...]
    head: int | None  # where tools and leading system messages end
