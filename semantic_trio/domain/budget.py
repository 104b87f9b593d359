"""A bound on the thoughts of an answer: at the bound they are ended, in the model's own words.

Knows the text of tokens and the delimiters of thoughts. It is a grammar that allows everything
until then, so rows that come back, or share a pass with others, are held to it as to any other.
"""

from collections.abc import Callable

import attrs

from semantic_trio.domain.steering import Grammar, GrammarState
from semantic_trio.domain.stopping import TextDecoder, Thoughts, begun


@attrs.frozen(eq=False)
class ThoughtBudget:
    """A `Grammar` that bounds the tokens between the delimiters of thoughts."""

    limit: int  # tokens of all thoughts of an answer, delimiters not among them
    thoughts: Thoughts
    closing: tuple[int, ...]  # the tokens that end a thought
    decoder: Callable[[], TextDecoder]
    vocabulary: int  # number of tokens
    inner: Grammar | None = None  # what else the answer is held to

    def start(self) -> "BudgetState":
        """See `Grammar.start`."""
        return BudgetState(
            self, self.decoder(), self.inner.start() if self.inner else None, self.thoughts.is_open
        )


@attrs.define(eq=False)
class BudgetState:
    """A `GrammarState`: how many tokens were thoughts, and what of a thought's end is still to
    come.
    """

    _budget: ThoughtBudget
    _decoder: TextDecoder
    _inner: GrammarState | None
    _is_within: bool  # a thought has begun
    _text: str = ""  # that may be the beginning of a delimiter
    _spent: int = 0
    _closing: tuple[int, ...] = ()  # tokens to come

    def __attrs_post_init__(self) -> None:
        self._close_at_the_bound()

    def allowed(self) -> bytes:
        """See `GrammarState.allowed`."""
        size = (self._budget.vocabulary + 7) // 8
        if self._closing:
            return (1 << self._closing[0]).to_bytes(size, "little")
        return b"\xff" * size if self._inner is None else self._inner.allowed()

    def take(self, token: int) -> None:
        """See `GrammarState.take`."""
        if self._inner is not None:
            self._inner.take(token)
        text = self._decoder.push(token)
        if self._closing:
            self._closing = self._closing[1:]
            self._is_within, self._text = bool(self._closing), ""
            return
        self._spent += self._is_within
        self._look_at(text)
        self._close_at_the_bound()

    def _look_at(self, text: str) -> None:
        """Find delimiters."""
        self._text += text
        while (found := self._text.partition(self._wanted))[1]:
            self._is_within, self._text = not self._is_within, found[2]
        self._text = self._text[len(self._text) - begun(self._text, self._wanted) :]

    @property
    def _wanted(self) -> str:
        return self._budget.thoughts.end if self._is_within else self._budget.thoughts.start

    def _close_at_the_bound(self) -> None:
        if self._is_within and self._spent >= self._budget.limit:
            self._closing = self._budget.closing


def enforced(grammar: Grammar | None, max_tokens: int) -> Grammar | None:
    """The grammar without a budget that no answer of so many tokens can reach."""
    return (
        grammar.inner
        if isinstance(grammar, ThoughtBudget) and grammar.limit >= max_tokens - 1
        else grammar
    )
