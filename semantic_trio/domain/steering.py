"""What a draw may choose from, and what it is to prefer: grammars, biases, penalties.

Knows tokens, as ids. Knows neither what they spell nor how a draw is made.
"""

from collections.abc import Mapping
from typing import Protocol

import attrs


class GrammarState(Protocol):
    """How far one answer has come in a grammar."""

    def allowed(self) -> bytes:
        """The tokens that may come next: bit `n % 8` (from the lowest) of byte `n // 8` stands for token `n`, those beyond the end may not.

        Where the answer may end, the tokens that end a turn are among them. Never none. Raises `GrammarError` where that cannot be said.
        """

    def take(self, token: int) -> None:
        """Go on by a token that was allowed; one that was not leads nowhere, and `allowed` says so."""


class Grammar(Protocol):
    """What an answer has to look like. Immutable; may be used from any thread."""

    def start(self) -> GrammarState:
        """Nothing of the answer is there yet."""


@attrs.frozen
class Steering:
    """What is added to the logits of one answer. By default nothing."""

    bias: tuple[tuple[int, float], ...] = ()  # by token
    frequency_penalty: float = 0.0  # taken from a token for each time the answer has it
    presence_penalty: float = 0.0  # taken from a token that the answer has

    @property
    def looks_back(self) -> bool:
        """Whether what is added depends on what was drawn."""
        return bool(self.frequency_penalty or self.presence_penalty)

    def additions(self, drawn: Mapping[int, int]) -> dict[int, float]:
        """What is added to each token's logit after tokens were drawn so often; tokens that are not named stay as they are.

        Source: the API reference of OpenAI, "frequency and presence penalties".
        """
        added = dict(self.bias)
        for token, count in drawn.items() if self.looks_back else ():
            added[token] = added.get(token, 0.0) - count * self.frequency_penalty - self.presence_penalty
        return added


NO_STEERING = Steering()
