"""Directories of models appear as a whole or not at all, whoever builds them and however it
ends.
"""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from semantic_trio.adapters.catalogue.progress import Silent
from semantic_trio.adapters.catalogue.shelf import Shelf


@attrs.define
class Builder:
    """Fills a directory, after waiting for a sign where one is given."""

    text: str
    sign: threading.Event | None = None
    calls: int = 0

    def __call__(self, into: Path) -> None:
        self.calls += 1
        (into / "deep").mkdir()
        (into / "deep" / "file").write_text(self.text)
        if self.sign is not None:
            assert self.sign.wait(10)


def fail(into: Path) -> None:
    (into / "file").write_text("half")
    raise RuntimeError("no more")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_what_is_built_is_private_to_its_owner(tmp_path: Path) -> None:
    path = Shelf(tmp_path / "a" / "b").install("m", "1", Builder("x"), Silent())

    modes = {
        str(found.relative_to(tmp_path)): found.stat().st_mode & 0o777
        for found in (tmp_path / "a").rglob("*")
    }
    assert modes.pop("a/b/.m.lock") == 0o600
    assert {name: oct(mode) for name, mode in modes.items()} == {
        "a/b": "0o700", "a/b/m": "0o700", "a/b/m/.recipe": "0o600", "a/b/m/deep": "0o700", "a/b/m/deep/file": "0o600"
    }  # fmt: skip
    assert (path / "deep" / "file").read_text() == "x"


def test_a_build_that_fails_leaves_nothing_and_the_next_one_succeeds(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    with pytest.raises(RuntimeError):
        shelf.install("m", "1", fail, Silent())
    assert shelf.find("m", "1") is None
    assert names(tmp_path) == {".m.lock"}

    shelf.install("m", "1", Builder("x"), Silent())

    assert shelf.find("m", "1") == tmp_path / "m"


def test_another_version_replaces_what_is_there_and_a_failed_one_does_not(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.install("m", "1", Builder("old"), Silent())
    with pytest.raises(RuntimeError):
        shelf.install("m", "2", fail, Silent())
    assert shelf.find("m", "1") is not None

    shelf.install("m", "2", Builder("new"), Silent())

    assert (tmp_path / "m" / "deep" / "file").read_text() == "new"
    assert names(tmp_path) == {"m", ".m.lock"}


def test_many_at_once_build_once(tmp_path: Path) -> None:
    sign = threading.Event()
    builder = Builder("x", sign)
    with ThreadPoolExecutor(8) as pool:
        answers = [
            pool.submit(Shelf(tmp_path).install, "m", "1", builder, Silent()) for _ in range(8)
        ]
        sign.set()

    assert {answer.result() for answer in answers} == {tmp_path / "m"}
    assert builder.calls == 1


def test_a_process_that_is_killed_while_building_is_in_nobodys_way(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from semantic_trio.adapters.catalogue.progress import Silent\n"
        "from semantic_trio.adapters.catalogue.shelf import Shelf\n"
        "def build(into):\n"
        "    (into / 'half').touch(); print('building', flush=True); time.sleep(60)\n"
        "Shelf(pathlib.Path(sys.argv[1])).install('m', '1', build, Silent())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"building\n"
        process.send_signal(signal.SIGKILL)

    path = Shelf(tmp_path).install("m", "1", Builder("x"), Silent())

    assert names(path) == {"deep", ".recipe"}
    assert names(tmp_path) == {"m", ".m.lock"}
