"""An agent as one file: what leaves is what comes, and nothing comes that is not what it should be,
whoever has made the file.
"""

import errno
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from structlog.testing import capture_logs

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.adapters.disk import format as file_format
from semantic_trio.adapters.disk.format import Label
from semantic_trio.adapters.disk.parsing import UnfitError
from semantic_trio.adapters.disk.records import decode, encode
from semantic_trio.adapters.disk.travel import label_of
from semantic_trio.domain.chain import TokenRun, pack, root_key, snapshot_key
from semantic_trio.domain.content import (
    AgentRecord,
    Content,
    HistoryEnd,
    Item,
    Kind,
    Tensor,
    TokenHistory,
)
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.errors import AgentExistsError, InvalidRequestError
from semantic_trio.domain.lineage import Lineage, largest_token, lineage

FINGERPRINT, OTHER = "ab" * 32, "cd" * 32
ROOT = root_key(FINGERPRINT)
TOKENS = pack(range(40))  # two blocks of 16 and a tail
SAID = Conversation((Message(Role.USER, (Text("Hello"),)),))


def record(
    agent: str = "ada",
    history: bytes = TOKENS,
    fingerprint: str = FINGERPRINT,
    size: int = 16,
    **more: object,
) -> AgentRecord:
    root = root_key(fingerprint)
    run = TokenRun.of_packed(history, root, size)
    snapshot = snapshot_key(run.keys[0], run.packed[4 * size : 4 * 20])
    fields: dict[str, Any] = {
        "is_named": True,
        "is_kept": False,
        "is_pinned": True,
        "parent": "mother",
        "turns": 2,
        "used": 7,
        "prompt_tokens": 9,
        "chain": run.keys[-1],
        "snapshots": ((20, snapshot),),
        "conversation": SAID,
        "token_histories": (TokenHistory(history, (HistoryEnd(bytes(32), 40, is_answer=True),)),),
    }
    return AgentRecord(id=agent, history=history, **(fields | more))


RECORD = record()
BELONGINGS = lineage(RECORD, FINGERPRINT)


def content_of(item: Item) -> Content:
    return {
        "key": Tensor("U8", (32,), memoryview(item.key)),
        "a": Tensor("BF16", (20, 10), memoryview(bytes(400))),
    }


def files(root: Path, fingerprint: str = FINGERPRINT, model: str = "org/tiny") -> ModelFiles:
    return ModelFiles(root, fingerprint, model)


def filled(root: Path, items: Iterator[Item] | Lineage = BELONGINGS) -> ModelFiles:
    found = files(root)
    for item in items:
        found.write(item, content_of(item))
    return found


def exported(source: ModelFiles, of: AgentRecord = RECORD) -> bytes:
    return b"".join(source.archives.export_agent(of))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return exported(filled(tmp_path_factory.mktemp("source")))


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {info.name: opened.extractfile(info).read() for info in opened}


def sized(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def packed(
    contents: Mapping[str, bytes], *more: tuple[str, bytes], tar_format: int = tarfile.GNU_FORMAT
) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=tar_format) as opened:
        for name, content in [*contents.items(), *more]:
            opened.addfile(sized(name, len(content)), io.BytesIO(content))
    return into.getvalue()


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def taken_in(into: ModelFiles, archive: bytes, name: str | None = None) -> AgentRecord:
    return into.archives.import_agent(io.BytesIO(archive), name)


def refusal(archive: bytes, root: Path | None = None) -> str:
    """Why it is refused; and that nothing is left of it."""
    with tempfile.TemporaryDirectory() as directory:
        into = files(root or Path(directory))
        before = files_in(into.root)
        with pytest.raises(InvalidRequestError) as refused:
            taken_in(into, archive)
        assert files_in(into.root) == before
        assert refused.value.field == "archive"
        assert "\n" not in refused.value.reason
        assert len(refused.value.reason) < 400
        return refused.value.reason


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


# ---------------------------------------------------------------------------------- what is refused


