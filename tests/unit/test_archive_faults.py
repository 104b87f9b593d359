"""An archive is refused where it is not what it should be, whoever has made it."""

import errno
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from semantic_trio.adapters.disk import format as file_format
from semantic_trio.adapters.disk.format import Label
from semantic_trio.adapters.disk.parsing import UnfitError
from semantic_trio.adapters.disk.records import encode
from semantic_trio.adapters.disk.travel import label_of
from semantic_trio.domain.chain import TokenRun, pack
from semantic_trio.domain.content import (
    Content,
    Item,
    Kind,
    TokenHistory,
)
from semantic_trio.domain.errors import AgentExistsError, InvalidRequestError
from semantic_trio.domain.lineage import largest_token, lineage
from tests.unit.archives import (
    BELONGINGS,
    FINGERPRINT,
    OTHER,
    RECORD,
    ROOT,
    exported,
    files,
    files_in,
    filled,
    members,
    packed,
    record,
    sized,
    taken_in,
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return exported(filled(tmp_path_factory.mktemp("source")))


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
