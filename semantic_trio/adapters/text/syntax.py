"""The interface of formats of calls. Knows nothing of templates or tokens."""

import enum
from collections.abc import Sequence
from typing import Protocol

import attrs

from semantic_trio.domain.arguments import ArgumentsWriter
from semantic_trio.domain.conversation import Tool
from semantic_trio.domain.open_call import Writer


class Ending(enum.Enum):
    """Ending of the text that a call is read from."""

    OPEN = enum.auto()  # more may come
    TURN = enum.auto()  # the model has ended its turn
    CUT = enum.auto()  # the turn was cut: by a limit, a stop string, a client


@attrs.frozen
class CallsRead:
    """The beginning of a text, read as calls."""

    # names and arguments (JSON of an object), in their order; none: the text is no call
    calls: tuple[tuple[str, str], ...]
    # characters of the text that are read: those of the calls, or those that are surely text
    used: int
    repair: str = ""  # what was mended, where the text was not as the format has it


@attrs.frozen
class Begun:
    """A call of which only the arguments are still to come."""

    name: str
    at: int  # characters of the text before its arguments
    writer: Writer = attrs.field(factory=ArgumentsWriter, eq=False)  # reads the arguments


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

    def read(self, text: str, tools: Sequence[Tool], ending: Ending) -> CallsRead | None:
        """Calls that a text begins with, which begins with one of `openings` or `fronts`.

        None while that depends on what follows.

        A reading of a text is the reading of every longer text too. Never None for a text that has
        ended. Raises nothing for any text.
        """

    def begun(self, text: str, tools: Sequence[Tool], behind: int = 0) -> Begun | None:
        """Return the first call that a text begins with, once its delimiter, its name and the
        beginning of its arguments have come.

        `behind`: the place where the arguments of a call end; then the next call in the row is
        meant. The name is that of an offered tool. None before that, and in formats whose arguments
        are certain only at their end. Once there is a call, it is the same for every longer text.
        """
