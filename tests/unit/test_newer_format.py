"""What a newer version has written stays as it is: going back to an older version destroys no
memory.
"""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from trio.testing import MockClock

from semantic_trio.adapters.disk import CacheDirectory, ModelFiles
from semantic_trio.adapters.disk import format as file_format
from semantic_trio.adapters.disk.directory import Damaged, Newer
from semantic_trio.adapters.disk.format import Label
from semantic_trio.adapters.disk.layout import ModelPaths
from semantic_trio.adapters.disk.records import encode
from semantic_trio.application.archives import Archives
from semantic_trio.domain.chain import pack, root_key
from semantic_trio.domain.content import AgentRecord, Content, Item, Kind, Tensor
from semantic_trio.domain.errors import (
    AgentExistsError,
    CachePersistenceError,
    IncompatibleCacheError,
)
from semantic_trio.testing import MemoryFiles
from tests.unit.conftest import StartServer, prompt

FINGERPRINT = "ab" * 32
BLOCK = Item(Kind.BLOCK, bytes(range(32)))
CONTENT: Content = {"a": Tensor("U8", (2,), memoryview(b"ab"))}


def record(agent: str) -> AgentRecord:
    flags = {"is_named": True, "is_kept": True, "is_pinned": False}
    history, chain = pack(range(100)), root_key(FINGERPRINT)
    return AgentRecord(
        id=agent,
        **flags,
        parent=None,
        turns=1,
        used=1,
        history=history,
        prompt_tokens=9,
        chain=chain,
    )


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return ModelFiles(tmp_path, FINGERPRINT, "tiny")


@pytest.fixture
def before(files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Path, bytes]:
    """Files of a newer version: fifty agents, which are more than the quarantine keeps, and a
    block.
    """
    with monkeypatch.context() as newer:
        newer.setattr(file_format, "FORMAT", "semantic_trio/2")
        for number in range(50):
            files.write_agent(record(f"agent-{number}"))
        files.write(BLOCK, CONTENT)
    return {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}


def test_agents_of_a_newer_version_are_left_and_told_once(
    files: ModelFiles, before: dict[Path, bytes], tmp_path: Path
) -> None:
    files.write_agent(record("ours"))

    with capture_logs() as logs:
        found = files.agents()

    assert [one.id for one in found] == ["ours"]
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "quarantine").exists()
    assert [(line["event"], line["agents"]) for line in logs] == [
        ("agents of a newer version are left as they are", 50)
    ]
    assert "semantic_trio/2" in logs[0]["reason"]
    assert "agent-7" in files.newer()
    assert "ours" not in files.newer()


def test_a_record_with_a_field_of_a_newer_version_is_left_too(
    files: ModelFiles, tmp_path: Path
) -> None:
    content, path = dict(encode(record("ada"))), ModelPaths(tmp_path, FINGERPRINT).path("ada")
    text = json.dumps({**json.loads(bytes(content["agent"].data)), "later": 1}).encode()
    path.parent.mkdir(parents=True)
    file_format.write(
        path,
        Label("agent", "ada", FINGERPRINT, "tiny"),
        {**content, "agent": Tensor("U8", (len(text),), memoryview(text))},
    )

    assert files.agents() == []
    assert "ada" in files.newer()
    assert path.exists()


def test_a_block_of_a_newer_version_is_not_read_and_stays(
    files: ModelFiles, before: dict[Path, bytes]
) -> None:
    with pytest.raises(IncompatibleCacheError, match="newer version"):
        files.read(BLOCK)

    assert {path: path.read_bytes() for path in before} == before


def test_looking_and_cleaning_by_hand_leave_what_is_a_newer_versions(
    files: ModelFiles, before: dict[Path, bytes], tmp_path: Path
) -> None:
    files.write(Item(Kind.BLOCK, bytes(32)), CONTENT)  # tells which model it is
    [model] = CacheDirectory(tmp_path).models()

    found = list(model.damaged())

    assert sum(isinstance(one, Newer) for one in found) == len(before)
    assert not any(isinstance(one, Damaged) for one in found)
    assert model.has_newer
    assert model.unreached() == [], "what the agents of the newer version lead to is not known"


async def test_an_agent_of_a_newer_version_is_not_written_over(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    files = MemoryFiles(by_newer={"ada"})
    files.write_agent(record("ada"))
    server = await start_server(files)

    await server.said(prompt(40), agent="ada")
    await server.said(prompt(40, 1), agent="eve")
    await server.settle()
    server.memory.delete(server.memory.agents.get("ada"))
    await server.settle()

    assert [one.id for one in files.agents()] == ["eve"]
    assert files._records["ada"] == record("ada")


async def test_no_agent_is_made_with_the_id_of_one_of_a_newer_version(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(MemoryFiles(by_newer={"ada"}))

    with pytest.raises(AgentExistsError):
        server.memory.create("ada")


async def test_an_agent_that_is_kept_and_finds_no_place_stays_on_disk(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    for name in ("ada", "eve"):
        first.memory.write(first.memory.create(name))
    await first.end()
    second = await start_server(first.files, max_agents=1)
    [known] = second.memory.agents

    second.memory.delete(known)
    [lost] = {"ada", "eve"} - {known.id}
    with pytest.raises(AgentExistsError):
        second.memory.create(lost)
    await second.settle()

    assert [one.id for one in second.files.agents()] == [lost]


async def test_an_agent_whose_record_is_a_newer_versions_is_not_exported(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(MemoryFiles(by_newer={"ada"}))
    await server.said(prompt(40), agent="ada")

    with pytest.raises(CachePersistenceError, match="newer version"):
        await Archives(server.persistence).write_out(server.memory.agents.get("ada"), 1)


async def test_a_block_of_a_newer_version_is_computed_again(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server()
    await server.said(prompt(100), agent="a")
    await server.cool()

    def refuse(method: str) -> None:
        if method == "read":
            raise IncompatibleCacheError("a block", "is of format semantic_trio/2")

    server.files.before = refuse
    again = await server.reuse(prompt(100), agent="a")
    await server.settle()

    assert again.tokens == 0
    assert server.files.put_aside_for == []
