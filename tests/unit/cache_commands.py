"""Models and agents on disk, for commands that work on the cache."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import attrs
from click.testing import CliRunner, Result

from semantic_trio.adapters.disk import CacheDirectory, CacheLock, ModelFiles
from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun, pack, root_key
from semantic_trio.domain.content import AgentRecord, Tensor
from semantic_trio.domain.lineage import lineage
from semantic_trio.entrypoints.cli import main

ONE, TWO = "ab" * 32, "cd" * 32


BLOCK_BYTES = 100_000


# Two blocks and a tail, of which the first block is shared.
HISTORIES = {
    "ada": pack([*range(256), *range(256), *range(10)]),
    "eve": pack([*range(256), *range(500, 800)]),
}


@attrs.define
class Cache:
    """A cache directory, and the commands on it."""

    root: Path

    def files(self, fingerprint: str = ONE, model: str = "org/tiny") -> ModelFiles:
        return ModelFiles(self.root, fingerprint, model)

    def remember(
        self, agent: str, used: int, fingerprint: str = ONE, model: str = "org/tiny", **more: object
    ) -> AgentRecord:
        """An agent with all its blocks."""
        run = TokenRun.of_packed(HISTORIES.get(agent, HISTORIES["ada"]), root_key(fingerprint), 256)
        flags = {
            "is_named": True,
            "is_kept": True,
            "is_pinned": False,
            "parent": None,
            "turns": 3,
            "prompt_tokens": 9,
            **more,
        }
        record = AgentRecord(id=agent, history=run.packed, used=used, chain=run.keys[-1], **flags)  # type: ignore[arg-type]
        files = self.files(fingerprint, model)
        for item in lineage(record, fingerprint):
            files.write(item, {"a": Tensor("U8", (BLOCK_BYTES,), memoryview(bytes(BLOCK_BYTES)))})
        files.write_agent(record)
        return record

    def paths(self, pattern: str) -> list[Path]:
        return sorted(path for path in self.root.rglob(pattern) if path.is_file())

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        group, *rest = arguments
        return CliRunner().invoke(main, [group, "--cache-dir", str(self.root), *rest], input=stdin)

    def facts(self, *arguments: str) -> dict[str, str]:
        """What a command says, by its name; the last of equal names."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output + result.stderr
        return dict(line.split(None, 1) for line in result.output.splitlines() if line.strip())


@contextlib.contextmanager
def held(cache: Cache, holder: str = "pid 7, org/tiny on http://127.0.0.1:9") -> Iterator[None]:
    with CacheLock(cache.root, holder):
        yield


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def tokens_here(cache: Cache, agent: str, fingerprint: str = ONE) -> int:
    """How many tokens of an agent's history are on disk, from the first on."""
    record, belongings = next(
        model for model in CacheDirectory(cache.root).models() if model.fingerprint == fingerprint
    ).agent(agent)  # type: ignore[misc]
    here, run = cache.files(fingerprint).index(), 0
    for item in belongings.blocks:
        if item not in here:
            return run
        run += 256
    return len(record.history) // TOKEN_BYTES if belongings.tail in here else run
