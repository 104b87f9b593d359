"""Files of one model are never believed when they are not what was written."""

import errno
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings
from structlog.testing import capture_logs

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.adapters.disk.records import encode
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.errors import CacheCorruptionError
from tests.unit.disk_models import (
    BLOCK,
    CONTENT,
    FINGERPRINT,
    KINDS,
    OTHER,
    digest,
    keep,
    plain,
    record,
    the_file,
    written,
)


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return ModelFiles(tmp_path / "cache", FINGERPRINT, "tiny")


# --------------------------------------------------------------------------- what is never believed


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
