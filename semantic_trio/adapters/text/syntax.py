"""The delimiters of a model's thoughts and calls in the text it writes.

Knows delimiters, and the interface of formats of calls. Knows nothing of templates or tokens.
"""

import enum
from collections.abc import Collection, Sequence
from typing import Protocol

import attrs

from semantic_trio.domain.conversation import Tool


class Ending(enum.Enum):
    """How the text that a call is read from ends."""

    OPEN = enum.auto()  # more may come
    TURN = enum.auto()  # the model has ended its turn
    CUT = enum.auto()  # the turn was cut: by a limit, a stop string, a client


@attrs.frozen
class Reading:
    """The beginning of a text, read as calls."""

    calls: tuple[tuple[str, str], ...]  # names and arguments (JSON of an object), in their order; none: the text is no call
    used: int  # characters of the text that are read: those of the calls, or those that are surely text
    repair: str = ""  # what was mended, where the text was not as the format has it


class ToolSyntax(Protocol):
    """One format of calls."""

    @property
    def format(self) -> str:
        """The format's name, for logs and metrics."""

    @property
    def start(self) -> str:
        """The text that a template writes in front of a call, or of several in a row."""

    @property
    def end(self) -> str:
        """The text behind them; empty where only the turn's end ends them."""

    @property
    def openings(self) -> tuple[str, ...]:
        """The texts that calls may begin with, `start` among them."""

    @property
    def fronts(self) -> tuple[str, ...]:
        """The texts that calls begin with only where nothing has been said before them."""

    @property
    def delimiters(self) -> tuple[str, ...]:
        """The other texts of the format that may be special tokens of a model."""

    def read(self, text: str, tools: Sequence[Tool], ending: Ending) -> Reading | None:
        """Calls that a text begins with, which begins with one of `openings` or `fronts`. None while that depends on what follows.

        A reading of a text is the reading of every longer text too. Never None for a text that has ended. Raises nothing for any text.
        """


@attrs.frozen
class ThinkMarks:
    """The words around a thought."""

    start: str = "<think>"
    end: str = "</think>"
    gap: str = "\n\n"  # between the end mark and what is said then

    @property
    def opening(self) -> str:
        """What stands before a thought."""
        return f"{self.start}\n"

    def around(self, thought: str) -> str:
        """A thought as models read it in front of what was said; nothing for none."""
        return f"{self.opening}{thought}\n{self.end}{self.gap}" if thought else ""

    def closed(self, text: str) -> str:
        """A text that ends within a thought, with the thought ended at once."""
        return f"{text}\n{self.end}{self.gap}"


# By the tokens they are made of, in the order in which they are looked for; those that most have come first and serve all others too.
HERMES_THINKS = ThinkMarks()
KNOWN_MARKS: dict[tuple[str, ...], ThinkMarks] = {
    ("<think>", "</think>"): HERMES_THINKS,
    ("<longcat_think>", "</longcat_think>"): ThinkMarks("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"): ThinkMarks("<|think:start|>", "<|think:end|>"),
    ("[THINK]", "[/THINK]"): ThinkMarks("[THINK]", "[/THINK]", ""),
    ("<|channel>", "<channel|>"): ThinkMarks("<|channel>thought", "<channel|>", ""),
    ("<|open|>", "<|close|>", "<|sep|>"): ThinkMarks("<|open|>think<|sep|>", "<|close|>think<|sep|>", ""),
}


def think_marks(vocabulary: Collection[str]) -> ThinkMarks:
    """The marks of the model with these tokens; those that most have where it has none of its own."""
    return next((marks for tokens, marks in KNOWN_MARKS.items() if all(token in vocabulary for token in tokens)), HERMES_THINKS)
