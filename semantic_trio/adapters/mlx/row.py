"""One row of a batch, as the device's thread sees it.

Knows its cache and its draws. Knows nothing of passes.
"""

from collections import Counter

import attrs
import mlx.core as mx
import numpy as np
import structlog

from semantic_trio.adapters.mlx.kv import RowCaches
from semantic_trio.adapters.mlx.lora import LoadedAdapter
from semantic_trio.adapters.mlx.sampling import Draw
from semantic_trio.domain.errors import GrammarError
from semantic_trio.domain.steering import GrammarState
from semantic_trio.domain.step import RowStart

log = structlog.get_logger(__name__)


@attrs.define(eq=False)
class Row:
    """A row: its cache, how its tokens are to be drawn, and those that were, as far as a draw
    depends on them.
    """

    start: RowStart
    caches: RowCaches
    adapter: LoadedAdapter | None = None
    length: int = 0  # tokens read, those of a pass in flight included
    accepted: int = 0  # drafts that its last pass accepted: an answer may end among them
    # tokens of the pass that sampled the row's last one, perhaps not computed yet, and its place
    # among them
    last: tuple[mx.array, int] | None = None
    # how often each token was drawn, where a draw depends on it
    drawn: Counter[int] = attrs.field(init=False)
    _state: GrammarState | None = attrs.field(init=False)
    # (vocabulary,) bool: tokens of prompt and answer, where they are penalised
    _seen: mx.array | None = attrs.field(init=False, default=None)
    # its grammar cannot say what may come next
    is_stuck: bool = attrs.field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.drawn = Counter(self.start.drawn)
        self._state = self.start.grammar.start() if self.start.grammar else None
        if self._state is not None:
            for token in self.start.drawn:
                self._state.take(token)

    def observe_sampled(self, token: int) -> None:
        """Count a sampled token for the penalties, and give it to the grammar."""
        if self.start.steering.needs_sampled_ids:
            self.drawn[token] += 1
        if self._state is not None and not self.is_stuck:
            self._state.take(token)

    def took(self, tokens: mx.array, place: int) -> None:
        """Note a sampled token, one of those of its pass and perhaps not computed yet: it is what
        the row reads next.
        """
        self.last = (tokens, place)
        if self._seen is not None:
            self._seen = mx.put_along_axis(
                self._seen, tokens[place : place + 1], mx.array(True), axis=0
            )

    def draw(self, index: int, vocabulary: int) -> Draw:
        """Return how token number `index` is to be drawn, once the tokens before it were seen."""
        start = self.start
        return Draw(
            start.sampling,
            start.seed,
            index,
            forced=start.forced[index] if index < len(start.forced) else None,
            additions=start.steering.additions(self.drawn),
            allowed=self._allowed(),
            top=start.top_logprobs,
            seen=self._seen_of(vocabulary),
        )

    def _seen_of(self, vocabulary: int) -> mx.array | None:
        if self._seen is None and self.start.sampling.repetition_penalty != 1.0:
            flags = np.zeros(vocabulary, np.bool_)
            flags[
                [
                    token
                    for token in {*self.start.penalised, *self.start.drawn}
                    if token < vocabulary
                ]
            ] = True
            self._seen = mx.array(flags)
        return self._seen

    def _allowed(self) -> bytes | None:
        try:
            return self._state.allowed() if self._state and not self.is_stuck else None
        except GrammarError as error:
            log.warning(
                "grammar failed",
                **self.start.log_ids,
                row=self.start.row,
                reason=error.reason,
            )
            self.is_stuck = True
            return None
