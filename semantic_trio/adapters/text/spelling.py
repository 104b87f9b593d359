"""A prompt's text spelled in tokens: in those it was read and said in before, as far as they are
known, then in the tokenizer's own.

Knows texts, tokens and where they agree. Knows nothing of templates.
"""

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import attrs
from tokenizers import Tokenizer

from semantic_trio.adapters.text.follow import Step, follow
from semantic_trio.adapters.text.layout import PromptLayout
from semantic_trio.adapters.text.segments import Borders, SegmentEncoder
from semantic_trio.domain.conversation import Message
from semantic_trio.domain.prompt import Breakpoint, Known, Prompt

BEGINNING = Step(0, 0)
Places = dict[int, int]  # for places in the text, the number of tokens before them


@attrs.frozen
class Spelling:
    """One prompt on its way from text to tokens."""

    _tokenizer: Tokenizer
    _segments: SegmentEncoder
    _layout: PromptLayout
    _borders: Borders

    def prompt(self, messages: Sequence[Message], known: Known) -> Prompt:
        """The tokens, and where in them things end.

        `known` ends where one of its messages does in the text.
        """
        ranked = [
            (cut, message.rank)
            for message, cut in zip(messages, self._borders.after, strict=True)
            if message.rank is not None and cut
        ]
        places: Places = {}
        draft = known.tokens + known.draft
        front = start = self._front(known.tokens if known.messages else draft, places)
        if known.messages:
            start = Step(len(known.tokens), self._layout.ends[known.messages - 1])
            self._look_up(
                known.tokens, front, {cut for cut, _ in ranked if cut <= start.offset}, places
            )
        start = self._kept(draft, start, places)
        tokens = draft[: start.used] + self._spelled(start, places)
        points = tuple(Breakpoint(places[cut], rank) for cut, rank in ranked if cut in places)
        return Prompt(tokens, places.get(self._borders.head or 0, 0), points, self._layout.opening)

    def _front(self, draft: tuple[int, ...], places: Places) -> Step:
        """Where the head ends in tokens that begin with it as it is spelled today; their beginning
        where they do not.
        """
        borders = [0, *(cut for cut in self._borders.cuts if cut <= (self._borders.head or 0))]
        if not draft or len(borders) == 1:
            return BEGINNING
        segments = self._segments.encode(
            [self._layout.segment(one, other) for one, other in pairwise(borders)], begins=True
        )
        tokens = tuple(chain.from_iterable(segments))
        if draft[: len(tokens)] != tokens:
            return BEGINNING
        places |= zip(borders[1:], accumulate(map(len, segments)), strict=True)
        return Step(len(tokens), borders[-1])

    def _look_up(
        self, tokens: Sequence[int], front: Step, wanted: set[int], places: Places
    ) -> None:
        """The places that are wanted in known tokens, as far as these are the text that would be
        written today.
        """
        furthest = max(wanted, default=0)
        if furthest <= front.offset:
            return
        for step in follow(self._tokenizer, self._layout.text, tokens, front):
            if step.offset in wanted:
                places[step.offset] = step.used
            if step.offset >= furthest:
                return

    def _kept(self, draft: Sequence[int], start: Step, places: Places) -> Step:
        """Find how many of the tokens before can be used: not right up to a disagreement, for there
        the text may be within a word.
        """
        cuts = {start.offset, len(self._layout.text), *self._borders.cuts}
        before = last = at_cut = start
        for step in follow(self._tokenizer, self._layout.text, draft, start):
            if self._segments.guard.is_delimiter(draft[step.used - 1]) and self._layout.is_content(
                last.offset, step.offset
            ):
                break  # a delimiter then, and spelled by a content now
            before, last = last, step
            if step.offset in cuts:
                at_cut = step
                places[step.offset] = step.used
        if at_cut == last or not self._segments.is_seamless:
            return at_cut
        return last if last.used == len(draft) else before

    def _spelled(self, start: Step, places: Places) -> tuple[int, ...]:
        """The tokens of the rest, segment by segment."""
        text = self._layout.text
        borders = [
            start.offset,
            *(cut for cut in self._borders.cuts if cut > start.offset),
            len(text),
        ]
        segments = self._segments.encode(
            [self._layout.segment(one, other) for one, other in pairwise(borders)],
            begins=start.used == 0,
        )
        tokens: list[int] = []
        for border, segment in zip(borders[1:], segments, strict=True):
            tokens += segment
            places[border] = start.used + len(tokens)
        return tuple(tokens)
