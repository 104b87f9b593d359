"""The commit of the checkout that a package is part of, as git tells it."""

import os
import shutil
import subprocess
from pathlib import Path

import semantic_trio

PACKAGE = Path(semantic_trio.__file__).parent
# Git reads the working tree to see changes: seconds on a slow file system, for ever on a network
# that is gone.
GIT_SECONDS = 5.0


def commit(package: Path = PACKAGE) -> str:
    """Return the commit of the checkout of a package, with `-dirty` if that was changed; empty if
    the package is installed or git does not say.
    """
    git = shutil.which("git")
    if (
        git is None
        or _output(git, "-C", str(package), "ls-files", "--error-unmatch", "__init__.py") is None
    ):
        return ""  # installed: the repository around it, if there is one, is another project's
    return (
        _output(
            git, "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"
        )
        or ""
    )


def _output(*command: str) -> str | None:
    """Return what a git command prints; None if it fails.

    It takes no lock: someone may commit at this moment.
    """
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=GIT_SECONDS,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
