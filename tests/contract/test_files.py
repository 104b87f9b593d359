"""What the engine relies on in files, claimed of those in memory and on disk alike; and what others
may rely on in those on disk.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import attrs
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.domain.chain import TokenRun, pack, root_key
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
from semantic_trio.domain.errors import AgentExistsError, CacheCorruptionError, InvalidRequestError
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.lineage import lineage
from semantic_trio.ports.cache_files import CacheFiles
from semantic_trio.testing import MemoryFiles

FINGERPRINT, OTHER = "ab" * 32, "cd" * 32
BLOCK, SNAPSHOT = Item(Kind.BLOCK, bytes(range(32))), Item(Kind.SNAPSHOT, bytes(range(32)))
ITEMS = [BLOCK, SNAPSHOT, Item(Kind.BLOCK, bytes(32))]
SAID = Conversation((Message(Role.USER, (Text("Hello"),), Rank.LONG),))
HISTORY_OF_TOKENS = TokenHistory(pack(range(30)), (HistoryEnd(bytes(32), 30, is_answer=True),))


def record(agent: str = "main", used: int = 1) -> AgentRecord:
    flags = {"is_named": True, "is_kept": False, "is_pinned": True}
    more = {
        "chain": bytes(32),
        "snapshots": ((5, bytes(32)),),
        "conversation": SAID,
        "token_histories": (HISTORY_OF_TOKENS,),
    }
    return AgentRecord(
        id=agent,
        **flags,
        parent="mother",
        turns=2,
        used=used,
        history=pack(range(20)),
        prompt_tokens=9,
        text_fingerprint="7e",
        **more,
    )


def numbers(*values: float, dtype: str = "F32") -> Tensor:
    kinds = {"F32": "<f4", "I32": "<i4", "U8": "u1"}
    array = np.array(values, kinds[dtype])
    return Tensor(dtype, array.shape, memoryview(array.tobytes()))


CONTENT: Content = {
    "a": numbers(1.5, -2, 0),
    "ids": numbers(7, 8, dtype="I32"),
    "one": Tensor("F32", (), memoryview(np.array(0.5, "<f4").tobytes())),
    "none": Tensor("F16", (3, 0), memoryview(b"")),
    "half": Tensor("BF16", (2, 1), memoryview(b"abcd")),
}


def plain(content: Content) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (tensor.dtype, tensor.shape, bytes(tensor.data)) for name, tensor in content.items()
    }


@attrs.frozen
class Bench:
    """Files, and what may happen to them from outside."""

    files: CacheFiles
    restarted: Callable[[], CacheFiles]
    elsewhere: Callable[[str], CacheFiles]  # another directory, of the model of a fingerprint
    damage: Callable[[Item | str], None]
    put_aside: Callable[[], int]


def in_memory() -> Bench:
    files = MemoryFiles(fingerprint=FINGERPRINT)
    return Bench(
        files,
        lambda: files,
        lambda fingerprint: MemoryFiles(fingerprint=fingerprint),
        files.damage,
        lambda: len(files.put_aside_for),
    )


def on_disk(root: Path) -> Bench:
    files = ModelFiles(root, FINGERPRINT, "tiny")

    def damage(what: Item | str) -> None:
        pattern = "agents/*" if isinstance(what, str) else f"{what.kind}s/*/{what.key.hex()}"
        [file] = (root / "memory" / FINGERPRINT[:32]).glob(f"{pattern}.safetensors")
        file.write_bytes(file.read_bytes()[:-1])

    def elsewhere(fingerprint: str) -> CacheFiles:
        return ModelFiles(root.with_name("other"), fingerprint, "tiny")

    return Bench(
        files,
        lambda: ModelFiles(root, FINGERPRINT, "tiny"),
        elsewhere,
        damage,
        lambda: len(list((root / "quarantine").glob("*.safetensors"))),
    )


@pytest.fixture(params=["memory", "disk"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return in_memory() if request.param == "memory" else on_disk(tmp_path / "cache")


@pytest.fixture
def files(bench: Bench) -> CacheFiles:
    return bench.files


def test_at_first_there_is_nothing(files: CacheFiles) -> None:
    assert (dict(files.index()), list(files.agents())) == ({}, [])
    assert files.free_bytes() > 0


def test_what_is_written_is_read_by_whoever_comes_after(bench: Bench) -> None:
    for item in ITEMS:
        bench.files.write(item, {**CONTENT, "key": Tensor("U8", (32,), memoryview(item.key))})

    again = bench.restarted()

    for item in ITEMS:
        assert plain(again.read(item)) == plain(
            {**CONTENT, "key": Tensor("U8", (32,), memoryview(item.key))}
        )


def test_a_block_and_a_snapshot_of_one_key_are_two(files: CacheFiles) -> None:
    files.write(BLOCK, {"a": numbers(1)})
    files.write(SNAPSHOT, {"a": numbers(2)})

    assert plain(files.read(BLOCK)) == plain({"a": numbers(1)})


def test_content_without_anything_is_something(files: CacheFiles) -> None:
    files.write(BLOCK, {})

    assert (list(files.index()), dict(files.read(BLOCK))) == ([BLOCK], {})


def test_what_is_written_again_replaces_what_was_there(files: CacheFiles) -> None:
    files.write(BLOCK, CONTENT)
    size = files.write(BLOCK, {"a": numbers(*range(1000))})

    assert plain(files.read(BLOCK)) == plain({"a": numbers(*range(1000))})
    assert dict(files.index()) == {BLOCK: size}


def test_what_is_written_stays_whatever_becomes_of_the_original(files: CacheFiles) -> None:
    original = bytearray(b"abcd")
    files.write(BLOCK, {"a": Tensor("U8", (4,), memoryview(original))})
    original[:] = b"...."

    assert bytes(files.read(BLOCK)["a"].data) == b"abcd"


def test_the_index_tells_what_writing_has_told(bench: Bench) -> None:
    told = {item: bench.files.write(item, CONTENT) for item in ITEMS}

    assert dict(bench.files.index()) == dict(bench.restarted().index()) == told
    assert min(told.values()) > sum(len(tensor.data) for tensor in CONTENT.values())


def test_what_was_removed_is_gone(bench: Bench) -> None:
    bench.files.write(BLOCK, CONTENT)
    bench.files.write(SNAPSHOT, CONTENT)

    bench.files.remove(BLOCK)

    assert list(bench.files.index()) == [SNAPSHOT]
    with pytest.raises(CacheCorruptionError, match="is gone"):
        bench.files.read(BLOCK)
    assert bench.put_aside() == 0


def test_removing_what_is_not_there_is_nothing(bench: Bench) -> None:
    bench.files.remove(BLOCK)
    bench.files.remove_agent("main")
    bench.files.put_aside(SNAPSHOT, "it is wrong")
    bench.files.put_aside("main", "it is wrong")

    assert bench.put_aside() == 0


@pytest.mark.parametrize("item", [BLOCK, SNAPSHOT])
def test_what_is_damaged_is_read_once_at_most(bench: Bench, item: Item) -> None:
    bench.files.write(item, CONTENT)
    bench.damage(item)

    with pytest.raises(CacheCorruptionError) as damaged:
        bench.files.read(item)

    assert item.key.hex() in damaged.value.name
    assert damaged.value.reason != "is gone"
    assert (dict(bench.restarted().index()), bench.put_aside()) == ({}, 1)
    with pytest.raises(CacheCorruptionError, match="is gone"):
        bench.files.read(item)


def test_the_place_of_what_was_damaged_can_be_taken_again(bench: Bench) -> None:
    bench.files.write(BLOCK, CONTENT)
    bench.damage(BLOCK)
    with pytest.raises(CacheCorruptionError):
        bench.files.read(BLOCK)

    bench.files.write(BLOCK, CONTENT)

    assert plain(bench.files.read(BLOCK)) == plain(CONTENT)


def test_what_was_damaged_is_mended_by_writing_it_again(bench: Bench) -> None:
    bench.files.write(BLOCK, CONTENT)
    bench.damage(BLOCK)

    bench.files.write(BLOCK, CONTENT)

    assert plain(bench.files.read(BLOCK)) == plain(CONTENT)


def test_what_turned_out_to_be_wrong_is_out_of_use(bench: Bench) -> None:
    for item in ITEMS:
        bench.files.write(item, CONTENT)
    bench.files.write_agent(record())

    bench.files.put_aside(BLOCK, "the model has other layers")
    bench.files.put_aside("main", "its chain is another")

    assert set(bench.restarted().index()) == {*ITEMS} - {BLOCK}
    assert (list(bench.restarted().agents()), bench.put_aside()) == ([], 2)


def test_records_come_back_in_the_order_of_their_use(bench: Bench) -> None:
    for used, agent in [(3, "c"), (1, "a"), (2, "b")]:
        assert bench.files.write_agent(record(agent, used)) > 0

    found = bench.restarted().agents()

    assert list(found) == [record("a", 1), record("b", 2), record("c", 3)]
    assert found[0].conversation.messages[0].rank is Rank.LONG


def test_a_record_takes_the_place_of_the_one_before(bench: Bench) -> None:
    bench.files.write_agent(record(used=1))
    bench.files.write_agent(record(used=2))

    assert list(bench.restarted().agents()) == [record(used=2)]


def test_agents_are_told_apart_by_every_letter(bench: Bench) -> None:
    for used, agent in enumerate(["main", "Main", "main.", "MAIN"]):
        bench.files.write_agent(record(agent, used))

    bench.files.remove_agent("Main")

    assert [found.id for found in bench.restarted().agents()] == ["main", "main.", "MAIN"]


def test_a_damaged_record_is_put_aside(bench: Bench) -> None:
    bench.files.write_agent(record())
    bench.damage("main")

    assert (list(bench.files.agents()), bench.put_aside()) == ([], 1)
    assert list(bench.restarted().agents()) == []


def test_records_are_not_in_the_index(files: CacheFiles) -> None:
    files.write_agent(record())

    assert dict(files.index()) == {}


# ----------------------------------------------------------------------------------------- archives

HISTORY = TokenRun.of_packed(pack(range(40)), root_key(FINGERPRINT), 16)
PATH = [Item(Kind.BLOCK, key) for key in HISTORY.keys]
TRAVELLER = attrs.evolve(record(), history=HISTORY.packed, chain=HISTORY.keys[-1], snapshots=())


def exported(files: CacheFiles) -> bytes:
    for item in PATH:
        files.write(item, CONTENT)
    return b"".join(files.archives.export_agent(TRAVELLER))


def spooled(files: CacheFiles, archive: bytes) -> BinaryIO:
    spool = files.archives.spool()
    spool.write(archive)
    spool.seek(0)
    return spool


def test_an_agent_that_was_exported_is_imported_elsewhere(bench: Bench) -> None:
    archive, into = exported(bench.files), bench.elsewhere(FINGERPRINT)

    with spooled(into, archive) as spool:
        found = into.archives.import_agent(spool)

    assert found == attrs.evolve(TRAVELLER, is_kept=True, is_pinned=False, used=0)
    assert [plain(into.read(item)) for item in PATH] == [plain(CONTENT)] * 2
    assert list(into.agents()) == []
    assert set(bench.files.index()) == {*PATH}, "it is still where it was"


def test_an_agent_is_imported_under_another_salt_and_so_under_other_names(bench: Bench) -> None:
    archive, into, salt = exported(bench.files), bench.elsewhere(FINGERPRINT), b"s" * 32
    into.write(PATH[0], {"a": numbers(7)})

    with spooled(into, archive) as spool:
        found = into.archives.import_agent(spool, None, salt)

    names = [item for item in lineage(found, FINGERPRINT) if item in into.index()]
    assert (found.salt, found.history) == (salt, TRAVELLER.history)
    assert [plain(into.read(item)) for item in names] == [plain(CONTENT)] * 2
    assert set(into.index()) == {PATH[0], *names}, "nothing comes under the names it had"
    assert plain(into.read(PATH[0])) == plain({"a": numbers(7)})
    assert b"".join(into.archives.export_agent(found))


def test_an_agent_may_be_imported_under_another_name_and_beside_itself(bench: Bench) -> None:
    archive = exported(bench.files)
    bench.files.write_agent(TRAVELLER)

    with spooled(bench.files, archive) as spool, pytest.raises(AgentExistsError):
        bench.files.archives.import_agent(spool)
    with spooled(bench.files, archive) as spool:
        assert bench.files.archives.import_agent(spool, "second").id == "second"


def test_what_is_damaged_is_not_exported(bench: Bench) -> None:
    exported(bench.files)
    bench.damage(PATH[0])
    archive, into = (
        b"".join(bench.files.archives.export_agent(TRAVELLER)),
        bench.elsewhere(FINGERPRINT),
    )

    with spooled(into, archive) as spool:
        into.archives.import_agent(spool)

    assert set(into.index()) == {PATH[1]}


def test_what_is_there_is_not_replaced_by_an_import(bench: Bench) -> None:
    archive, into = exported(bench.files), bench.elsewhere(FINGERPRINT)
    into.write(PATH[0], {"a": numbers(7)})

    with spooled(into, archive) as spool:
        into.archives.import_agent(spool)

    assert [plain(into.read(item)) for item in PATH] == [plain({"a": numbers(7)}), plain(CONTENT)]


def test_an_agent_is_imported_under_no_id_of_the_servers_own_but_its_own(bench: Bench) -> None:
    archive, into = exported(bench.files), bench.elsewhere(FINGERPRINT)

    with spooled(into, archive) as spool, pytest.raises(InvalidRequestError, match="dot"):
        into.archives.import_agent(spool, ".auto-1")

    assert (into.agents(), into.index()) == ([], {})


@pytest.mark.parametrize(("fingerprint", "cut"), [(FINGERPRINT, 1), (FINGERPRINT, 5), (OTHER, 0)])
def test_what_is_not_whole_or_another_models_is_refused_and_leaves_nothing(
    bench: Bench, fingerprint: str, cut: int
) -> None:
    archive, into = exported(bench.files), bench.elsewhere(fingerprint)

    with (
        spooled(into, archive[: len(archive) - cut]) as spool,
        pytest.raises(InvalidRequestError) as refused,
    ):
        into.archives.import_agent(spool)

    assert refused.value.field == "archive"
    assert (dict(into.index()), list(into.agents())) == ({}, [])


# ------------------------------------------------------------------------------------ for everybody


def test_files_on_disk_can_be_read_with_safetensors(tmp_path: Path) -> None:
    ModelFiles(tmp_path, "ab" * 32, "tiny").write(BLOCK, CONTENT)
    [file] = tmp_path.rglob("*.safetensors")

    found = load_file(file)

    assert {name: array.shape for name, array in found.items()} == {
        name: tensor.shape for name, tensor in CONTENT.items()
    }
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: bytes(tensor.data) for name, tensor in CONTENT.items()
    }
    assert (found["a"].tolist(), found["ids"].tolist(), found["one"].tolist()) == (
        [1.5, -2, 0],
        [7, 8],
        0.5,
    )
    with safe_open(file, framework="np") as opened:
        assert opened.metadata()["model"] == "tiny"


def test_records_on_disk_can_be_read_with_safetensors(tmp_path: Path) -> None:
    ModelFiles(tmp_path, "ab" * 32, "tiny").write_agent(record())
    [file] = tmp_path.rglob("*.safetensors")

    assert load_file(file)["history"].tolist() == list(range(20))
