"""Progress that a person sees while a model is fetched and built."""

import sys
from typing import Protocol, TextIO

import attrs


class Progress(Protocol):
    """Receives the steps of a pull."""

    @property
    def draws(self) -> bool:
        """True if child processes may draw their own progress bars on standard error."""

    def step(self, text: str) -> None:
        """Say what is done next. May be called from any thread."""


@attrs.frozen
class Silent:
    """Tells nobody."""

    draws: bool = False

    def step(self, text: str) -> None:
        """See `Progress.step`."""


@attrs.frozen
class Lines:
    """A line per step on standard error, and the progress bars of child processes when that is a
    terminal.
    """

    stream: TextIO = attrs.field(factory=lambda: sys.stderr)

    @property
    def draws(self) -> bool:
        """See `Progress.draws`."""
        return self.stream is sys.stderr and self.stream.isatty()

    def step(self, text: str) -> None:
        """See `Progress.step`."""
        print(text, file=self.stream, flush=True)
