"""Files of one model: there whole or not at all, their owner's alone, and never believed when they
are not what was written.
"""

import errno
import io
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.adapters.disk.publishing import publish, publish_once
from semantic_trio.domain.content import Content, Item, Kind, Tensor
from semantic_trio.domain.errors import CacheCorruptionError, CacheInUseError
from tests.unit.disk_models import (
    BLOCK,
    CONTENT,
    FINGERPRINT,
    KINDS,
    OTHER,
    SNAPSHOT,
    digest,
    keep,
    plain,
    record,
    the_file,
)


def files_in(directory: Path) -> list[str]:
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    )


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return ModelFiles(tmp_path / "cache", FINGERPRINT, "tiny")


# --------------------------------------------------------------------------------- where things are


def test_every_file_has_its_place(files: ModelFiles) -> None:
    files.write(BLOCK, CONTENT)
    files.write(SNAPSHOT, CONTENT)
    files.write_agent(record())

    names = [
        f"agents/{digest('main')}",
        f"blocks/00/{BLOCK.key.hex()}",
        f"marks/00/{SNAPSHOT.key.hex()}",
    ]
    assert files_in(files.root) == [f"memory/{'ab' * 16}/{name}.safetensors" for name in names]


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, set[str]]:
    """The modes there are, of directories and of files."""
    found = [stat.filemode(path.stat().st_mode) for path in (directory, *directory.rglob("*"))]
    return {
        "d": {mode for mode in found if mode[0] == "d"},
        "-": {mode for mode in found if mode[0] == "-"},
    }


@pytest.mark.usefixtures("no_umask")
def test_everything_is_its_owners_alone_whatever_the_umask(files: ModelFiles) -> None:
    files.write(BLOCK, CONTENT)
    files.write_agent(record())
    files.write(SNAPSHOT, CONTENT)
    files.put_aside(SNAPSHOT, "it is wrong")

    assert modes(files.root) == {"d": {"drwx------"}, "-": {"-rw-------"}}


def test_directories_that_were_open_to_others_are_closed(files: ModelFiles) -> None:
    files.write(BLOCK, CONTENT)
    files.write_agent(record())
    for path in (files.root, *files.root.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)

    ModelFiles(files.root, FINGERPRINT, "tiny").index()

    assert modes(files.root)["d"] == {"drwx------"}


def test_what_is_above_the_cache_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    files = ModelFiles(tmp_path / "a" / "cache", FINGERPRINT, "tiny")

    files.write(BLOCK, CONTENT)

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_two_models_have_nothing_in_common(files: ModelFiles) -> None:
    other = ModelFiles(files.root, OTHER, "other")
    files.write(BLOCK, CONTENT)
    files.write_agent(record())

    assert (other.index(), other.agents()) == ({}, [])
    with pytest.raises(CacheCorruptionError, match="is gone"):
        other.read(BLOCK)


def test_agents_whose_ids_differ_in_case_have_files_that_do_not(files: ModelFiles) -> None:
    """A file system that ignores case would keep one of them."""
    for used, agent in enumerate(["main", "Main", "MAIN"]):
        files.write_agent(record(agent, used))

    names = [Path(name).name for name in files_in(files.root)]
    assert len({name.lower() for name in names}) == 3
    assert [name for name in names if name != name.lower()] == []
    assert [found.id for found in files.agents()] == ["main", "Main", "MAIN"]


def test_the_index_has_blocks_and_snapshots_and_nothing_else(files: ModelFiles) -> None:
    sizes = {item: files.write(item, CONTENT) for item in (BLOCK, SNAPSHOT)}
    shard = the_file_of(files, BLOCK).parent
    for name in (
        "README",
        "x" * 64 + ".safetensors",
        "ff" * 32 + ".safetensors",
        BLOCK.key.hex(),
        BLOCK.key.hex().upper() + ".safetensors",
    ):
        (shard / name).touch()
    (shard / ("00" * 32 + ".safetensors")).mkdir()
    (shard.parent / "zz").mkdir()
    (shard.parent / "ff").touch()

    assert (
        files.index() == sizes == {item: the_file_of(files, item).stat().st_size for item in sizes}
    )


def the_file_of(files: ModelFiles, item: Item) -> Path:
    [found] = [
        path
        for path in (files.root / "memory").rglob(f"{item.key.hex()}.safetensors")
        if f"{item.kind}s" in path.parts
    ]
    return found


@pytest.mark.parametrize("have_written", [publish, publish_once])
def test_a_file_is_its_owners_alone_while_it_is_being_written(
    have_written: Callable[[Path, Callable[[Path], None]], object], tmp_path: Path
) -> None:
    """Also in a directory that everybody can read, as an archive that is exported."""
    modes: list[int] = []

    def fill(file: Path) -> None:
        with file.open("wb"):
            modes.append(stat.S_IMODE(file.stat().st_mode))

    before = os.umask(0)
    try:
        have_written(tmp_path / "archive.tar", fill)
    finally:
        os.umask(before)

    assert [*modes, stat.S_IMODE((tmp_path / "archive.tar").stat().st_mode)] == [0o600, 0o600]


def test_a_directory_that_was_deleted_is_told_once_and_made_again(files: ModelFiles) -> None:
    """For whoever writes: all that was written before is gone."""
    files.index()
    files.write_agent(record())
    shutil.rmtree(files.root)

    with pytest.raises(FileNotFoundError, match="deleted under the server"):
        files.write_agent(record())
    files.write_agent(record())

    assert [agent.id for agent in files.agents()] == ["main"]
    assert stat.S_IMODE(files.root.stat().st_mode) == 0o700