def test_an_agent_that_exists_is_not_replaced(archive: bytes, tmp_path: Path) -> None:
    into = files(tmp_path)
    into.write_agent(record("ada", turns=9))

    with pytest.raises(AgentExistsError):
        taken_in(into, archive)

    assert [found.turns for found in into.agents()] == [9]
    assert into.index() == {}
    assert taken_in(into, archive, "eve").id == "eve"


def test_another_models_archive_is_refused_with_both_names(tmp_path: Path) -> None:
    theirs = record(fingerprint=OTHER)
    archive = exported(files(tmp_path / "source", OTHER, "org/other"), theirs)

    assert refusal(archive) == (
        f"agent.safetensors is of model org/other ({OTHER[:12]}), and this is org/tiny "
        f"({FINGERPRINT[:12]})"
    )


def sealed(kind: str, name: str, content: Content, fingerprint: str = FINGERPRINT) -> bytes:
    return file_format.sealed(Label(kind, name, fingerprint, "org/tiny"), content)


BLOCK, SNAPSHOT = BELONGINGS.blocks[1], BELONGINGS.snapshots[0]
STRANGER = Item(Kind.BLOCK, bytes(32))


def name_of(item: Item) -> str:
    return f"{item.kind}s/{item.key.hex()}.safetensors"


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name_of(BLOCK))
    info.type, info.linkname = kind, target
    return info


