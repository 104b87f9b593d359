"""Service managers, as the command line sees them: a port with one implementation per system."""

from pathlib import Path
from typing import Protocol

import attrs

from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.service.plan import Plan


@attrs.frozen
class State:
    """State of the server's process, as its service manager tells it."""

    pid: int | None  # None: it is not running
    ended: str = ""  # how the process before ended, for people; empty: unknown, or there was none

    def __str__(self) -> str:
        if self.pid:
            return f"running, pid {self.pid}"
        return f"not running; it ended with {self.ended}" if self.ended else "not running"


class Supervisor(Protocol):
    """A service manager. Methods that call it raise `InvalidRequestError` with what it said."""

    @property
    def file(self) -> Path:
        """The file that describes the service to it."""
        ...

    @property
    def directory(self) -> Path:
        """The directory that the server works in."""
        ...

    @property
    def log_file(self) -> Path | None:
        """The file that the server logs to; None where the manager keeps the log."""
        ...

    @property
    def remark(self) -> str:
        """One line for people about when the service runs."""
        ...

    def render(self, plan: Plan) -> str:
        """Content of `file`."""
        ...

    def command(self, content: str) -> list[str]:
        """The command in a content that `render` has made."""
        ...

    def check(self) -> None:
        """Raises `InvalidRequestError` with a cure where the manager is missing or this user has no
        session with it.
        """
        ...

    def install(self, content: str) -> None:
        """Write `file`, and start the server; one that runs already is drained first.

        Raises `PermissionError` too.
        """
        ...

    def uninstall(self) -> None:
        """End the server and delete `file`. Returns when it has ended. Raises `OSError` too."""
        ...

    def state(self) -> State:
        """State of the server."""
        ...

    def log_command(self, lines: int, *, is_followed: bool) -> list[str]:
        """The command that prints the last lines of the log."""
        ...


def exited(code: int) -> str:
    """Return an exit code with its meaning, as docs/operations.md explains it."""
    known = {int(one): one.name.lower().replace("_", " ") for one in ExitCode}
    return f"exit code {code} ({known[code]})" if code in known else f"exit code {code}"
