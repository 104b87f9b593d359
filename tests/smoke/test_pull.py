"""Models that are pulled from a Hub by the command line: whole, broken off, and refused."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import attrs
import pytest

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.entrypoints import settings_loading
from semantic_trio.entrypoints.exits import ExitCode
from tests.hub import WEIGHTS, Hub, hub_of, sha256
from tests.ports import free_port
from tests.process import ANSWER_SECONDS, serving
from tests.small_disk import SmallDisk, small_disk
from tests.talk import ask

NAME = "org/tiny"
# huggingface_hub writes a file in pieces of so many bytes: what a connection has brought of the
# next piece when it breaks is lost.
PIECE = 10 << 20
MIDDLE = PIECE + 1000


@pytest.fixture(scope="session")
def tiny() -> Path:
    return open_catalogue(settings_loading.load({}).settings.data_dir).ensure(
        "tiny-random", Lines()
    )


@pytest.fixture
def hub(tiny: Path) -> Iterator[Hub]:
    with hub_of(tiny, NAME) as hub:
        yield hub


@attrs.frozen
class Machine:
    """A home without models, whose Hub is another."""

    home: Path
    hub_url: str
    within: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "HF_HOME": str(self.home / "hf"),
            "HF_ENDPOINT": self.hub_url,
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "SEMANTIC_DATA_DIR": str(self.home / "data"),
            "TQDM_POSITION": "-1",  # huggingface_hub draws its bars where there is no terminal too
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.within, sys.executable, "-m", "semantic_trio", "models", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | self.environment,
        )

    def models(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of `semantic-trio models`."""
        process = self.start(*arguments)
        said, errors = process.communicate(timeout=ANSWER_SECONDS)
        return process.returncode, said, errors

    def pulled(self) -> Path:
        code, said, errors = self.models("pull", NAME)
        assert code == ExitCode.OK, errors
        return Path(said.strip())

    def fault(self, *arguments: str) -> str:
        """The one line of a command that fails; raises if it ends in another way."""
        code, said, errors = self.models(*(arguments or ("pull", NAME)))
        assert (code, said) == (ExitCode.MODEL_NOT_FOUND, ""), errors
        assert "Traceback" not in errors
        [line] = [line for line in errors.splitlines() if line.startswith("semantic-trio: ")]
        assert errors.endswith(f"{line}\n")
        return line


@pytest.fixture
def machine(tmp_path: Path, hub: Hub) -> Machine:
    return Machine(tmp_path, hub.url)


def partial(machine: Machine, hub: Hub) -> Path:
    blobs = machine.home / "hf" / "hub" / f"models--{NAME.replace('/', '--')}" / "blobs"
    return blobs / f"{sha256(hub.files[WEIGHTS])}.incomplete"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def wanted(hub: Hub) -> dict[str, bytes]:
    return {name: content for name, content in hub.files.items() if name != "README.md"}


def kill_in_the_middle(machine: Machine, hub: Hub, size: Callable[[], int]) -> None:
    """Pull, and kill -9 when all but the last bytes of the weights are on disk."""
    hub.held_after = MIDDLE
    process = machine.start("pull", NAME)
    deadline = time.monotonic() + ANSWER_SECONDS
    while size() < PIECE:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the weights are not on disk"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.held_after = None
    hub.released.set()


