"""An agent as one file: what leaves is what comes, and nothing comes that is not what it should be,
whoever has made the file.
"""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest
from structlog.testing import capture_logs

from semantic_trio.adapters.disk import format as file_format
from semantic_trio.adapters.disk.records import decode
from semantic_trio.domain.content import (
    Content,
    Tensor,
)
from semantic_trio.domain.errors import InvalidRequestError
from tests.unit.archives import (
    BELONGINGS,
    FINGERPRINT,
    RECORD,
    ROOT,
    SAID,
    TOKENS,
    content_of,
    exported,
    files,
    files_in,
    filled,
    members,
    packed,
    record,
    taken_in,
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return exported(filled(tmp_path_factory.mktemp("source")))


# ------------------------------------------------------------------------------------ what is there


def test_what_leaves_is_what_comes(archive: bytes, tmp_path: Path) -> None:
    into = files(tmp_path)

    found = taken_in(into, archive)

    assert found == attrs.evolve(RECORD, is_kept=True, is_pinned=False, used=0)
    assert set(into.index()) == set(BELONGINGS)
    assert {
        item: {name: bytes(tensor.data) for name, tensor in into.read(item).items()}
        for item in BELONGINGS
    } == {
        item: {name: bytes(tensor.data) for name, tensor in content_of(item).items()}
        for item in BELONGINGS
    }
    assert into.agents() == [], "the record is left to who knows its place"


def test_an_archive_is_a_tar_for_everybody_with_the_files_as_they_are(tmp_path: Path) -> None:
    source = filled(tmp_path)

    found = members(exported(source))

    names = [f"{item.kind}s/{item.key.hex()}.safetensors" for item in BELONGINGS]
    assert list(found) == ["agent.safetensors", *names]
    on_disk = {path.name: path.read_bytes() for path in source.root.rglob("*.safetensors")}
    assert {Path(name).name: found[name] for name in names}.items() <= on_disk.items()
    (tmp_path / "record").write_bytes(found["agent.safetensors"])
    assert decode(file_format.read(tmp_path / "record", "agent", FINGERPRINT)[1]) == RECORD


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_what_other_tools_have_packed_again_is_taken(
    archive: bytes, tmp_path: Path, tar_format: int
) -> None:
    assert taken_in(files(tmp_path), packed(members(archive), tar_format=tar_format)).id == "ada"


def test_nothing_is_asked_of_the_stream_but_to_be_read(archive: bytes, tmp_path: Path) -> None:
    class Slow(io.RawIOBase):
        at = 0

        def read(self, size: int = -1) -> bytes:
            piece = archive[self.at : self.at + min(size, 7)]
            self.at += len(piece)
            return piece

    assert files(tmp_path).archives.import_agent(Slow()).id == "ada"  # type: ignore[arg-type]


def test_an_agent_may_come_under_another_name(archive: bytes, tmp_path: Path) -> None:
    found = taken_in(files(tmp_path), archive, "eve")

    assert (found.id, found.is_named, found.history) == ("eve", True, TOKENS)


def test_who_was_recognised_by_what_it_has_read_still_is_and_under_a_name_is_not(
    tmp_path: Path,
) -> None:
    archive = exported(filled(tmp_path / "source"), record("auto-1", is_named=False))

    assert not taken_in(files(tmp_path / "one"), archive).is_named
    assert not taken_in(files(tmp_path / "two"), archive, "auto-1").is_named
    assert taken_in(files(tmp_path / "three"), archive, "eve").is_named


def test_an_id_of_the_servers_own_comes_with_its_agent_and_is_no_other_agents(
    archive: bytes, tmp_path: Path
) -> None:
    own = exported(filled(tmp_path / "source"), record(".auto-1", is_named=False))

    assert not taken_in(files(tmp_path / "one"), own, ".auto-1").is_named
    with pytest.raises(InvalidRequestError, match="dot"):
        taken_in(files(tmp_path / "two"), archive, ".auto-1")
    assert files_in(tmp_path / "two") == []


def test_what_is_there_stays_as_it_is(archive: bytes, tmp_path: Path) -> None:
    into = files(tmp_path)
    mine: Content = {"mine": Tensor("U8", (1,), memoryview(b"!"))}
    into.write(BELONGINGS.blocks[0], mine)

    taken_in(into, archive)

    assert list(into.read(BELONGINGS.blocks[0])) == ["mine"]
    assert set(into.read(BELONGINGS.blocks[1])) == {"key", "a"}


def test_an_agent_without_a_history_is_a_record_alone(tmp_path: Path) -> None:
    empty = attrs.evolve(
        RECORD, history=b"", chain=ROOT, snapshots=(), token_histories=(), prompt_tokens=0
    )
    archive = exported(files(tmp_path / "source"), empty)

    assert list(members(archive)) == ["agent.safetensors"]
    assert taken_in(files(tmp_path), archive).conversation == SAID


def test_what_is_gone_or_damaged_is_left_out(tmp_path: Path) -> None:
    first, second = BELONGINGS.blocks
    source = filled(tmp_path, iter([first, second]))
    [path] = source.root.rglob(f"{first.key.hex()}.safetensors")
    path.write_bytes(path.read_bytes()[:-1])

    with capture_logs() as logs:
        found = members(exported(source))

    assert list(found) == ["agent.safetensors", f"blocks/{second.key.hex()}.safetensors"]
    assert [line["event"] for line in logs] == ["a damaged file is left out of an archive"]
    assert path.exists(), "who reads it to use it puts it aside"


def test_a_file_under_another_name_is_left_out(tmp_path: Path) -> None:
    first, second = BELONGINGS.blocks
    source = filled(tmp_path, iter([first, second]))
    [one], [other] = (
        [*source.root.rglob(f"{item.key.hex()}.safetensors")] for item in (first, second)
    )
    one.write_bytes(other.read_bytes())

    with capture_logs():
        assert list(members(exported(source))) == [
            "agent.safetensors",
            f"blocks/{second.key.hex()}.safetensors",
        ]


def test_many_may_bring_the_same_at_once(archive: bytes, tmp_path: Path) -> None:
    into = files(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: taken_in(into, archive, f"agent-{n}"), range(16)))

    assert set(into.index()) == set(BELONGINGS)
    assert [name for name in files_in(tmp_path) if ".tmp" in name] == []


def test_a_spool_has_no_name_and_is_its_owners_alone(tmp_path: Path) -> None:
    with files(tmp_path).archives.spool() as spool:
        spool.write(b"x" * 1000)
        spool.flush()
        assert [name for name in files_in(tmp_path) if not name.startswith("memory")] == []
        spool.seek(0)
        assert spool.read() == b"x" * 1000
    assert files_in(tmp_path) == []
