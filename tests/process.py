"""A real server process on a free port, for tests that need one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx

START_SECONDS = 300.0
# Seconds in which a server on a busy machine answers.
ANSWER_SECONDS = 120.0
# Seconds in which a server on a busy machine ends at once: less than what running answers get to
# end in (`shutdown_timeout_seconds`).
PROMPT_SECONDS = 20.0
URL = re.compile(r" serves .+ on (http://(?:127\.0\.0\.1|\[::1\]):\d+)$", re.MULTILINE)
# A row that has ended is closed with the next step, and what it leaves is ordered to be written
# after that: so long nothing has to be waiting.
QUIET_SECONDS = 0.3


@attrs.define(eq=False)
class ServerProcess:
    """A server and what it has written."""

    process: subprocess.Popen[bytes]
    output: Path
    url: str = ""

    def wait_until_ready(self) -> None:
        """Wait for the line that names the URL.

        Raises with the whole output when the process ends before.
        """
        deadline = time.monotonic() + START_SECONDS
        while not (found := URL.search(self.said)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"the server did not start ({self.process.poll()}):\n{self.said}"
                )
            time.sleep(0.05)
        self.url = found[1]

    @property
    def said(self) -> str:
        """Everything on standard output and standard error so far."""
        return self.output.read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event."""
        found = [
            json.loads(line)
            for line in self.said.splitlines()
            if line.startswith("{") and line.endswith("}")
        ]
        return [line for line in found if line["event"] == event]

    def until_logged(self, event: str, seconds: float = ANSWER_SECONDS) -> None:
        """Wait until a line of an event is in the log."""
        deadline = time.monotonic() + seconds
        while not self.lines(event):
            assert time.monotonic() < deadline, f"{event!r} is not in the log after {seconds:.0f} s"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def exit_code(self, seconds: float = ANSWER_SECONDS) -> int:
        """Wait for the end."""
        return self.process.wait(seconds)

    def resident_bytes(self) -> int:
        """Memory the process has in use. Linux only."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def get(self, path: str) -> httpx.Response:
        """Answer to a GET, however busy the machine is."""
        return httpx.get(f"{self.url}{path}", timeout=ANSWER_SECONDS)

    def post(self, path: str, json: object = None) -> httpx.Response:
        """Answer to a POST of a JSON body, however busy the machine is."""
        return httpx.post(f"{self.url}{path}", json=json, timeout=ANSWER_SECONDS)

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        text = self.get("/metrics").text
        found = re.search(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        assert found, f"{name} is not among the metrics"
        return float(found[1])

    def until_empty(self, seconds: float = ANSWER_SECONDS) -> float:
        """Wait until no request has a row or waits for one; the seconds it took."""
        begun = time.monotonic()
        while self.metric("semantic_rows") or self.metric("semantic_request_queue_depth"):
            assert time.monotonic() - begun < seconds, "the engine did not empty"
            time.sleep(0.02)
        return time.monotonic() - begun

    def until(self, name: str, value: float, seconds: float = ANSWER_SECONDS) -> None:
        """Wait until a metric without labels has a value."""
        deadline = time.monotonic() + seconds
        while (found := self.metric(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {found} after {seconds:.0f} s"
            time.sleep(0.02)

    def until_written(self, seconds: float = ANSWER_SECONDS) -> None:
        """Wait until everything that was answered is on disk."""
        self.until_empty(seconds)
        deadline, since = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS:
            assert time.monotonic() < deadline, f"not everything is on disk after {seconds:.0f} s"
            time.sleep(0.02)
            if self.metric("semantic_disk_waiting"):
                since = time.monotonic()

    def end(self) -> int:
        """SIGTERM, and the exit code that comes of it."""
        self.signal(signal.SIGTERM)
        return self.exit_code()


def command(*arguments: str, model: str = "tiny-random") -> list[str]:
    return [
        sys.executable,
        "-m",
        "semantic_trio",
        "serve",
        "--model",
        model,
        "--port",
        "0",
        "--log-format",
        "json",
        *arguments,
    ]


@contextlib.contextmanager
def _hearing_hangups() -> Iterator[None]:
    """Inside, a process that is started hears SIGHUP, also where the tests were started by nohup:
    who ignores it has its children ignore it.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def serving(
    directory: Path,
    *arguments: str,
    model: str = "tiny-random",
    cache: Path | None = None,
    within: tuple[str, ...] = (),
    **environment: str,
) -> Iterator[ServerProcess]:
    """A server that is ready; killed at the end if it still runs.

    `within` is what its command is prefixed with.
    """
    output = directory / "server.log"
    with output.open("wb") as file, _hearing_hangups():
        process = subprocess.Popen(
            [
                *within,
                *command("--cache-dir", str(cache or directory / "cache"), *arguments, model=model),
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            cwd=directory,
        )
    server = ServerProcess(process, output)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def run_to_end(
    directory: Path,
    *arguments: str,
    model: str = "tiny-random",
    seconds: float = START_SECONDS,
    within: tuple[str, ...] = (),
    **environment: str,
) -> tuple[int, str]:
    """Start a server that is expected to refuse: its exit code and its output.

    `within` is what its command is prefixed with.
    """
    done = subprocess.run(
        [*within, *command(*arguments, model=model)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=os.environ | environment,
        cwd=directory,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
