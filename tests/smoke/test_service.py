"""What a service manager would run, run as it would: the command, the directory and the environment
of the file it gets, and nothing else.
"""

import os
import plistlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.service import environment, plist, unit
from semantic_trio.entrypoints.service.files import PRIVATE, write
from semantic_trio.entrypoints.service.plan import make_plan
from tests.process import ANSWER_SECONDS, ServerProcess

# Of the test's environment: what finds Python's packages and compilers, and no setting.
INHERITED = ("HOME", "PATH", "PYTHONPATH", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files of a service whose paths are hard to quote."""
    directory, cache = tmp_path / '50% of it\'s "home"', tmp_path / "a cache"
    directory.mkdir()
    monkeypatch.setenv("SEMANTIC_CACHE_DIR", str(cache))
    options = {"model_id": "tiny-random", "port": "0", "api_key": 'hush "$1"'}
    made = make_plan(None, options, directory, directory / "logs" / "server.log")
    write(made.environment_file, environment.updated("", made.variables), PRIVATE)
    write(directory / unit.NAME, unit.render(made), 0o644)
    write(directory / "agent.plist", plist.render(made, directory / "output.log").decode(), 0o644)
    monkeypatch.delenv("SEMANTIC_CACHE_DIR")
    return directory


@pytest.fixture(params=["systemd", "launchd"])
def started(request: pytest.FixtureRequest, files: Path) -> Iterator[ServerProcess]:
    """The server, as either service manager starts it; killed at the end if it still runs."""
    if request.param == "systemd":
        command, output = unit.command((files / unit.NAME).read_text()), files / "output.log"
    else:
        agent = plistlib.loads((files / "agent.plist").read_bytes())
        command, output = agent["ProgramArguments"], Path(agent["StandardOutPath"])
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=files,
            env=inherited,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        server = ServerProcess(process, output)
        server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_the_server_of_a_service_answers_with_its_settings_and_ends_well(
    started: ServerProcess, files: Path
) -> None:
    key = {"x-api-key": 'hush "$1"'}

    assert started.get("/health/ready").status_code == httpx.codes.OK
    assert started.get("/v1/models").status_code == httpx.codes.UNAUTHORIZED
    listed = httpx.get(f"{started.url}/v1/models", headers=key, timeout=ANSWER_SECONDS)
    assert [model["id"] for model in listed.json()["data"]] == ["tiny-random"]
    assert started.end() == ExitCode.OK

    assert '"memory is on disk"' in (files / "logs" / "server.log").read_text()
    assert '"event"' not in started.said
    assert (files.parent / "a cache").is_dir()
