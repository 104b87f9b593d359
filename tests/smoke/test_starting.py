"""A server process answers from the moment it has its port: it lives while its model is loaded, and
is ready afterwards.
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from semantic_trio.entrypoints.exits import ExitCode
from tests.process import ServerProcess

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


def statuses(server: ServerProcess) -> list[int]:
    return [server.get(f"/health/{probe}").status_code for probe in ("live", "startup", "ready")]


def test_a_server_is_live_while_its_model_is_loaded_and_ready_afterwards(tmp_path: Path) -> None:
    output, permission = tmp_path / "server.log", tmp_path / "go on"
    options = [
        "serve",
        "--model",
        "tiny-random",
        "--port",
        "0",
        "--log-format",
        "json",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", WAITING, str(permission), *options],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    server = ServerProcess(process, output)
    try:
        server.until_logged("listening, and loading the model")
        [line] = server.lines("listening, and loading the model")
        server.url = f"http://127.0.0.1:{line['port']}"
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
    finally:
        process.kill()
        process.wait()

    assert before == [200, 503, 503]
    assert health == {"status": "unavailable", "state": "loading the model"}
    assert (refused.status_code, refused.json()["error"]["type"]) == (
        httpx.codes.SERVICE_UNAVAILABLE,
        "overloaded_error",
    )
    assert after == [200, 200, 200]
    assert code == ExitCode.OK


def test_importing_the_tokenizers_writes_no_advice_about_packages_that_the_server_does_not_use() -> (
    None
):
    command = [sys.executable, "-c", "import semantic_trio.adapters.text.loading"]
    done = subprocess.run(
        command, env={**os.environ, "CI": "true"}, capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == ("", "")
