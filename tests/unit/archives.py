"""An agent as an archive, made by tests."""

import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.domain.chain import TokenRun, pack, root_key, snapshot_key
from semantic_trio.domain.content import (
    AgentRecord,
    Content,
    HistoryEnd,
    Item,
    Tensor,
    TokenHistory,
)
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.lineage import Lineage, lineage

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
