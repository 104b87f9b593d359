"""Files of one model: there whole or not at all, their owner's alone, and never believed when they
are not what was written.
"""

import errno
import functools
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import xxhash
from hypothesis import assume, given, settings
from structlog.testing import capture_logs

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.adapters.disk.publishing import publish, publish_once
from semantic_trio.adapters.disk.records import encode
from semantic_trio.domain.chain import pack
from semantic_trio.domain.content import AgentRecord, Content, Item, Kind, Tensor
from semantic_trio.domain.errors import CacheCorruptionError, CacheInUseError

FINGERPRINT, OTHER = "ab" * 32, "cd" * 32
BLOCK, SNAPSHOT = Item(Kind.BLOCK, bytes(range(32))), Item(Kind.SNAPSHOT, bytes(range(32)))
CONTENT: Content = {
    "a": Tensor("F16", (20, 10), memoryview(bytes(range(1, 201)) * 2)),
    "b": Tensor("BF16", (3,), memoryview(b"abcdef")),
}


def record(agent: str = "main", used: int = 1) -> AgentRecord:
    flags = {"is_named": True, "is_kept": False, "is_pinned": False}
    return AgentRecord(
        id=agent,
        **flags,
        parent=None,
        turns=1,
        used=used,
        history=pack(range(100)),
        prompt_tokens=9,
        chain=bytes(32),
    )


def digest(agent: str) -> str:
    return hashlib.sha256(agent.encode()).hexdigest()[:32]


def files_in(directory: Path) -> list[str]:
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    )


def the_file(directory: Path) -> Path:
    [found] = (directory / "memory").rglob("*.safetensors")
    return found


def plain(content: Content) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (tensor.dtype, tensor.shape, bytes(tensor.data)) for name, tensor in content.items()
    }


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


# --------------------------------------------------------------------------- what is never believed

KINDS = ["block", "mark", "agent"]


def keep(files: ModelFiles, kind: str, *, second: bool = False) -> None:
    if kind == "agent":
        files.write_agent(record("second" if second else "main"))
    else:
        files.write(Item(Kind(kind), bytes([int(second)]) * 32), CONTENT)


@functools.cache
def written(kind: str, *, second: bool = False, fingerprint: str = FINGERPRINT) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        files = ModelFiles(Path(directory), fingerprint, "tiny")
        keep(files, kind, second=second)
        return in_order(the_file(files.root).read_bytes())


def in_order(content: bytes) -> bytes:
    """The same file with its metadata sorted, which safetensors writes in another order every time:
    else no run would be like another.
    """
    front = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:front])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items())) | {"checksum": "0" * 32}
    text = json.dumps(header, separators=(",", ":")).encode().ljust(front - 8)
    ordered = content[:8] + text + content[front:]
    return ordered.replace(b"0" * 32, xxhash.xxh3_128_hexdigest(ordered).encode(), 1)


def find_damage(files: ModelFiles, kind: str) -> str:
    """Read what was kept; the reason for which it was not believed."""
    if kind == "agent":
        with capture_logs() as logs:
            assert files.agents() == []
        [told] = logs
        assert (told["log_level"], told["event"]) == ("warning", "record of an agent is damaged")
        return str(told["reason"])
    with pytest.raises(CacheCorruptionError) as damaged:
        files.read(Item(Kind(kind), bytes(32)))
    assert damaged.value.name == f"{kind}s/00/{'0' * 64}.safetensors"
    return damaged.value.reason


def assert_put_aside(files: ModelFiles, kind: str, content: bytes, reason: str) -> None:
    name = f"{kind}-{'0' * 64 if kind != 'agent' else '[0-9a-f]{32}'}-1"
    [file, note] = sorted((files.root / "quarantine").iterdir())
    assert re.fullmatch(rf"{name}\.safetensors", file.name)
    assert re.fullmatch(rf"{name}\.txt", note.name)
    assert file.read_bytes() == content
    [line] = note.read_text().splitlines()
    assert re.fullmatch(rf"{kind}s/\S+\.safetensors of tiny: {re.escape(reason)}", line)
    assert (files.index(), files.agents()) == ({}, [])


