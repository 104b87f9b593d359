"""Steering of sampling: the tokens that are allowed, and those that are preferred, by grammars,
biases and penalties.

Knows token ids. Knows neither their text nor how tokens are sampled.
"""

from collections.abc import Mapping
from typing import Protocol

import attrs


class GrammarState(Protocol):
    """The state of one answer in a grammar."""

    def allowed(self) -> bytes:
        """The tokens that may come next: bit `n % 8` (from the lowest) of byte `n // 8` stands for
        token `n`, those beyond the end may not.

        Where the answer may end, the tokens that end a turn are among them. Never none. Raises
        `GrammarError` where that cannot be said.
        """

    def take(self, token: int) -> None:
        """Go on by a token that was allowed; one that was not leads nowhere, and `allowed` says
        so.
        """


class Grammar(Protocol):
    """A grammar that an answer has to match. Immutable; may be used from any thread."""

    def start(self) -> GrammarState:
        """Return the state of an empty answer."""


@attrs.frozen
class Steering:
    """Additions to the logits of one answer. By default none."""

    bias: tuple[tuple[int, float], ...] = ()  # by token
    frequency_penalty: float = 0.0  # taken from a token for each time the answer has it
    presence_penalty: float = 0.0  # taken from a token that the answer has

    @property
    def needs_sampled_ids(self) -> bool:
        """True if the additions depend on the tokens sampled before."""
        return bool(self.frequency_penalty or self.presence_penalty)

    def additions(self, counts: Mapping[int, int]) -> dict[int, float]:
        """Return the addition to the logit of each token, given the counts of sampled tokens;
        tokens that are not in it stay as they are.

        Source: the API reference of OpenAI, "frequency and presence penalties".
        """
        added = dict(self.bias)
        for token, count in counts.items() if self.needs_sampled_ids else ():
            added[token] = (
                added.get(token, 0.0) - count * self.frequency_penalty - self.presence_penalty
            )
        return added


NO_STEERING = Steering()
