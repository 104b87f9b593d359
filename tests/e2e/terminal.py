"""A terminal for clients that draw on one: keys go in, and what the screen shows is waited for.

Knows tmux, which keeps the screen. Knows nothing of any one client.
"""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import pytest

from tests.e2e.isolated import RUN_SECONDS

COLUMNS, LINES = 150, 50
LOOK_SECONDS = 0.05
COMMAND_SECONDS = 30.0


@attrs.frozen
class Terminal:
    """One program in one terminal."""

    _socket: Path

    def type(self, text: str) -> None:
        """Type a text."""
        self._tmux("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Press keys, by their names in tmux: Enter, Escape, BTab, C-u."""
        self._tmux("send-keys", *keys)

    def paste(self, text: str) -> None:
        """Paste a text, marked as pasted where the program asks for that."""
        self._tmux("set-buffer", "--", text)
        self._tmux("paste-buffer", "-p")

    def say(self, text: str) -> None:
        """Type a line, and send it when it is on the screen: an Enter that comes with the text is
        taken for a part of it.
        """
        self.type(text)
        self.shows(text)
        self.press("Enter")

    @property
    def screen(self) -> str:
        """The text that is on the screen."""
        return self._tmux("capture-pane", "-p")

    def shows(self, text: str) -> None:
        """Wait until a text is on the screen."""
        self.until(lambda: text in self.screen, f"{text!r} on the screen")

    def until(self, condition: Callable[[], bool], wanted: str) -> None:
        """Wait for a condition. Fails with the screen after the time a run may take."""
        deadline = time.monotonic() + RUN_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"no {wanted} after {RUN_SECONDS:.0f} s:\n{self.screen}")
            time.sleep(LOOK_SECONDS)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self._socket), "-f", "/dev/null", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


@contextlib.contextmanager
def terminal(
    command: Sequence[str], environment: Mapping[str, str], directory: Path
) -> Iterator[Terminal]:
    """A terminal in which a program runs; of the environment of this process it sees nothing.

    Both are ended with the block.
    """
    if shutil.which("tmux") is None:
        pytest.fail(
            "tmux is not on the PATH: the tests of interactive clients need it (apt-get install "
            "tmux, or brew install tmux)"
        )
    seen = [f"{name}={value}" for name, value in {**environment, "TERM": "screen-256color"}.items()]
    # the path of a socket has to be short
    with tempfile.TemporaryDirectory(prefix="tmux-") as sockets:
        started = Terminal(Path(sockets) / "socket")
        size = ("-x", str(COLUMNS), "-y", str(LINES))
        # The screen of a program that has ended stays readable: it tells why.
        started._tmux(
            "new-session",
            "-d",
            *size,
            "-c",
            str(directory),
            "cat",
            ";",
            "set-option",
            "remain-on-exit",
            "on",
        )
        try:
            started._tmux("respawn-pane", "-k", "-c", str(directory), "env", "-i", *seen, *command)
            yield started
        finally:
            started._tmux("kill-server")
