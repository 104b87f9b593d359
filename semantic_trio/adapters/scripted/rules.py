"""Scripts: rules of which answer follows which prompt, in the chat format of `tiny-random`."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from semantic_trio.domain.errors import InvalidRequestError

TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\n?|\Z)", re.DOTALL)
THOUGHT = "<think>\n"
UNANSWERED = "No rule of the script answers this."


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool to call."""

    name: str
    input: dict[str, object] = {}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An answer, and when it is given.

    Of the rules that fit, the first counts. In patterns `^` and `$` are those of lines.
    """

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
        """Text of the answer as the model would write it."""
        thought = f"{THOUGHT}{self.thinking}\n</think>\n\n" if self.thinking else ""
        calls = [
            json.dumps({"name": call.name, "arguments": call.input}, ensure_ascii=False)
            for call in self.calls
        ]
        return thought + "\n".join(
            [
                *([self.text] if self.text else []),
                *(f"<tool_call>\n{call}\n</tool_call>" for call in calls),
            ]
        )


def _has(text: str, pattern: str) -> bool:
    return re.search(pattern, text, re.MULTILINE) is not None


NO_RULE = Rule(text=UNANSWERED)


def answer(script: Sequence[Rule], prompt: str) -> tuple[str, float]:
    """Return a script's answer to a prompt, without what the prompt has begun of it; and the
    seconds of each token.
    """
    exchanges = list(_exchanges(prompt))
    had: list[Rule] = []
    for new, _ in exchanges:
        had.append(_first(script, new, prompt, had))
    rule, opening = (had[-1], exchanges[-1][1]) if had else (NO_RULE, "")
    if rule.answer.startswith(opening):
        return rule.answer.removeprefix(opening), rule.pace_seconds
    return (
        "\n</think>\n\n" + rule.answer if opening == THOUGHT else rule.answer
    ), rule.pace_seconds


def _first(script: Sequence[Rule], new: str, prompt: str, had: Sequence[Rule]) -> Rule:
    for rule in script:
        if not (rule.once and rule in had) and rule.fits(new, prompt, len(had)):
            return rule
    return NO_RULE


def _exchanges(prompt: str) -> Iterator[tuple[str, str]]:
    """Yield what was new before each answer of a prompt, and the answer; the last one is only
    begun.

    Instructions at the front are not new.
    """
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
        for pattern in (
            pattern
            for rule in rules
            for pattern in (rule.when, rule.unless, rule.seen)
            if pattern is not None
        ):
            re.compile(pattern)
    except (OSError, msgspec.DecodeError, re.error) as error:
        raise InvalidRequestError(f"{path}: {error}", field="script") from error
    return rules
