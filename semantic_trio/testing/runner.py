"""A model whose next token depends on every position that a row has read, for tests of what runs on
one.
"""

import hashlib
from collections import Counter
from collections.abc import Callable

import attrs

from semantic_trio.adapters.scripted.rows import TokenRow
from semantic_trio.adapters.scripted.token_runner import LETTERS, TokenRunner, digests
from semantic_trio.domain.errors import GrammarError, StepFailedError
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.step import SampledToken, StepPlan, StepResult

ALPHABET = 256  # tokens it knows
END_OF_TURN = 0  # the byte that ends a turn in `ByteCodec`'s alphabet
ATTENTION_ONLY = ModelCacheSpec(
    "fake",
    (LayerGroup(LayerKind.GLOBAL, layers=1, token_bytes=8),),
    block_tokens=16,
    row_slack_tokens=32,
    arrays_per_block=1,
)


@attrs.define(eq=False)
class FakeRunner(TokenRunner):
    """A model whose next token is a function of every cache position it was given, so that a lost
    or mixed up one shows.

    Tokens are the letters a to z. What is kept of a row are the tokens it has read, so that a wrong
    block or snapshot shows as well.
    """

    # may raise, to play a device that fails
    before_step: Callable[[StepPlan], None] = lambda plan: None
    end_after: int | None = None  # index of the token at which every row ends its turn
    # with a group that is not global, rows are restored from snapshots too
    spec: ModelCacheSpec = ATTENTION_ONLY
    plans: list[StepPlan] = attrs.field(init=False, factory=list)  # all of them

    async def step(self, plan: StepPlan) -> StepResult:
        """See `ModelRunner.step`."""
        self.plans.append(plan)
        try:
            self.before_step(plan)
        except Exception as error:
            raise StepFailedError(str(error)) from error
        return await super().step(plan)

    def _draw(self, row: TokenRow, index: int) -> SampledToken | int:
        """Draw token `index` of a row.

        Returns the number of a row whose grammar cannot say what may come next.
        """
        chance = "" if row.start.sampling.is_greedy else f"{row.start.seed}/{index}"
        digest_of = digests(row.memory)
        digest = digest_of(chance)
        token = ord("a") + digest[0] % 26
        wanted = END_OF_TURN if self.end_after is not None and index >= self.end_after else token
        try:
            return self._drawn(row, index, _steered(row, wanted, digest), digest_of)
        except GrammarError:
            row.seen.append(END_OF_TURN)
            return row.start.row


def _steered(row: TokenRow, wanted: int, digest: bytes) -> int:
    """The token a row wants, or where something is added to others or not all are allowed, the best
    of those.

    Raises `GrammarError`.
    """
    added = {
        token: value
        for token, value in row.start.steering.additions(Counter(row.seen)).items()
        if token < ALPHABET
    }
    penalty = row.start.sampling.repetition_penalty
    for token in {*row.start.penalised, *row.start.drawn, *row.seen} if penalty != 1.0 else ():
        added[token] = added.get(token, 0.0) + 1.0 - penalty
    if row.grammar is None and (not added or wanted == END_OF_TURN):
        return wanted
    allowed = row.grammar.allowed() if row.grammar else None
    tokens = (
        {wanted, *LETTERS, *added}
        if allowed is None
        else {n for n in range(8 * len(allowed)) if allowed[n // 8] >> n % 8 & 1}
    )
    return max(
        tokens,
        key=lambda one: (
            (one == wanted) + added.get(one, 0.0),
            hashlib.sha256(digest + bytes([one % 256])).digest(),
        ),
    )