def size_of(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def test_a_model_is_pulled_served_listed_and_removed(
    tmp_path: Path, machine: Machine, hub: Hub
) -> None:
    code, said, progress = machine.models("pull", NAME)

    assert code == ExitCode.OK, progress
    assert contents(Path(said.strip())) == wanted(hub)
    assert f"downloading {NAME} from the Hub" in progress
    assert f"{WEIGHTS}: 13.2 MB" in progress
    assert "100%" in progress

    with serving(tmp_path, model=NAME, **machine.environment) as server:
        assert ask(server, "ada", "Hello").text
        assert server.get("/v1/models").json()["data"][0]["id"] == NAME
        assert server.end() == ExitCode.OK

    assert machine.models("path", NAME)[1] == said
    assert f"\n{NAME} " in machine.models("list")[1]
    assert machine.models("rm", NAME)[1] == f"{NAME}: 15.9 MiB are free again\n"
    assert f"\n{NAME} " not in machine.models("list")[1]
    assert "not on this machine" in machine.fault("path", NAME)


def test_a_pull_of_a_model_that_is_here_downloads_nothing(machine: Machine, hub: Hub) -> None:
    here = machine.pulled()
    hub.begun.clear()

    assert machine.pulled() == here
    assert hub.begun == []


def test_a_download_goes_on_where_its_connection_was_dropped(machine: Machine, hub: Hub) -> None:
    hub.drops = [MIDDLE]

    assert contents(machine.pulled()) == wanted(hub)
    assert hub.begun_at(WEIGHTS) == [0, PIECE]


def test_a_pull_goes_on_where_a_killed_one_ended(machine: Machine, hub: Hub) -> None:
    kill_in_the_middle(machine, hub, lambda: size_of(partial(machine, hub)))
    assert "not on this machine" in machine.fault("path", NAME)

    code, said, progress = machine.models("pull", NAME)

    assert code == ExitCode.OK
    assert contents(Path(said.strip())) == wanted(hub)
    assert hub.begun_at(WEIGHTS) == [0, PIECE]
    assert "13.2 MB, 10.5 MB of it are here" in progress
    assert not partial(machine, hub).exists()


def test_what_a_killed_pull_has_left_can_be_removed(machine: Machine, hub: Hub) -> None:
    kill_in_the_middle(machine, hub, lambda: size_of(partial(machine, hub)))

    assert machine.models("rm", NAME)[1] == f"{NAME}: 10.0 MiB are free again\n"
    assert not partial(machine, hub).exists()
    assert "not on this machine" in machine.fault("rm", NAME)


def test_a_pull_that_the_hub_refuses_midway_goes_on_later(machine: Machine, hub: Hub) -> None:
    kill_in_the_middle(machine, hub, lambda: size_of(partial(machine, hub)))
    hub.refusal = HTTPStatus.SERVICE_UNAVAILABLE

    assert "503" in machine.fault()

    hub.refusal = None
    assert contents(machine.pulled()) == wanted(hub)
    assert hub.begun_at(WEIGHTS) == [0, PIECE]


def test_a_connection_that_is_lost_for_good_is_one_line_and_what_it_brought_stays(
    machine: Machine, hub: Hub
) -> None:
    hub.drops = [MIDDLE, *[0] * 6]

    assert f"the download of {WEIGHTS} broke off" in machine.fault()
    assert size_of(partial(machine, hub)) == PIECE


def test_weights_with_another_hash_are_refused_and_begun_anew(machine: Machine, hub: Hub) -> None:
    kill_in_the_middle(machine, hub, lambda: size_of(partial(machine, hub)))
    partial(machine, hub).write_bytes(bytes(PIECE))

    assert f"{WEIGHTS} has the SHA-256" in machine.fault()
    assert contents(machine.pulled()) == wanted(hub)
    assert hub.begun_at(WEIGHTS) == [0, PIECE, 0]


def test_a_model_that_the_hub_does_not_have_is_one_line(machine: Machine) -> None:
    assert "the Hub has no such repository" in machine.fault("pull", "org/none")


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    machine = Machine(tmp_path, f"http://127.0.0.1:{free_port()}")

    assert "the Hub cannot be reached" in machine.fault()


def on_disk(disk: SmallDisk, hub: Hub) -> Machine:
    return Machine(disk.path, hub.url, disk.within)


def test_a_disk_that_is_too_small_is_one_line_before_the_first_byte(
    tmp_path: Path, hub: Hub
) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        assert "8 MB free, 13 MB are needed" in on_disk(disk, hub).fault()

    assert hub.begun == []


def test_a_disk_that_fills_up_is_one_line_and_what_it_has_stays(tmp_path: Path, hub: Hub) -> None:
    hub.held_after = PIECE // 2
    with small_disk(tmp_path / "disk", 30) as disk:
        machine = on_disk(disk, hub)
        process = machine.start("pull", NAME)
        assert hub.held.wait(ANSWER_SECONDS)
        disk.fill()
        hub.released.set()
        said, errors = process.communicate(timeout=ANSWER_SECONDS)

        assert (process.returncode, said) == (ExitCode.MODEL_NOT_FOUND, ""), errors
        assert errors.endswith("(cannot be kept: No space left on device)\n")
        assert "Traceback" not in errors
        disk.empty()
        assert machine.pulled().name == "c" * 40
