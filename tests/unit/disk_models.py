"""Files of one model, written by tests."""

import functools
import hashlib
import json
import tempfile
from pathlib import Path

import xxhash

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.domain.chain import pack
from semantic_trio.domain.content import AgentRecord, Content, Item, Kind, Tensor

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


def the_file(directory: Path) -> Path:
    [found] = (directory / "memory").rglob("*.safetensors")
    return found


def plain(content: Content) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (tensor.dtype, tensor.shape, bytes(tensor.data)) for name, tensor in content.items()
    }


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
