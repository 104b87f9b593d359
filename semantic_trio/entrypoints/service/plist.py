"""The property list of the launchd agent: a plan, written and read again."""

import plistlib
from pathlib import Path

from semantic_trio.entrypoints.service.plan import Plan

LABEL = "com.semantic.server"
# Seconds between two starts, at least. launchd cannot tell a wrong setting from a crash, and tries
# again for ever: twice a minute, not six times.
THROTTLE_SECONDS = 30
# Permissions that no file of the server has: what it writes is its user's alone.
PRIVATE = 0o077


def render(plan: Plan, output: Path) -> bytes:
    """Return the property list; what the server prints outside of its log goes to `output`."""
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": list(plan.command),
            "WorkingDirectory": str(plan.directory),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": THROTTLE_SECONDS,
            "ExitTimeOut": plan.stop_seconds,
            "ProcessType": "Interactive",  # others get less of the processors, and of the disk
            "Umask": PRIVATE,
            "StandardOutPath": str(output),
            "StandardErrorPath": str(output),
        },
        sort_keys=False,
    )


def command(content: bytes) -> list[str]:
    """The command of a property list that `render` has made."""
    return [str(argument) for argument in plistlib.loads(content)["ProgramArguments"]]
