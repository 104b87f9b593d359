"""Speculation: drafts of the tokens that rows are about to sample, found in what each row has read
(prompt lookup).

The last tokens of a row are looked up among all that the row has read, prompt and answer. What
followed them there is proposed, and the device verifies it in one pass. A draft is accepted while
it equals the token that is sampled in its place, so answers are the same with and without drafts.

Knows packed tokens and counts. Knows nothing of arrays or of how a pass verifies.
"""

import attrs

from semantic_trio.domain.chain import TOKEN_BYTES, unpack
from semantic_trio.domain.shares import fair_shares

# Tokens that have to occur earlier before what followed them is proposed. In ordinary text three
# agree by chance often, four seldom.
NGRAM = 4
# Drafts of a first try. Each try that is accepted whole doubles them.
FIRST_DRAFTS = 2
# Tokens of a row that are sampled without drafts after a try of which nothing was accepted; each
# further such try doubles them, up to the most.
FIRST_PAUSE, LONGEST_PAUSE = 8, 256
# Tokens of the past that are searched: 64 KiB, for which a search takes some microseconds.
SEARCHED = 16_384


@attrs.define
class PromptLookup:
    """Drafts of one row. Proposes more where all are accepted, and pauses where none is."""

    _length: int = attrs.field(init=False, default=FIRST_DRAFTS)
    _pause: int = attrs.field(init=False, default=FIRST_PAUSE)
    # tokens of the row before which nothing is proposed
    _resumes_at: int = attrs.field(init=False, default=0)

    def propose(self, packed: bytes | bytearray, unknown: int, limit: int) -> tuple[int, ...]:
        """Tokens that may follow `packed` and the `unknown` tokens behind it that are sampled but
        not known yet: `limit` at most.
        """
        count = min(self._length, limit)
        if count < 1 or len(packed) // TOKEN_BYTES < self._resumes_at:
            return ()
        begin = _continuation(packed)
        if begin is None:
            return ()
        followed = unpack(bytes(packed[begin : begin + (unknown + count) * TOKEN_BYTES]))
        # a row that repeats itself goes on doing so
        return tuple(followed[at % len(followed)] for at in range(unknown, unknown + count))

    def verified(self, drafted: int, accepted: int, tokens: int, most: int) -> None:
        """Learn from a try. The row has `tokens` then; `most` drafts are proposed at a time."""
        if not accepted:
            self._length, self._resumes_at = FIRST_DRAFTS, tokens + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return
        self._length = min(2 * drafted, most) if accepted == drafted else accepted
        self._pause = FIRST_PAUSE


@attrs.define
class Speculation:
    """Drafts of all rows of a pass, and how many were accepted."""

    most: int = 0  # drafts of one row in a pass; 0: none
    pass_tokens: int = 0  # that a pass of decoding rows may read, drafts included; 0: no drafts
    drafted: int = attrs.field(init=False, default=0)
    accepted: int = attrs.field(init=False, default=0)

    @property
    def is_on(self) -> bool:
        """True if rows may have drafts."""
        return self.most > 0 and self.pass_tokens > 0

    def shared_out(self, proposals: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the proposals, cut to what a pass may read beside one token of each row."""
        free = max(self.pass_tokens - len(proposals), 0)
        shares = fair_shares(free, [len(proposal) for proposal in proposals])
        return [proposal[:share] for proposal, share in zip(proposals, shares, strict=True)]


def _continuation(packed: bytes | bytearray) -> int | None:
    """Return the byte at which the tokens begin that followed the last earlier occurrence of the
    last `NGRAM` tokens; None where there is none.
    """
    size = NGRAM * TOKEN_BYTES
    ngram, stop = bytes(packed[-size:]), len(packed) - TOKEN_BYTES
    start = max(len(packed) - SEARCHED * TOKEN_BYTES, 0)
    while len(ngram) == size and (found := packed.rfind(ngram, start, stop)) >= 0:
        if found % TOKEN_BYTES == 0:
            return found + size
        stop = found + size - 1
    return None
