"""Delimiters that are tokens of their own, and where contents of a prompt spell them.

A tokenizer makes one token of a delimiter wherever it reads one. So what a file says could end a
turn, or call a tool. Where a content spells a delimiter, the text is cut within it, and each piece
is tokenised by itself: the model reads the letters, and no delimiter. Knows texts and a tokenizer's
added tokens. Knows nothing of templates.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import attrs
from tokenizers import AddedToken, Tokenizer, models

OTHER = "\0"
# Characters of a delimiter that are looked for first: few texts have them, and a thousand
# delimiters have few different ones.
HINT = 4


@attrs.frozen
class Segment:
    """A part of a prompt's text."""

    text: str
    contents: tuple[tuple[int, int], ...] = ()  # places of what is said in it; all else is frame
    splits: tuple[int, ...] = ()  # places at which no token may go on

    @property
    def frames(self) -> Iterator[tuple[int, int]]:
        """The places of everything else, in order."""
        at = 0
        for start, end in self.contents:
            yield at, start
            at = end
        yield at, len(self.text)

    def pieces(self, cuts: Iterable[int]) -> list[str]:
        """The text cut at these places and where it has to be."""
        places = sorted({0, len(self.text), *cuts, *self.splits})
        return [self.text[one:other] for one, other in pairwise(places)] or [""]


@attrs.define(eq=False)
class Guard:
    """The delimiters of one model."""

    _ids: frozenset[int]
    # Finds delimiters in texts, faster than Python and without the interpreter's lock; None where
    # there are none.
    _finder: Tokenizer | None
    _numbers: dict[str, int] = attrs.field(factory=dict)
    _hint: re.Pattern[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._hint = re.compile(
            "|".join(sorted({re.escape(content[:HINT]) for content in self._numbers})) or "(?!)"
        )

    @classmethod
    def of(cls, tokenizer: Tokenizer, words: str) -> "Guard":
        """The special tokens of a tokenizer, and of its other added tokens those that stand in
        `words`: its chat template, and delimiters.
        """
        added = tokenizer.get_added_tokens_decoder()
        numbers = {
            token.content: number
            for number, token in added.items()
            if token.content.strip() and (token.special or token.content in words)
        }
        finder = Tokenizer(models.WordLevel({OTHER: 0}, unk_token=OTHER)) if numbers else None
        if finder is not None:
            finder.add_tokens([AddedToken(content, normalized=False) for content in numbers])
        return cls(frozenset(numbers.values()), finder, numbers)

    def is_delimiter(self, token: int) -> bool:
        """True if a token is a delimiter."""
        return token in self._ids

    def is_forged(self, segment: Segment, tokens: Sequence[int]) -> bool:
        """True if among the tokens of a segment there are delimiters that its frame does not
        have.
        """
        found = (
            []
            if self._ids.isdisjoint(tokens)
            else [token for token in tokens if token in self._ids]
        )
        return found != [number for _, _, number in self._of_frames(segment)]

    def cuts(self, segment: Segment) -> list[int]:
        """Places within the delimiters that contents spell, alone or together with a frame."""
        frames = list(segment.frames)
        spelled = self._spelled(segment.text)
        return [
            start + 1
            for start, end, _ in spelled
            if not any(first <= start and end <= last for first, last in frames)
        ]

    def spells(self, text: str) -> bool:
        """True if a text spells a delimiter."""
        return bool(self._spelled(text))

    def broken(self, text: str, split: str) -> str:
        """The text with `split` within each delimiter that it spells."""
        at = 0
        pieces: list[str] = []
        for start, _, _ in self._spelled(text):
            pieces += (text[at : start + 1], split)
            at = start + 1
        return "".join((*pieces, text[at:]))

    def _of_frames(self, segment: Segment) -> Iterator[tuple[int, int, int]]:
        for first, last in segment.frames:
            for start, end, number in self._spelled(segment.text[first:last]):
                if not any(first + start < split < first + end for split in segment.splits):
                    yield first + start, first + end, number

    def _spelled(self, text: str) -> Sequence[tuple[int, int, int]]:
        """Places and ids of all delimiters in a text."""
        if self._finder is None or self._hint.search(text) is None:
            return ()
        [found] = self._finder.encode_batch([text], add_special_tokens=False)
        pairs = zip(found.tokens, found.offsets, strict=True)
        return [
            (start, end, self._numbers[token])
            for token, (start, end) in pairs
            if token in self._numbers
        ]


NO_GUARD = Guard(frozenset(), None)