def assert_detected(kind: str, content: bytes) -> str:
    with tempfile.TemporaryDirectory() as directory:
        files = ModelFiles(Path(directory), FINGERPRINT, "tiny")
        keep(files, kind)
        the_file(files.root).write_bytes(content)
        reason = find_damage(files, kind)
        assert_put_aside(files, kind, content, reason)
        return reason


def regions(content: bytes) -> dict[str, range]:
    front = 8 + int.from_bytes(content[:8], "little")
    metadata, checksum = (
        content.index(b'"__metadata__"'),
        content.index(b'"checksum":"') + len(b'"checksum":"'),
    )
    return {
        "length": range(8),
        "header": range(8, front),
        "metadata": range(metadata, content.index(b"}", metadata) + 1),
        "checksum": range(checksum, checksum + 32),
        "data": range(front, len(content)),
        "last byte": range(len(content) - 1, len(content)),
    }


@st.composite
def damages(draw: st.DrawFn, content: bytes) -> bytes:
    """What a disk, a crash or a person may make of a file."""
    region = regions(content)[
        draw(st.sampled_from(["length", "header", "metadata", "checksum", "data", "last byte"]))
    ]
    at = draw(st.sampled_from(region))
    end = draw(st.integers(at + 1, region.stop))
    match draw(
        st.sampled_from(
            ["cut off", "flipped", "zeroed", "noise", "left out", "repeated", "appended"]
        )
    ):
        case "cut off":
            return content[:at]
        case "flipped":
            return (
                content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
            )
        case "zeroed":
            return content[:at] + bytes(end - at) + content[end:]
        case "noise":
            return (
                content[:at] + draw(st.binary(min_size=end - at, max_size=end - at)) + content[end:]
            )
        case "left out":
            return content[:at] + content[end:]
        case "repeated":
            return content[:end] + content[at:]
        case _:
            return content + draw(st.binary(min_size=1, max_size=100))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200)
