"""The systemd user unit: a plan, written and read again."""

import re
import shlex
import signal

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.service.plan import Plan

NAME = "semantic-trio.service"
# Ends that a new start cannot mend.
FINAL = (ExitCode.USAGE, ExitCode.MODEL_NOT_FOUND, ExitCode.DIRECTORY_UNWRITABLE)
# Ends at once that a person asked for by a second signal.
ASKED_FOR = (128 + signal.SIGINT, 128 + signal.SIGTERM)
EXEC = "ExecStart=:"  # the colon keeps `$` in arguments as it is
# Words that mean the same with and without quotes.
PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
UNIT = """\
[Unit]
Description=semantic-trio, a local inference server
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=simple
{exec}{command}
WorkingDirectory={directory}
EnvironmentFile=-{environment}
UMask=0077
Restart=on-failure
RestartSec=5
RestartPreventExitStatus={final}
SuccessExitStatus={asked_for}
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec={stop_seconds}
StandardOutput=journal
StandardError=journal

[Install]
WantedBy=default.target
"""


def render(plan: Plan) -> str:
    """Return the text of the unit.

    Raises `InvalidRequestError` for an argument that no unit can hold.
    """
    return UNIT.format(
        exec=EXEC,
        command=" ".join(map(_quoted, plan.command)),
        directory=_literal(str(plan.directory)),
        environment=_literal(str(plan.environment_file)),
        final=" ".join(str(int(code)) for code in FINAL),
        asked_for=" ".join(map(str, ASKED_FOR)),
        stop_seconds=plan.stop_seconds,
    )


def command(text: str) -> list[str]:
    """The command of a unit that `render` has made."""
    line = next(line for line in text.splitlines() if line.startswith(EXEC))
    return shlex.split(line.removeprefix(EXEC).replace("%%", "%"))


def _quoted(argument: str) -> str:
    literal = _literal(argument)
    if PLAIN.fullmatch(literal):
        return literal
    escaped = literal.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _literal(text: str) -> str:
    """Return a text without specifiers, as systemd calls what begins with `%`."""
    if not text.isprintable():
        raise InvalidRequestError(
            f"{text!r} cannot stand in a systemd unit: it has control characters", quotes=False
        )
    return text.replace("%", "%%")
