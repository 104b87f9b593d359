"""A model whose answers are given: what clients make of thoughts, texts and calls can be tested without one that is able to make them.

Knows the chat format of `tiny-random`, whose tokenizer it speaks with. Reads no clock and draws no chance: the same prompt has the same answer,
also after its row was taken away and read again.
"""

import collections
import json
import re
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from pathlib import Path
from typing import Annotated
from weakref import WeakKeyDictionary

import attrs
import msgspec

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.step import SampledToken, StepPlan
from semantic_trio.testing.runner import FakeRow, FakeRunner, digests

TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\n?|\Z)", re.DOTALL)
END = "<|im_end|>"
THOUGHT = "<think>\n"
UNANSWERED = "No rule of the script answers this."
# Blocks as large as those of real models, so that turns are cut where theirs would be.
GLOBAL_LAYERS = ModelCacheSpec.of("scripted", (LayerGroup(LayerKind.GLOBAL, layers=1, token_bytes=8),))


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool to call."""

    name: str
    input: dict[str, object] = {}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An answer, and when it is given. Of the rules that fit, the first counts. In patterns `^` and `$` are those of lines."""

    when: str = ""  # pattern, searched in what is new
    unless: str | None = None  # pattern; a rule that finds it in what is new does not fit
    seen: str | None = None  # pattern, searched in the whole prompt
    turn: int | None = None  # answers that the prompt must have in it already
    once: bool = False  # a conversation gets this answer no second time
    thinking: str = ""
    text: str = ""
    calls: tuple[Call, ...] = ()
    pace_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # of each token

    def fits(self, new: str, prompt: str, turn: int) -> bool:
        """True if the rule answers `new`, the end of `prompt`."""
        return (
            self.turn in (None, turn)
            and _has(new, self.when)
            and not (self.unless is not None and _has(new, self.unless))
            and (self.seen is None or _has(prompt, self.seen))
        )

    @property
    def answer(self) -> str:
        """As the model would write it."""
        thought = f"{THOUGHT}{self.thinking}\n</think>\n\n" if self.thinking else ""
        calls = [json.dumps({"name": call.name, "arguments": call.input}, ensure_ascii=False) for call in self.calls]
        return thought + "\n".join([*([self.text] if self.text else []), *(f"<tool_call>\n{call}\n</tool_call>" for call in calls)])


def _has(text: str, pattern: str) -> bool:
    return re.search(pattern, text, re.MULTILINE) is not None


NO_RULE = Rule(text=UNANSWERED)


@attrs.frozen
class _Answer:
    tokens: tuple[int, ...]  # with the end of the turn
    pace_seconds: float


@attrs.define(eq=False)
class ScriptedRunner(FakeRunner):
    """A runner that keeps its books as `FakeRunner` does, and draws the tokens of given answers.

    A script is a JSON list of rules (see `Rule`). When a prompt has been read, what is new in it is everything users, tools and late system messages
    have said since the last answer:

        [
          {"when": "fix it", "turn": 0, "thinking": "I look first.", "calls": [{"name": "Read", "input": {"file_path": "/tmp/a.py"}}]},
          {"when": "tool_response", "once": true, "text": "It is short.", "calls": [{"name": "Bash", "input": {"command": "true"}}]},
          {"text": "Done.", "pace_seconds": 0.05}
        ]

    Which rules a conversation has had is found by going through its prompt from the start, so nothing is kept between requests. The prompt is
    what the row has in memory, not what the request said: memory that was lost or mixed up gives another answer.
    """

    script: Sequence[Rule] = attrs.field(kw_only=True)
    encode: Callable[[str], Sequence[int]] = attrs.field(kw_only=True)
    decode: Callable[[Sequence[int]], str] = attrs.field(kw_only=True)
    spec: ModelCacheSpec = attrs.field(kw_only=True, default=GLOBAL_LAYERS)
    plans: MutableSequence[StepPlan] = attrs.field(init=False, factory=lambda: collections.deque(maxlen=1))  # a server has no use for the others
    _answers: "WeakKeyDictionary[FakeRow, _Answer]" = attrs.field(init=False, factory=WeakKeyDictionary)

    def answer(self, prompt: str) -> tuple[str, float]:
        """Return the answer to a prompt, without what the prompt has begun of it; and the seconds of each token."""
        exchanges = list(_exchanges(prompt))
        had: list[Rule] = []
        for new, _ in exchanges:
            had.append(self._first(new, prompt, had))
        rule, opening = (had[-1], exchanges[-1][1]) if had else (NO_RULE, "")
        if rule.answer.startswith(opening):
            return rule.answer.removeprefix(opening), rule.pace_seconds
        return ("\n</think>\n\n" + rule.answer if opening == THOUGHT else rule.answer), rule.pace_seconds

    def _first(self, new: str, prompt: str, had: list[Rule]) -> Rule:
        for rule in self.script:
            if not (rule.once and rule in had) and rule.fits(new, prompt, len(had)):
                return rule
        return NO_RULE

    def _seconds(self, plan: StepPlan) -> float:
        answers = [self._answers.get(self.rows[decode.row]) for decode in plan.decode]
        return super()._seconds(plan) + max((answer.pace_seconds for answer in answers if answer), default=0.0)

    def _draw(self, row: FakeRow, index: int) -> SampledToken:
        if row not in self._answers:
            said, pace_seconds = self.answer(self.decode(row.memory[: len(row.memory) - index]))
            self._answers[row] = _Answer((*self.encode(said + END),), pace_seconds)
        tokens = self._answers[row].tokens
        return self._drawn(row, index, tokens[min(index, len(tokens) - 1)], digests(row.memory))


def _exchanges(prompt: str) -> Iterator[tuple[str, str]]:
    """Yield what was new before each answer of a prompt, and the answer; the last one is only begun. Instructions at the front are not new."""
    new: list[str] = []
    has_begun = False
    for role, said in TURN.findall(prompt):
        if role == "assistant":
            yield "\n".join(new), said
            new = []
        elif has_begun or role != "system":
            has_begun = True
            new.append(said)


def read_script(path: Path) -> tuple[Rule, ...]:
    """The rules in a file. Raises `InvalidRequestError` where it has none."""
    try:
        rules = msgspec.json.decode(path.read_bytes(), type=tuple[Rule, ...])
        for pattern in (pattern for rule in rules for pattern in (rule.when, rule.unless, rule.seen) if pattern is not None):
            re.compile(pattern)
    except (OSError, msgspec.DecodeError, re.error) as error:
        raise InvalidRequestError(f"{path}: {error}", field="script") from error
    return rules