@given(data=st.data())
def test_whatever_becomes_of_a_file_it_is_found_out_and_put_aside(
    kind: str, data: st.DataObject
) -> None:
    content = data.draw(damages(written(kind)))
    assume(content != written(kind))
    # which is taken for a newer version's, and stays
    assume(not re.search(rb"semantic_trio/(?!1\b)\d", content))

    assert_detected(kind, content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_as_it_was_written_is_believed(kind: str, files: ModelFiles) -> None:
    """What the tests around find is not there when nothing was done."""
    keep(files, kind)
    the_file(files.root).write_bytes(written(kind))

    if kind == "agent":
        assert files.agents() == [record()]
    else:
        assert plain(files.read(Item(Kind(kind), bytes(32)))) == plain(CONTENT)
    assert not (files.root / "quarantine").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_in_the_place_of_another_is_found_out(kind: str) -> None:
    names = {
        "block": "is named 0101",
        "mark": "is named 0101",
        "agent": "is named second, and holds second",
    }
    others = [other for other in KINDS if other != kind]

    assert assert_detected(kind, written(kind, second=True)).startswith(names[kind])
    assert assert_detected(kind, written(kind, fingerprint=OTHER)) == "is another model's: tiny"
    assert [assert_detected(kind, written(other)) for other in others] == [
        f"is a {other}, not a {kind}" for other in others
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_no_bytes_is_found_out(kind: str) -> None:
    assert assert_detected(kind, b"").startswith("ends after 0 of")


def test_a_model_of_the_same_directory_is_another_model(files: ModelFiles) -> None:
    """Fingerprints may agree in as much as a directory's name has of them."""
    other = ModelFiles(files.root, FINGERPRINT[:32] + "0" * 32, "other")
    other.write(BLOCK, CONTENT)

    with pytest.raises(CacheCorruptionError, match="is another model's: other"):
        files.read(BLOCK)


def test_a_record_that_says_another_id_than_its_file_is_found_out(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "semantic_trio.adapters.disk.files.encode", lambda given: encode(record("second"))
        )
        files.write_agent(record("main"))

    assert find_damage(files, "agent") == "is named main, and holds second"


def test_one_damaged_record_costs_no_other(files: ModelFiles) -> None:
    for used, agent in enumerate(["a", "b", "c"]):
        files.write_agent(record(agent, 9 - used))
    file = files.root / "memory" / FINGERPRINT[:32] / "agents" / f"{digest('b')}.safetensors"
    file.write_bytes(b"?")

    with capture_logs() as logs:
        assert [found.id for found in files.agents()] == ["c", "a"]
    assert [(told["file"], told["log_level"]) for told in logs] == [
        (f"agents/{file.name}", "warning")
    ]
    with capture_logs() as logs:
        assert len(files.agents()) == 2
    assert logs == []


def test_a_record_that_cannot_be_read_today_stays_where_it_is(files: ModelFiles) -> None:
    files.write_agent(record())
    file = the_file(files.root)
    file.unlink()
    file.mkdir()  # reading it raises what a disk does

    with capture_logs() as logs:
        assert files.agents() == []
    assert [told["event"] for told in logs] == ["record of an agent cannot be read"]
    assert file.is_dir()


# --------------------------------------------------------------------------------------- quarantine


def test_the_quarantine_keeps_the_last_thirty_two(files: ModelFiles) -> None:
    for n in range(40):
        item = Item(Kind.BLOCK, bytes([n]) * 32)
        files.write(item, CONTENT)
        files.put_aside(item, f"reason\n{n}")
    (files.root / "quarantine" / "notes.txt").touch()

    kept = {path.name for path in (files.root / "quarantine").iterdir()} - {"notes.txt"}

    assert kept == {
        f"block-{bytes([n]).hex() * 32}-{n + 1}{suffix}"
        for n in range(8, 40)
        for suffix in (".safetensors", ".txt")
    }
    assert (
        (files.root / "quarantine" / f"block-{'27' * 32}-40.txt")
        .read_text()
        .endswith("of tiny: reason 39\n")
    )


def test_the_quarantine_counts_on_after_a_restart(files: ModelFiles) -> None:
    for n in (1, 2):
        again = ModelFiles(files.root, FINGERPRINT, "tiny")
        again.write(BLOCK, CONTENT)
        again.put_aside(BLOCK, "it is wrong")

        assert (files.root / "quarantine" / f"block-{BLOCK.key.hex()}-{n}.safetensors").is_file()


def test_many_threads_may_put_aside_at_once(files: ModelFiles) -> None:
    items = [Item(Kind.BLOCK, bytes([n]) * 32) for n in range(16)]
    for item in items:
        files.write(item, CONTENT)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: files.put_aside(item, "it is wrong"), items))

    numbers = [
        int(path.stem.rpartition("-")[2]) for path in (files.root / "quarantine").glob("*.txt")
    ]
    assert sorted(numbers) == list(range(1, 17))


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_put_aside_is_not_believed_either(kind: str, files: ModelFiles) -> None:
    keep(files, kind)
    the_file(files.root).write_bytes(b"?")
    (files.root / "quarantine").touch()  # no directory

    with capture_logs() as logs:
        if kind == "agent":
            assert files.agents() == []
        else:
            with pytest.raises(CacheCorruptionError, match="ends after 1 of"):
                files.read(Item(Kind(kind), bytes(32)))

    assert logs[-1]["event"] == "damaged file stays where it is"
    with pytest.raises(OSError, match="quarantine"):
        files.put_aside("main" if kind == "agent" else Item(Kind(kind), bytes(32)), "it is wrong")


def test_a_reason_that_finds_no_room_keeps_nothing_in_use(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files.write(BLOCK, CONTENT)
    monkeypatch.setattr(Path, "write_text", refuse)

    files.put_aside(BLOCK, "it is wrong")

    assert [path.suffix for path in (files.root / "quarantine").iterdir()] == [".safetensors"]


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
