"""A program of the system that looks after services, called and waited for."""

import shutil
import subprocess
from collections.abc import Sequence

import attrs

from semantic_trio.domain.errors import InvalidRequestError


@attrs.frozen
class Program:
    """A program by name, and what to do where it is missing."""

    name: str
    cure: str

    @property
    def path(self) -> str:
        """Path of the program. Raises `InvalidRequestError` where there is none."""
        found = shutil.which(self.name)
        if found is None:
            raise InvalidRequestError(f"{self.name} is not on the PATH: {self.cure}", quotes=False)
        return found

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the program, whatever its exit code."""
        return subprocess.run([self.path, *arguments], capture_output=True, text=True, check=False)

    def do(self, *arguments: str) -> None:
        """Run the program. Raises `InvalidRequestError` with its last line where it fails."""
        if (done := self.ask(*arguments)).returncode:
            raise InvalidRequestError(
                f"`{self.name} {' '.join(arguments)}` failed: {last_line(done)}", quotes=False
            )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Last line that a program has written, else its exit code."""
    lines: Sequence[str] = [
        line for line in (done.stdout + done.stderr).splitlines() if line.strip()
    ]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"
