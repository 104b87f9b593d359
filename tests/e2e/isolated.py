"""Clients as a user without an account has them: fetched once, then run in a home of their own,
where nothing of this machine's user is seen.

Knows npm and venv. Knows nothing of any one client.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import filelock
import platformdirs
import pytest

ROOT = Path(platformdirs.user_cache_dir("semantic_trio_tests"))
INSTALL_SECONDS, RUN_SECONDS = 600.0, 300.0


def from_npm(name: str, package: str, version: str, program: str) -> Path:
    """The program of a package, by its pattern under `node_modules`: npm is often told to run no
    scripts, so the platform's own is taken.
    """
    if shutil.which("npm") is None:
        pytest.fail(
            f"npm is not on the PATH: the tests with the real {name} need Node.js 18 or later "
            "(https://nodejs.org)"
        )
    install = ["npm", "install", "--no-audit", "--no-fund", f"{package}@{version}"]
    return _fetched(
        ROOT / name / version, f"node_modules/{program}", ["npm", "init", "-y"], install
    )


def from_pypi(name: str, version: str, program: str) -> Path:
    """The program of a package, in an environment of its own."""
    directory = ROOT / name / version
    install = [
        str(directory / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        f"{name}=={version}",
    ]
    return _fetched(
        directory, f"bin/{program}", [sys.executable, "-m", "venv", str(directory)], install
    )


def _fetched(directory: Path, program: str, *commands: Sequence[str]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory / ".lock", timeout=INSTALL_SECONDS):
        for command in commands if not [*directory.glob(program)] else ():
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS
            )
            if done.returncode:
                pytest.fail(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    found = sorted(directory.glob(program))
    if not found:
        pytest.fail(f"{directory} holds no {program} that runs on this platform")
    return found[0]


@attrs.frozen
class Printed:
    """What a run has left."""

    out: str
    errors: str


@attrs.frozen
class Isolated:
    """A client in one project. Runs in a row share the home, and so the history."""

    program: Path
    home: Path
    project: Path
    # environment variables; of the real ones it gets the PATH alone
    settings: Mapping[str, str] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.project.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(parents=True, exist_ok=True)

    def configure(self, path: str, text: str) -> None:
        """Write a file into the home."""
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        """All it gets to see."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            **self.settings,
        }

    def run(self, *arguments: str) -> Printed:
        """One run, to its end, which has to be a good one."""
        done = subprocess.run(
            [str(self.program), *arguments],
            env=self.environment,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
        assert done.returncode == 0, (
            f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        return Printed(done.stdout, done.stderr)
