"""systemd, asked through `systemctl --user`."""

import os
import re
from pathlib import Path

import attrs

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.service import unit
from semantic_trio.entrypoints.service.files import PUBLIC, write
from semantic_trio.entrypoints.service.plan import Plan
from semantic_trio.entrypoints.service.supervisor import State, exited
from semantic_trio.entrypoints.service.tool import Program, last_line

OTHERWISE = (
    "run `semantic-trio serve` itself; `semantic-trio service install --print` prints the unit for "
    "a systemd elsewhere"
)
SYSTEMCTL = Program("systemctl", OTHERWISE)
JOURNALCTL = Program("journalctl", OTHERWISE)
NO_SESSION = (
    "log in as this user (not by su or sudo), or `loginctl enable-linger` and set "
    f"XDG_RUNTIME_DIR; in a container {OTHERWISE}"
)

# Properties of a unit: the process, and how the one before ended (0: there was none; `CLD_EXITED`;
# others are signals), with its exit code or signal.
SHOWN = ("MainPID", "ExecMainCode", "ExecMainStatus")
EXITED = int(os.CLD_EXITED)


@attrs.frozen
class Systemd:
    """The systemd of one user."""

    config: Path  # the user's directory of configuration: ~/.config
    directory: Path
    log_file: None = None  # the journal has the log, and rotates it
    remark: str = (
        "it runs while you are logged in; to have it run from boot on: loginctl enable-linger"
    )

    @property
    def file(self) -> Path:
        """See `Supervisor`."""
        return self.config / "systemd" / "user" / unit.NAME

    def render(self, plan: Plan) -> str:
        """See `Supervisor`."""
        return unit.render(plan)

    def command(self, content: str) -> list[str]:
        """See `Supervisor`."""
        return unit.command(content)

    def check(self) -> None:
        """See `Supervisor`."""
        if (done := SYSTEMCTL.ask("--user", "show", "--property=Version")).returncode:
            raise InvalidRequestError(
                f"systemd has no session of this user ({last_line(done)}): {NO_SESSION}",
                quotes=False,
            )

    def install(self, content: str) -> None:
        """See `Supervisor`."""
        write(self.file, content, PUBLIC)
        SYSTEMCTL.do("--user", "daemon-reload")
        SYSTEMCTL.do("--user", "enable", unit.NAME)
        SYSTEMCTL.ask("--user", "reset-failed", unit.NAME)  # fails where nothing has failed
        SYSTEMCTL.do("--user", "restart", unit.NAME)

    def uninstall(self) -> None:
        """See `Supervisor`."""
        SYSTEMCTL.do("--user", "disable", "--now", unit.NAME)
        self.file.unlink(missing_ok=True)
        SYSTEMCTL.do("--user", "daemon-reload")
        SYSTEMCTL.ask("--user", "reset-failed", unit.NAME)

    def state(self) -> State:
        """See `Supervisor`."""
        shown = SYSTEMCTL.ask("--user", "show", f"--property={','.join(SHOWN)}", unit.NAME).stdout
        values = {
            name: int(value) for name, value in re.findall(r"^(\w+)=(\d+)$", shown, re.MULTILINE)
        }
        pid, way, status = (values.get(name, 0) for name in SHOWN)
        ended = {0: "", EXITED: exited(status)}.get(way, f"signal {status}")
        return State(pid or None, ended)

    def log_command(self, lines: int, *, is_followed: bool) -> list[str]:
        """See `Supervisor`."""
        follow = ("--follow",) if is_followed else ()
        return [
            JOURNALCTL.path,
            "--user",
            "--unit",
            unit.NAME,
            "--lines",
            str(lines),
            "--output",
            "cat",
            "--no-pager",
            *follow,
        ]


def systemd(directory: Path) -> Systemd:
    """The systemd of the user of this process, for a server that works in a directory."""
    return Systemd(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"), directory)