def with_header(archive: bytes, info: tarfile.TarInfo) -> bytes:
    """The record, and then a header as somebody would make it who means no good."""
    front = packed({"agent.safetensors": members(archive)["agent.safetensors"]}).rstrip(b"\0")
    return front + bytes(-len(front) % 512) + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def hostile(archive: bytes) -> dict[str, tuple[bytes, str]]:
    """Archives, and what is to be said of them."""
    found = members(archive)
    mine = found["agent.safetensors"]
    without = {name: content for name, content in found.items() if name != "agent.safetensors"}
    lie = record(chain=bytes(32))
    return {
        "nothing": (b"", "ends in the middle"),
        "an empty tar": (bytes(10240), "begins with its end"),
        "no tar": (b"PK\3\4" + bytes(1000), "is no tar"),
        "noise": (bytes(range(256)) * 8, "is no tar"),
        "no record": (packed(without), "begins with blocks/"),
        "a record that comes later": (packed({**without, "agent.safetensors": mine}), "begins with blocks/"),
        "two records": (packed(found, ("agent.safetensors", mine)), "twice"),
        "a block twice": (packed(found, (name_of(BLOCK), found[name_of(BLOCK)])), "twice"),
        "a path upwards": (packed({"agent.safetensors": mine, "../../evil": b"x"}), "does not belong"),
        "a path from the root": (packed({"agent.safetensors": mine, "/etc/passwd": b"x"}), "does not belong"),
        "a block in another place": (packed({"agent.safetensors": mine, "blocks/../" + name_of(BLOCK): found[name_of(BLOCK)]}), "does not belong"),
        "somebody else's block": (packed({**found, name_of(STRANGER): sealed("block", "0" * 64, {})}), "does not belong"),
        "block as snapshot": (packed({"agent.safetensors": mine, (
            f"marks/{BLOCK.key.hex()}.safetensors"
        ): found[name_of(BLOCK)]}), "does not belong"),
        "a directory": (with_header(archive, link(tarfile.DIRTYPE, "")), "no regular file"),
        "a symbolic link": (with_header(archive, link(tarfile.SYMTYPE, "/etc/passwd")), "no regular file"),
        "a hard link": (with_header(archive, link(tarfile.LNKTYPE, "agent.safetensors")), "no regular file"),
        "a device": (with_header(archive, link(tarfile.CHRTYPE, "")), "no regular file"),
        "a pipe": (with_header(archive, link(tarfile.FIFOTYPE, "")), "no regular file"),
        "a file with holes": (with_header(archive, link(tarfile.GNUTYPE_SPARSE, "")), "no regular file"),
        "a name of gigabytes": (with_header(archive, link(tarfile.GNUTYPE_LONGNAME, "")), "no regular file"),
        "a file of terabytes": (with_header(archive, sized(name_of(BLOCK), 1 << 40)), "where 2147483648 may be"),
        "a file of less than nothing": (with_header(archive, sized(name_of(BLOCK), -1)), "of -1 bytes"),
        "a record of gigabytes": (sized("agent.safetensors", 1 << 31).tobuf(tarfile.GNU_FORMAT), "where 134217728 may be"),
        "a record that is none": (packed({"agent.safetensors": b"{}"}), "agent.safetensors "),
        "a record that is a block": (packed({"agent.safetensors": found[name_of(BLOCK)]}), "is a block, not a agent"),
        "a record under another's name": (packed({"agent.safetensors": sealed("agent", "eve", encode(RECORD))}), "is named eve, and holds ada"),
        "a record of other tokens": (packed({"agent.safetensors": sealed("agent", "ada", encode(lie))}), "its tokens are not those"),
        "a block of another name": (packed({**found, name_of(BLOCK): sealed("block", "0" * 64, {})}), "is named 0000"),
        "a block that is a snapshot": (packed({**found, name_of(BLOCK): sealed("mark", BLOCK.key.hex(), {})}), "is a mark, not a block"),
        "another model's block": (packed({**found, name_of(BLOCK): sealed("block", BLOCK.key.hex(), {}, OTHER)}), "another model's"),
        "a damaged snapshot": (packed({**found, name_of(SNAPSHOT): found[name_of(SNAPSHOT)][:-1] + b"?"}), "checksum"),
        "more after the end": (archive + b"x", "goes on after its end"),
        "no end": (archive[:-1024], "ends in the middle"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "what",
    sorted(
        hostile(packed({"agent.safetensors": b"", name_of(BLOCK): b"", name_of(SNAPSHOT): b"?"}))
    ),
)
def test_an_archive_that_is_not_as_it_was_made_is_refused_whole(what: str, archive: bytes) -> None:
    made, said = hostile(archive)[what]

    assert said in refusal(made)


def test_what_a_refused_archive_finds_there_stays(archive: bytes, tmp_path: Path) -> None:
    into = filled(tmp_path, iter(BELONGINGS.blocks))

    refusal(archive[:-1024], into.root)

    assert set(into.index()) == set(BELONGINGS.blocks)


@st.composite
def damages(draw: st.DrawFn, content: bytes) -> bytes:
    """What may become of an archive: bytes changed, left out, repeated, moved; wherever, headers
    above all.
    """
    heads = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    at = draw(
        st.integers(0, len(content) - 1)
        | st.sampled_from(heads).flatmap(lambda head: st.integers(head, head + 511))
    )
    end = draw(st.integers(at + 1, min(len(content), at + 2048)))
    match draw(
        st.sampled_from(["cut off", "flipped", "noise", "left out", "repeated", "inserted"])
    ):
        case "cut off":
            return content[:at]
        case "flipped":
            return (
                content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
            )
        case "noise":
            return (
                content[:at] + draw(st.binary(min_size=end - at, max_size=end - at)) + content[end:]
            )
        case "left out":
            return content[:at] + content[end:]
        case "repeated":
            return content[:end] + content[at:]
        case _:
            return content[:at] + draw(st.binary(min_size=1, max_size=1024)) + content[at:]


def assert_harmless(made: bytes) -> None:
    """It is refused and leaves nothing; or what has come is what the record leads to, as it was."""
    with tempfile.TemporaryDirectory() as directory:
        into = files(Path(directory) / "cache")
        try:
            found = taken_in(into, made)
        except InvalidRequestError:
            assert files_in(Path(directory)) == []
            return
        assert attrs.evolve(found, id="ada") == attrs.evolve(
            RECORD, is_kept=True, is_pinned=False, used=0
        )
        assert set(into.index()) <= set(BELONGINGS)
        for item in into.index():
            assert bytes(into.read(item)["key"].data) == item.key
        assert [
            name
            for name in files_in(Path(directory))
            if not name.endswith(".safetensors") or ".tmp" in name
        ] == []


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_becomes_of_an_archive_nothing_comes_that_was_not_in_it(
    archive: bytes, data: st.DataObject
) -> None:
    assert_harmless(data.draw(damages(archive)))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_an_archive_is_put_together_from_only_what_belongs_comes(
    archive: bytes, data: st.DataObject
) -> None:
    """Members are well-formed files, and may be under any name, in any order, more than once."""
    found = members(archive)
    names = st.sampled_from([*found, name_of(STRANGER), "../up", "/root", "blocks", ""])
    pairs = data.draw(st.lists(st.tuples(names, st.sampled_from(list(found.values()))), max_size=6))
    assert_harmless(packed({"agent.safetensors": found["agent.safetensors"]}, *pairs))


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_an_import_that_finds_no_room_leaves_nothing(
    archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    calls: list[int] = []

    def refuse_later(*given: object, **more: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*given, **more)

    real: Any = getattr(os, step)
    into = files(tmp_path)
    taken_in(files(tmp_path / "warm"), archive)  # directories and modes apart
    with monkeypatch.context() as patch:
        patch.setattr(os, step, refuse_later)
        with pytest.raises(OSError, match="No space left"):
            taken_in(into, archive)

    assert [name for name in files_in(tmp_path) if not name.startswith("warm")] == []


def test_whose_an_archive_is_can_be_asked_before_it_is_taken_in(archive: bytes) -> None:
    stream = io.BytesIO(archive)

    label = label_of(stream)

    assert (label.name, label.model, label.fingerprint, stream.tell()) == (
        "ada",
        "org/tiny",
        FINGERPRINT,
        0,
    )


@pytest.mark.parametrize(
    "made",
    [
        b"",
        packed({"agent.safetensors": b"?"}),
        packed({"agent.safetensors": sealed("block", "ada", {})}),
        packed({"agent.safetensors": sealed("agent", "../ada", {})}),
        packed({"agent.safetensors": sealed("agent", "ada", {}, "../" + "a" * 61)}),
    ],
)
def test_what_is_no_agents_is_nobodys(made: bytes) -> None:
    with pytest.raises(UnfitError):
        label_of(io.BytesIO(made))


# --------------------------------------------------------------------------- what a record leads to


@pytest.mark.parametrize("size", [16, 64, 256, 4096])
@pytest.mark.parametrize("tokens", [0, 1, 15, 16, 17, 256, 300, 5000])
def test_the_names_are_those_of_the_chain_whatever_the_size_of_blocks(
    size: int, tokens: int
) -> None:
    run = TokenRun.of_packed(pack(range(tokens)), ROOT, size)
    of = attrs.evolve(
        RECORD,
        history=run.packed,
        chain=run.keys[-1] if run.keys else ROOT,
        snapshots=(),
        token_histories=(),
    )

    found = lineage(of, FINGERPRINT)

    assert found.blocks == tuple(Item(Kind.BLOCK, key) for key in run.keys)
    assert (found.tail is None) == (tokens % size == 0)


def test_a_snapshot_that_is_not_passed_is_not_led_to() -> None:
    assert lineage(record(snapshots=((20, bytes(32)),)), FINGERPRINT).snapshots == ()
    assert len(BELONGINGS.snapshots) == 1
    assert BELONGINGS.own == {*BELONGINGS.snapshots, BELONGINGS.tail}


def test_a_record_of_another_model_leads_nowhere() -> None:
    with pytest.raises(ValueError, match="not those of its blocks"):
        lineage(RECORD, OTHER)


def test_the_largest_token_is_found_wherever_it_is() -> None:
    assert largest_token(RECORD) == 39
    assert (
        largest_token(attrs.evolve(RECORD, token_histories=(TokenHistory(pack([99]), ()),))) == 99
    )
    assert largest_token(attrs.evolve(RECORD, history=b"", token_histories=())) == -1
