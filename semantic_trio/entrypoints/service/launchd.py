"""launchd, asked through `launchctl`."""

import os
import re
import time
from pathlib import Path

import attrs

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.service import plist
from semantic_trio.entrypoints.service.files import PUBLIC, write
from semantic_trio.entrypoints.service.plan import Plan
from semantic_trio.entrypoints.service.supervisor import State, exited
from semantic_trio.entrypoints.service.tool import Program, last_line

LAUNCHCTL = Program(
    "launchctl",
    (
        "this is no macOS, or /bin is missing there; `semantic-trio service install --print` shows "
        "the property list"
    ),
)
TAIL = Program("tail", "/usr/bin is missing there")
NO_SESSION = (
    "an agent belongs to a graphical session: log in at the screen as this user once, then run "
    "this again (not with sudo)"
)
# Exit code of `launchctl bootout` where the server takes its time to end.
IN_PROGRESS = 36
# Seconds between two looks whether it has ended.
LOOK_SECONDS = 0.2


@attrs.frozen
class Launchd:
    """The launchd of one user's graphical session."""

    home: Path
    user: int  # its number
    directory: Path
    remark: str = "it runs while you are logged in, and starts when you log in"

    @property
    def file(self) -> Path:
        """See `Supervisor`."""
        return self.home / "Library" / "LaunchAgents" / f"{plist.LABEL}.plist"

    @property
    def log_file(self) -> Path:
        """See `Supervisor`."""
        return self._logs / "server.log"

    @property
    def output(self) -> Path:
        """The file of what the server prints outside of its log: its address, and why it could not
        start.
        """
        return self._logs / "output.log"

    @property
    def _logs(self) -> Path:
        return self.home / "Library" / "Logs" / "semantic_trio"

    @property
    def _domain(self) -> str:
        return f"gui/{self.user}"

    @property
    def _target(self) -> str:
        return f"{self._domain}/{plist.LABEL}"

    def render(self, plan: Plan) -> str:
        """See `Supervisor`."""
        return plist.render(plan, self.output).decode()

    def command(self, content: str) -> list[str]:
        """See `Supervisor`."""
        return plist.command(content.encode())

    def check(self) -> None:
        """See `Supervisor`."""
        if (done := LAUNCHCTL.ask("print", self._domain)).returncode:
            raise InvalidRequestError(
                f"launchd has no session of this user ({last_line(done)}): {NO_SESSION}",
                quotes=False,
            )

    def install(self, content: str) -> None:
        """See `Supervisor`."""
        self._end()
        # launchd makes the file and not the directory
        self.output.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.output.unlink(missing_ok=True)
        write(self.file, content, PUBLIC)
        LAUNCHCTL.do("enable", self._target)  # one that was disabled by hand would not be loaded
        LAUNCHCTL.do("bootstrap", self._domain, str(self.file))

    def uninstall(self) -> None:
        """See `Supervisor`."""
        self._end()
        self.file.unlink(missing_ok=True)

    def state(self) -> State:
        """See `Supervisor`."""
        shown = LAUNCHCTL.ask("print", self._target).stdout
        values = dict(
            re.findall(
                r"^\t(pid|last exit code|last terminating signal) = (.+)$", shown, re.MULTILINE
            )
        )
        code = re.match(r"\d+", values.get("last exit code", ""))
        ended = (
            f"signal {values['last terminating signal']}"
            if "last terminating signal" in values
            else exited(int(code[0]))
            if code
            else ""
        )
        return State(int(values["pid"]) if "pid" in values else None, ended)

    def log_command(self, lines: int, *, is_followed: bool) -> list[str]:
        """See `Supervisor`."""
        follow = ("-F",) if is_followed else ()
        return [TAIL.path, "-n", str(lines), *follow, str(self.output), str(self.log_file)]

    def _end(self) -> None:
        """End the server where one is loaded, and wait until it has ended: the agent cannot be
        loaded again before.

        launchd kills the server after its `ExitTimeOut`, so this ends.
        """
        if not self._is_loaded():
            return
        done = LAUNCHCTL.ask("bootout", self._target)
        if done.returncode not in {0, IN_PROGRESS}:
            raise InvalidRequestError(
                f"launchd does not end {plist.LABEL}: {last_line(done)}", quotes=False
            )
        while self._is_loaded():
            time.sleep(LOOK_SECONDS)

    def _is_loaded(self) -> bool:
        return LAUNCHCTL.ask("print", self._target).returncode == 0


def launchd(directory: Path) -> Launchd:
    """The launchd of the user of this process, for a server that works in a directory."""
    return Launchd(Path.home(), os.getuid(), directory)
