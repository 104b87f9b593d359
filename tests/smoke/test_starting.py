"""A server process answers from the moment it has its port: it lives while its model is loaded, and
is ready afterwards.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from semantic_trio.entrypoints.exits import ExitCode
from tests.process import PROMPT_SECONDS, ServerProcess

# A server whose tokenizer is not loaded before a file exists.
WAITING = """
import pathlib, sys, time
import semantic_trio.entrypoints.model_host as host
load_codec, permission = host.load_codec, pathlib.Path(sys.argv.pop(1))
def load_later(*arguments):
    while not permission.exists():
        time.sleep(0.05)
    return load_codec(*arguments)
host.load_codec = load_later
from semantic_trio.entrypoints.cli import main
main()
"""


# A server whose model has always another piece of weights to compute, or which never ends to warm up.
NEVER_LOADED = """
import time
from semantic_trio.adapters.mlx.loading import Loading
def advance(loading):
    time.sleep(0.01)
    return True
Loading.advance = advance
from semantic_trio.entrypoints.cli import main
main()
"""
NEVER_WARM = """
import trio
import semantic_trio.entrypoints.model_host as host
async def warm_up(engine, codec):
    await trio.sleep_forever()
host._warm_up = warm_up
from semantic_trio.entrypoints.cli import main
main()
"""


@contextlib.contextmanager
def starting(directory: Path, program: str, *arguments: str) -> Iterator[ServerProcess]:
    """A server with an altered start, from when it has its port; killed at the end if it still
    runs.
    """
    output = directory / "server.log"
    options = ["--port", "0", "--log-format", "json", "--cache-dir", str(directory / "cache")]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                program,
                *arguments,
                "serve",
                "--model",
                "tiny-random",
                *options,
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    server = ServerProcess(process, output)
    try:
        server.until_logged("listening, and loading the model")
        [line] = server.lines("listening, and loading the model")
        server.url = f"http://127.0.0.1:{line['port']}"
        yield server
    finally:
        process.kill()
        process.wait()


def statuses(server: ServerProcess) -> list[int]:
    return [server.get(f"/health/{probe}").status_code for probe in ("live", "startup", "ready")]


def test_a_server_is_live_while_its_model_is_loaded_and_ready_afterwards(tmp_path: Path) -> None:
    permission = tmp_path / "go on"
    with starting(tmp_path, WAITING, str(permission)) as server:
        before, health = statuses(server), server.get("/health/ready").json()
        refused = server.post(
            "/v1/messages",
            json={
                "model": "default",
                "max_tokens": 5,
                "messages": [{"role": "user", "content": "hello"}],
            },
        )
        permission.touch()
        server.wait_until_ready()
        after, code = statuses(server), server.end()

    assert before == [200, 503, 503]
    assert health == {"status": "unavailable", "state": "loading the model"}
    assert (refused.status_code, refused.json()["error"]["type"]) == (
        httpx.codes.SERVICE_UNAVAILABLE,
        "overloaded_error",
    )
    assert after == [200, 200, 200]
    assert code == ExitCode.OK


@pytest.mark.parametrize(
    ("program", "phase"), [(NEVER_LOADED, "loading the model"), (NEVER_WARM, "warming up")]
)
def test_a_signal_while_the_model_is_loaded_ends_the_server(
    tmp_path: Path, program: str, phase: str
) -> None:
    with starting(tmp_path, program) as server:
        while server.get("/health/ready").json()["state"] != phase:
            assert server.process.poll() is None, server.said
        server.signal(signal.SIGTERM)
        code = server.exit_code(PROMPT_SECONDS)
        said = server.said

    assert code == ExitCode.OK
    assert "Traceback" not in said
    assert " serves " not in said, "it was never ready"


def test_importing_the_tokenizers_writes_no_advice_about_packages_that_the_server_does_not_use() -> (
    None
):
    command = [sys.executable, "-c", "import semantic_trio.adapters.text.loading"]
    done = subprocess.run(
        command, env={**os.environ, "CI": "true"}, capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == ("", "")
