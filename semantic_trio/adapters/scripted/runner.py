"""A model whose answers are given: what clients make of thoughts, texts and calls can be tested
without one that is able to make them.

Knows the chat format of `tiny-random`, whose tokenizer it speaks with. Reads no clock and draws no
chance: the same prompt has the same answer, also after its row was taken away and read again.
"""

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import attrs

from semantic_trio.adapters.scripted.rows import TokenRow
from semantic_trio.adapters.scripted.rules import Rule, answer
from semantic_trio.adapters.scripted.token_runner import TokenRunner, digests
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.step import SampledToken, StepPlan

END = "<|im_end|>"
# Blocks as large as those of real models, so that turns are cut where theirs would be.
GLOBAL_LAYERS = ModelCacheSpec.of(
    "scripted", (LayerGroup(LayerKind.GLOBAL, layers=1, token_bytes=8),)
)


def scripted_spec(fingerprint: str) -> ModelCacheSpec:
    """Return the geometry of a model whose answers are given: memory of several models is apart."""
    return attrs.evolve(GLOBAL_LAYERS, fingerprint=f"scripted {fingerprint}")


@attrs.frozen
class _Answer:
    tokens: tuple[int, ...]  # with the end of the turn
    pace_seconds: float


@attrs.define(eq=False)
class ScriptedRunner(TokenRunner):
    """A runner that draws the tokens of given answers.

    A script is a JSON list of rules (see `Rule`). When a prompt has been read, what is new in it is
    everything users, tools and late system messages have said since the last answer:

        [
          {"when": "fix it", "turn": 0, "thinking": "I look first.", "calls": [{"name": "Read",
          "input": {"file_path": "/tmp/a.py"}}]}, {"when": "tool_response", "once": true, "text":
          "It is short.", "calls": [{"name": "Bash", "input": {"command": "true"}}]}, {"text":
          "Done.", "pace_seconds": 0.05}
        ]

    Which rules a conversation has had is found by going through its prompt from the start, so
    nothing is kept between requests. The prompt is what the row has in memory, not what the request
    said: memory that was lost or mixed up gives another answer.
    """

    script: Sequence[Rule] = attrs.field(kw_only=True)
    encode: Callable[[str], Sequence[int]] = attrs.field(kw_only=True)
    decode: Callable[[Sequence[int]], str] = attrs.field(kw_only=True)
    spec: ModelCacheSpec = attrs.field(kw_only=True, default=GLOBAL_LAYERS)
    _answers: "WeakKeyDictionary[TokenRow, _Answer]" = attrs.field(
        init=False, factory=WeakKeyDictionary
    )

    def _seconds(self, plan: StepPlan) -> float:
        answers = [self._answers.get(self.rows[decode.row]) for decode in plan.decode]
        return super()._seconds(plan) + max(
            (answer.pace_seconds for answer in answers if answer), default=0.0
        )

    def _draw(self, row: TokenRow, index: int) -> SampledToken:
        if row not in self._answers:
            said, pace_seconds = answer(
                self.script, self.decode(row.tokens[: len(row.memory) - index])
            )
            self._answers[row] = _Answer((*self.encode(said + END),), pace_seconds)
        tokens = self._answers[row].tokens
        return self._drawn(row, index, tokens[min(index, len(tokens) - 1)], digests(row.memory))
