"""A real server whose device misbehaves: the step is replaced, everything else is the process that
users run.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from semantic_trio.entrypoints.exits import ExitCode
from tests.process import ANSWER_SECONDS, ServerProcess

BROKEN = """
import sys, time
from semantic_trio.adapters.mlx.runner import DeviceRows
plain = DeviceRows.step
bad = lambda plan: any(40 < len(chunk.tokens) < 90 for chunk in plan.prefill)
def raising(self, plan):
    if bad(plan):
        raise RuntimeError("no memory left")
    return plain(self, plan)
def hanging(self, plan):
    if bad(plan):
        time.sleep(1e6)
    return plain(self, plan)
DeviceRows.step = {"raising": raising, "hanging": hanging}[sys.argv.pop(1)]
from semantic_trio.entrypoints.cli import main
main()
"""


@contextlib.contextmanager
def broken_server(directory: Path, how: str, *arguments: str) -> Iterator[ServerProcess]:
    """A server whose device does not survive prompts of 41 to 89 tokens."""
    output = directory / "server.log"
    options = [
        "serve",
        "--model",
        "tiny-random",
        "--port",
        "0",
        "--log-format",
        "json",
        "--cache-dir",
        str(directory / "cache"),
        *arguments,
    ]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", BROKEN, how, *options], stdout=file, stderr=subprocess.STDOUT
        )
    server = ServerProcess(process, output)
    try:
        server.wait_until_ready()
        yield server
    finally:
        process.kill()
        process.wait()


def ask(server: ServerProcess, words: int, *, stream: bool = False) -> httpx.Response:
    messages = [{"role": "user", "content": "word " * words}]
    body = {"model": "default", "max_tokens": 5, "stream": stream, "messages": messages}
    return server.post("/v1/messages", json=body)


def read_until_dropped(server: ServerProcess, words: int) -> str:
    text = ""
    body = {
        "model": "default",
        "max_tokens": 5,
        "stream": True,
        "messages": [{"role": "user", "content": "word " * words}],
    }
    with httpx.stream(
        "POST", f"{server.url}/v1/messages", json=body, timeout=ANSWER_SECONDS
    ) as response:
        pieces = response.iter_text()
        with contextlib.suppress(httpx.RemoteProtocolError):
            for piece in pieces:
                text += piece
            return text + "(a clean end)"
    return text


def test_a_step_that_raises_costs_its_requests_and_no_more(tmp_path: Path) -> None:
    with broken_server(tmp_path, "raising") as server:
        streamed = read_until_dropped(server, 50)
        good = ask(server, 3)
        plain = ask(server, 50)
        still = ask(server, 3)
        ready = server.get("/health/ready")

    assert "event: error" in streamed
    assert '"api_error"' in streamed
    assert "message_stop" not in streamed
    assert "(a clean end)" not in streamed
    assert plain.status_code == 500
    assert plain.json()["error"]["type"] == "api_error"
    assert (good.status_code, still.status_code, ready.status_code) == (200, 200, 200)


def test_three_in_a_row_end_the_process_with_one_clear_line(tmp_path: Path) -> None:
    with broken_server(tmp_path, "raising") as server:
        for _ in range(3):
            assert ask(server, 50).status_code in (500, 503)
        code = server.exit_code()

    lines = [line for line in server.said.splitlines() if line.startswith("semantic-trio: ")]
    assert code == ExitCode.ENGINE_DIED
    assert lines == [
        (
            "semantic-trio: the engine ended: 3 steps in a row failed, the last one with: "
            "RuntimeError: no memory left"
        )
    ]


def test_a_step_that_hangs_fails_its_streams_and_ends_the_process(tmp_path: Path) -> None:
    with broken_server(tmp_path, "hanging", "--step-deadline-seconds", "2") as server:
        begun = time.monotonic()
        streamed = read_until_dropped(server, 50)
        code = server.exit_code()
        took = time.monotonic() - begun

    assert "event: error" in streamed
    assert code == ExitCode.ENGINE_DIED
    assert took >= 2
    assert "a step hung for" in server.said
