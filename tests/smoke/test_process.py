"""A server as launchd sees it: how it starts, refuses and ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

import semantic_trio
from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.signals import SAME_SECONDS
from tests.process import ANSWER_SECONDS, PROMPT_SECONDS, ServerProcess, run_to_end, serving
from tests.search import sample

# Seconds in which running answers may end after a signal. A busy machine needs some of them to
# answer a health check and a short request.
GRACE_SECONDS = 15
# Seconds in which a busy machine gets done what takes a moment on another.
PATIENCE_SECONDS = 120


def body(max_tokens: int, *, stream: bool = True) -> dict[str, object]:
    return {
        "model": "default",
        "max_tokens": max_tokens,
        "stream": stream,
        "messages": [{"role": "user", "content": "hello"}],
    }


class Reader(threading.Thread):
    """Reads a stream to its end and keeps what came, and whether it ended as HTTP says it
    should.
    """

    def __init__(self, url: str, max_tokens: int, path: str = "/v1/messages") -> None:
        super().__init__(daemon=True)
        self.request = (f"{url}{path}", body(max_tokens))
        self.text, self.broken, self.first = "", False, threading.Event()
        self.start()

    def run(self) -> None:
        url, content = self.request
        try:
            with httpx.stream("POST", url, json=content, timeout=ANSWER_SECONDS) as response:
                for piece in response.iter_text():
                    self.text += piece
                    if "delta" in self.text:
                        self.first.set()
        except httpx.HTTPError:
            self.broken = True


def short_answer(server: ServerProcess) -> httpx.Response:
    return server.post("/v1/messages", json=body(5, stream=False))


def test_sigterm_lets_the_short_finish_ends_the_long_at_the_grace_and_exits_0(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, SEMANTIC_SHUTDOWN_TIMEOUT_SECONDS=str(GRACE_SECONDS)) as server:
        endless, openai_endless = (
            Reader(server.url, 100_000),
            Reader(server.url, 100_000, "/v1/chat/completions"),
        )
        short = Reader(server.url, 20)
        assert all(
            reader.first.wait(PATIENCE_SECONDS) for reader in (endless, openai_endless, short)
        )
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        while server.get("/health/ready").status_code != 503:
            assert time.monotonic() - begun < GRACE_SECONDS, (
                "it is not ready while answers may still end"
            )
        turned_away = short_answer(server)
        assert server.exit_code() == ExitCode.OK
        took = time.monotonic() - begun
        for reader in (endless, openai_endless, short):
            reader.join(PATIENCE_SECONDS)

    assert httpx.codes.SERVICE_UNAVAILABLE == turned_away.status_code
    assert int(turned_away.headers["retry-after"]) >= 1
    assert turned_away.json()["error"]["type"] == "overloaded_error"
    assert took >= GRACE_SECONDS
    assert "event: message_stop" in short.text
    assert not short.broken
    assert "event: error" in endless.text
    assert "overloaded_error" in endless.text
    assert "message_stop" not in endless.text
    assert endless.broken, "a stream that failed ends without the closing chunk"
    assert '"error"' in openai_endless.text
    assert "[DONE]" not in openai_endless.text


def test_an_operator_ends_it_as_sigterm_does(tmp_path: Path) -> None:
    with serving(tmp_path, SEMANTIC_SHUTDOWN_TIMEOUT_SECONDS="1") as server:
        endless = Reader(server.url, 100_000)
        assert endless.first.wait(PATIENCE_SECONDS)
        draining = server.post("/admin/drain")

        assert server.exit_code() == ExitCode.OK
        endless.join(PATIENCE_SECONDS)
    assert (draining.status_code, draining.json()) == (
        httpx.codes.ACCEPTED,
        {"running": 1, "waiting": 0, "timeout_seconds": 1},
    )
    assert "overloaded_error" in endless.text
    assert server.lines("memory is on disk")


def test_the_commands_for_operators_reach_the_server_that_has_the_cache_directory(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server:
        assert not short_answer(server).is_error
        evicted, drained = [
            command_on(tmp_path, *words) for words in (("cache", "evict"), ("drain",))
        ]

        assert server.exit_code() == ExitCode.OK
    assert [line.split("  ")[0] for line in evicted.splitlines()] == [
        "freed",
        "in use",
        "not on disk yet",
    ]
    assert f"server     {server.url}" in drained


def command_on(directory: Path, *words: str) -> str:
    """What a command prints whose cache directory is that of `serving`."""
    environment = os.environ | {"SEMANTIC_CACHE_DIR": str(directory / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "semantic_trio", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=directory,
    )
    assert done.returncode == ExitCode.OK, done.stderr
    return done.stdout


def test_a_later_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        endless = Reader(server.url, 100_000)
        assert endless.first.wait(PATIENCE_SECONDS)
        server.signal(signal.SIGTERM)
        server.until_logged("signal: draining")
        time.sleep(1.1 * SAME_SECONDS)
        server.signal(signal.SIGINT)

        assert server.exit_code(PROMPT_SECONDS) == 128 + signal.SIGINT


@pytest.mark.parametrize(
    "number", sample([signal.SIGTERM, signal.SIGHUP, signal.SIGINT], (signal.SIGHUP,))
)
def test_a_repeated_signal_drains_once(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, SEMANTIC_SHUTDOWN_TIMEOUT_SECONDS="1") as server:
        endless = Reader(server.url, 100_000)
        assert endless.first.wait(PATIENCE_SECONDS)
        server.signal(number)
        server.signal(number)
        server.signal(signal.SIGHUP)

        assert server.exit_code() == ExitCode.OK
        endless.join(PATIENCE_SECONDS)
    assert "event: error" in endless.text
    assert "overloaded_error" in endless.text
    assert server.lines("memory is on disk")


def test_a_server_started_by_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    with serving(tmp_path, within=("nohup",)) as server:
        server.signal(signal.SIGHUP)

        assert not short_answer(server).is_error
        assert not server.lines("signal: draining")
        assert server.end() == ExitCode.OK


def test_a_stop_longer_than_the_deadline_of_a_step_ends_nothing(tmp_path: Path) -> None:
    """Ctrl-Z and `fg`, a debugger, a frozen container: the time in which the process was stopped is
    no time in which a step hung.
    """
    deadline_seconds = 5
    with serving(tmp_path, SEMANTIC_STEP_DEADLINE_SECONDS=str(deadline_seconds)) as server:
        reader = Reader(server.url, 1_000)
        assert reader.first.wait(PATIENCE_SECONDS)
        server.signal(signal.SIGSTOP)
        time.sleep(deadline_seconds + 2)
        server.signal(signal.SIGCONT)
        reader.join(2 * PATIENCE_SECONDS)

        assert "event: message_stop" in reader.text
        assert server.end() == ExitCode.OK


@pytest.mark.parametrize("asked_for", [False, True])
def test_prompts_are_in_the_log_only_when_asked_for(tmp_path: Path, asked_for: bool) -> None:
    with serving(
        tmp_path, "--log-prompts" if asked_for else "--no-log-prompts", "--log-level", "debug"
    ) as server:
        server.post(
            "/v1/messages",
            json=body(3, stream=False) | {"messages": [{"role": "user", "content": "xyzzy"}]},
        )
        server.post("/v1/messages", json={"messages": [{"role": "xyzzy"}]})

        assert ("xyzzy" in server.said) is asked_for
        assert '"request_id"' in server.said


def test_an_idle_server_tells_its_version_and_the_model_it_has_loaded_and_ends_at_once(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server:
        metrics = server.get("/metrics").text
        assert f"In a browser: {server.url}/   To stop: Ctrl-C" in server.said

        assert re.search(
            (
                rf'^semantic_build_info\{{[^}}]*version="{re.escape(semantic_trio.__version__)}'
                rf'"[^}}]*\}} 1\.0$'
            ),
            metrics,
            re.MULTILINE,
        )
        assert server.metric("semantic_model_load_seconds_count") == 1
        assert server.metric("semantic_model_load_seconds_sum") > 0
        assert server.metric("semantic_batch_size_count") > 0, "the warm-up is a pass"
        server.signal(signal.SIGTERM)

        assert server.exit_code(PROMPT_SECONDS) == ExitCode.OK


def test_a_reader_that_is_stuck_does_not_hold_the_shutdown(tmp_path: Path) -> None:
    with serving(
        tmp_path, SEMANTIC_SHUTDOWN_TIMEOUT_SECONDS="1", SEMANTIC_WRITE_TIMEOUT_SECONDS="1"
    ) as server:
        content = json.dumps(body(100_000)).encode()
        stuck = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        stuck.sendall(
            b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
            % len(content)
            + content
        )
        neighbour = Reader(server.url, 50)
        neighbour.join(PATIENCE_SECONDS)
        server.signal(signal.SIGTERM)

        assert server.exit_code(PROMPT_SECONDS) == ExitCode.OK
        assert "message_stop" in neighbour.text
        stuck.close()


def one_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith("semantic-trio: ")]
    assert len(lines) == 1, output
    assert "Traceback" not in output
    return lines[0]


def test_a_port_in_use_is_one_line_and_a_code(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = run_to_end(tmp_path, "--port", str(port))

    assert code == ExitCode.ADDRESS_UNAVAILABLE
    assert f"127.0.0.1:{port}: " in one_line(output)
    assert "--port" in one_line(output)


def test_a_missing_model_is_one_line_and_a_code(tmp_path: Path) -> None:
    code, output = run_to_end(tmp_path, model=str(tmp_path / "nothing"))

    assert code == ExitCode.MODEL_NOT_FOUND
    assert "nothing" in one_line(output)


def test_a_cache_directory_that_cannot_be_written_is_one_line_and_a_code(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, output = run_to_end(tmp_path, "--cache-dir", str(tmp_path / "file"))

    assert code == ExitCode.DIRECTORY_UNWRITABLE
    assert "cache_dir" in one_line(output)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--allow-remote"], "API key"),
        (["--host", "0.0.0.0"], "--allow-remote"),
        (["--max-batch-size", "257"], "max_batch_size"),
        (["--config", "absent.toml"], "absent.toml"),
        (["--kv-bits", "8"], "this model's have 16: set kv_bits = 16"),
    ],
)
def test_settings_that_cannot_be_are_one_line_and_a_code(
    tmp_path: Path, arguments: list[str], word: str
) -> None:
    code, output = run_to_end(tmp_path, *arguments)

    assert code == ExitCode.USAGE
    assert word in one_line(output)


def test_an_address_of_ipv6_is_announced_in_brackets(tmp_path: Path) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with serving(tmp_path, "--host", "::1") as server:
        assert re.fullmatch(r"http://\[::1\]:\d+", server.url)
        assert not server.get("/health/live").is_error


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_too_few_open_files_are_one_line_and_a_code(tmp_path: Path) -> None:
    code, output = run_to_end(tmp_path, within=("prlimit", "--nofile=1000:1000"))

    assert code == ExitCode.USAGE
    assert "4096" in one_line(output)


def test_a_temporary_directory_that_is_not_there_is_one_line_and_a_code(tmp_path: Path) -> None:
    code, output = run_to_end(tmp_path, TMPDIR=str(tmp_path / "nothing"))

    assert code == ExitCode.DIRECTORY_UNWRITABLE
    assert "TMPDIR" in one_line(output)