def test_nothing_is_written_where_another_process_works(tmp_path: Path) -> None:
    def refuse() -> None:
        raise CacheInUseError("here", "pid 1")

    files = ModelFiles(tmp_path / "cache", FINGERPRINT, "tiny", refuse)
    for work in (
        lambda: files.write_agent(record()),
        files.archives.spool,
        lambda: files.archives.import_agent(io.BytesIO()),
    ):
        with pytest.raises(OSError, match="in use by pid 1"):
            work()

    assert not files.root.exists()


def test_there_is_room_as_long_as_the_file_system_has_some(
    files: ModelFiles, tmp_path: Path
) -> None:
    """Also before the directory is there."""
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize

    assert files.free_bytes() == pytest.approx(free, rel=0.2)


# ------------------------------------------------------------------------------ whole or not at all


OLDER: Content = {"a": Tensor("U8", (3,), memoryview(b"old"))}


def fail_at(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def refuse(*given: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def half(*given: Any) -> None:
        Path(given[1]).write_bytes(b"half")
        refuse()

    places = {"save_file": ("semantic_trio.adapters.disk.format.save_file", half)}
    target, instead = places.get(what, (f"os.{what}", refuse))
    monkeypatch.setattr(target, instead)


STEPS = ["save_file", "pwrite", "chmod", "fsync", "replace"]


@pytest.mark.parametrize("step", STEPS)
def test_a_write_that_fails_leaves_what_was_there_before(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    files.write(BLOCK, OLDER)
    files.write_agent(record(used=1))
    before = files_in(files.root)
    with monkeypatch.context() as patch:
        fail_at(patch, step)
        for write in (
            lambda: files.write(BLOCK, CONTENT),
            lambda: files.write(SNAPSHOT, CONTENT),
            lambda: files.write_agent(record(used=2)),
        ):
            with pytest.raises(OSError, match="No space left"):
                write()

    assert files_in(files.root) == before
    assert plain(files.read(BLOCK)) == plain(OLDER)
    assert files.agents() == [record(used=1)]


def test_a_directory_that_cannot_be_flushed_keeps_no_file_back(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refuse_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)

    files.write(BLOCK, CONTENT)

    assert plain(files.read(BLOCK)) == plain(CONTENT)


def test_a_file_is_flushed_before_it_has_its_name_and_its_name_after(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: steps.append(
            "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        ),
    )
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *given: (steps.append("name"), real(*given)))

    files.write(BLOCK, CONTENT)

    assert steps == ["file", "name", "directory"]


WRITES = """
import os, resource, sys
from pathlib import Path
from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.domain.content import Item, Kind, Tensor
files = ModelFiles(Path(sys.argv[1]), "ab" * 32, "tiny")
def write(size): return files.write(Item(Kind.BLOCK, bytes(range(32))), {"a": Tensor("U8", (size,), memoryview(bytes(size)))})
"""


def child(root: Path, script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", WRITES + script, str(root)], capture_output=True, check=False
    )


@pytest.mark.parametrize("step", ["pwrite", "fsync", "replace"])
def test_a_process_that_ends_while_it_writes_leaves_what_was_there_before(
    files: ModelFiles, step: str
) -> None:
    files.write(BLOCK, OLDER)
    before = files_in(files.root)

    ended = child(files.root, f"os.{step} = lambda *given: os._exit(9)\nwrite(1000)")

    assert ended.returncode == 9, ended.stderr.decode()
    assert len(files_in(files.root)) == 2, "what it had begun is there"
    again = ModelFiles(files.root, FINGERPRINT, "tiny")
    assert list(again.index()) == [BLOCK]
    assert files_in(files.root) == before
    assert plain(again.read(BLOCK)) == plain(OLDER)


def test_what_was_begun_is_removed_from_every_directory(files: ModelFiles) -> None:
    for kind in KINDS:
        keep(files, kind)
    files.put_aside(Item(Kind.SNAPSHOT, bytes(32)), "it is wrong")
    before = files_in(files.root)
    for directory in {(files.root / name).parent for name in before}:
        (directory / ".tmp-x.safetensors").touch()
        (directory / ".tmpAb3dEf").touch()  # as safetensors calls it

    ModelFiles(files.root, FINGERPRINT, "tiny").index()

    assert files_in(files.root) == before


def test_only_the_first_index_removes_what_was_begun(files: ModelFiles) -> None:
    """Later ones may be made while others write."""
    files.index()
    files.write(BLOCK, CONTENT)
    begun = the_file(files.root).with_name(".tmp-x.safetensors")
    begun.touch()

    files.index()

    assert begun.exists()


def test_a_disk_that_is_full_is_an_os_error(files: ModelFiles) -> None:
    """The kernel's own refusal, in the middle of a file."""
    script = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\ntry: write(100_000)\nexcept "
        "OSError as error: sys.exit(error.errno)"
    )

    refused = child(files.root, script)

    assert refused.returncode == errno.EFBIG, refused.stderr.decode()
    assert files_in(files.root) == []


def test_many_threads_may_write_and_read_at_once(files: ModelFiles) -> None:
    items = [Item(kind, bytes([n]) * 32) for kind in Kind for n in range(20)]

    def write_and_read(item: Item) -> bool:
        content = {"key": Tensor("U8", (32,), memoryview(item.key)), "a": CONTENT["a"]}
        files.write(item, content)
        return plain(files.read(item)) == plain(content)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, items))
    assert set(files.index()) == set(items)
