"""The command `bench` on real servers."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from semantic_trio.entrypoints.bench.bare import BareBatch, Job, run_bare
from semantic_trio.entrypoints.bench.results import Report
from semantic_trio.entrypoints.bench.run import NO_NEIGHBOURS
from tests.process import ServerProcess

COMMAND = [sys.executable, "-m", "semantic_trio", "bench"]
LITTLE = ["--streams", "1,2", "--tokens", "8", "--words", "300", "--rounds", "1", "--seed", "7"]


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where temporary files go: of all tests, for MLX keeps there what it has compiled."""
    return tmp_path_factory.mktemp("temporary")


@contextlib.contextmanager
def started(directory: Path, temporary: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A benchmark in a process group of its own; the whole group is killed at the end."""
    process = subprocess.Popen(
        [*COMMAND, *LITTLE, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=os.environ | {"TMPDIR": str(temporary)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def assert_nothing_is_left(process: subprocess.Popen[str], temporary: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert list(temporary.glob("semantic-trio-bench-*")) == []


def test_everything_is_measured_and_nothing_is_left(tmp_path: Path, temporary: Path) -> None:
    with started(
        tmp_path,
        temporary,
        "--model",
        "tiny-random",
        "--max-batch-size",
        "6",
        "--disk-floor-mb",
        "1",
        "--json",
        "out.json",
    ) as process:
        output, progress = process.communicate(timeout=500)

        assert process.returncode == 0, progress
        found = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=Report)
        [measured] = found.rounds
        assert (set(measured.served), set(measured.bare)) == ({1, 2}, {1, 2}), found.notes
        assert measured.served[2].tokens == measured.bare[2].tokens == 16
        assert measured.turns.cold.cached_tokens < 256 < measured.turns.next.cached_tokens
        assert measured.turns.restarted is not None
        assert measured.turns.restarted.cached_tokens > measured.turns.next.cached_tokens
        # on a busy machine a stream may be ahead of the others
        assert measured.neighbours or NO_NEIGHBOURS in found.notes
        assert (found.model, found.url, found.settings["max_batch_size"]) == (
            "tiny-random",
            "",
            "6",
        )
        assert found.machine.device
        assert all(
            f"\n{row} " in output for row in ("1 stream", "2 streams", "next turn after a restart")
        )
        assert "round 1 of 1: 2 streams" in progress
        assert_nothing_is_left(process, temporary)


def test_a_running_server_is_measured_and_goes_on(
    tmp_path: Path, temporary: Path, tiny_server: ServerProcess
) -> None:
    with started(tmp_path, temporary, "--url", tiny_server.url, "--json", "out.json") as process:
        _, progress = process.communicate(timeout=500)

        assert process.returncode == 0, progress
        found = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=Report)
        assert (found.model, found.url, found.settings) == ("tiny-random", tiny_server.url, {})
        assert (found.rounds[0].bare, found.rounds[0].turns.restarted) == ({}, None)
        assert "the bare engine was not run: the server at --url keeps its memory" in found.notes
        assert tiny_server.process.poll() is None
        assert_nothing_is_left(process, temporary)


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "starting a server"), (signal.SIGINT, "round 1 of 1: 1 stream")],
)
def test_a_signal_leaves_no_server_behind(
    tmp_path: Path, temporary: Path, number: signal.Signals, moment: str
) -> None:
    with started(tmp_path, temporary, "--model", "tiny-random") as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith(moment):
            assert process.poll() is None

        process.send_signal(number)
        _, rest = process.communicate(timeout=500)

        assert process.returncode == 128 + number
        assert f"semantic-trio: ended by {number.name}" in rest
        assert_nothing_is_left(process, temporary)


def test_a_server_that_does_not_start_says_why(tmp_path: Path, temporary: Path) -> None:
    with started(tmp_path, temporary, "--model", "tiny-random", "--allow-remote") as process:
        _, said = process.communicate(timeout=500)

        assert process.returncode == 2
        assert said.splitlines()[-1] == (
            "semantic-trio: server: did not start: allow_remote: needs an API key "
            "(--api-key-file or SEMANTIC_API_KEY)"
        )
        assert_nothing_is_left(process, temporary)


async def test_a_model_that_the_bare_engine_cannot_load_is_told(tmp_path: Path) -> None:
    outcome = await run_bare(Job(str(tmp_path), ()))
    assert outcome.device

    (tmp_path / "config.json").write_text("{}")
    outcome = await run_bare(Job(str(tmp_path), (BareBatch(("hello",), 4),)))
    assert "No safetensors found" in outcome.problem
    assert outcome.throughput == ()
