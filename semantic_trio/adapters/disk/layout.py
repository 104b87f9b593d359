"""Paths of the files of one model.

    <root>/memory/<fingerprint>/blocks/<ab>/<key>.safetensors    and so for snapshots, in marks/;
    <ab> is what the key begins with <root>/memory/<fingerprint>/agents/<digest>.safetensors      of
    the agent's id: file systems differ in which ids are one name <root>/quarantine/

Knows directories and file names, and no file from the inside.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from semantic_trio.adapters.disk.publishing import TEMPORARY, close_to_others
from semantic_trio.domain.content import Item, Kind

AGENT = "agent"  # the kind of file that is no `Kind`
SHORT = 32  # hexadecimal digits: enough to tell models, and agents, apart
SHARD = re.compile(r"[0-9a-f]{2}")
KEY_FILE = re.compile(r"([0-9a-f]{64})\.safetensors")
AGENT_FILE = re.compile(r"[0-9a-f]{32}\.safetensors")


@attrs.frozen
class ModelPaths:
    """The directories of one model, whether they are there or not."""

    root: Path
    fingerprint: str

    @property
    def home(self) -> Path:
        """Directory of this model alone."""
        return self.root / "memory" / self.fingerprint[:SHORT]

    @property
    def agents(self) -> Path:
        """Directory of the records of agents."""
        return self.home / "agents"

    @property
    def quarantine(self) -> Path:
        """Directory of the damaged files of all models."""
        return self.root / "quarantine"

    def path(self, what: Item | str) -> Path:
        """The file of a block or snapshot, or of an agent by its id."""
        if isinstance(what, str):
            return self.agents / _agent_file(what)
        key = what.key.hex()
        return self._kept(what.kind) / key[:2] / f"{key}.safetensors"

    def name(self, path: Path) -> str:
        """Return the name of a file for people."""
        return str(path.relative_to(self.home))

    def items(self) -> Iterator[tuple[Item, int]]:
        """The blocks and snapshots that are there, with the size of their files.

        Raises `OSError`.
        """
        for kind in Kind:
            for shard in self._shards(kind):
                for entry in _entries(shard):
                    named = KEY_FILE.fullmatch(entry.name)
                    if (
                        named
                        and entry.name.startswith(shard.name)
                        and entry.is_file(follow_symlinks=False)
                    ):
                        yield (
                            Item(kind, bytes.fromhex(named[1])),
                            entry.stat(follow_symlinks=False).st_size,
                        )

    def records(self) -> list[Path]:
        """The files of agents that are there. Raises `OSError`."""
        return [
            Path(entry.path) for entry in _entries(self.agents) if AGENT_FILE.fullmatch(entry.name)
        ]

    def elsewhere(self) -> "AgentFiles":
        """The agents other models have records of. Raises `OSError`."""
        homes = [
            Path(entry.path)
            for entry in _entries(self.home.parent)
            if entry.name != self.home.name and entry.is_dir(follow_symlinks=False)
        ]
        return AgentFiles(
            frozenset(entry.name for home in homes for entry in _entries(home / self.agents.name))
        )

    def tidy(self) -> None:
        """Close what is open to others, and remove what was begun and not finished.

        Raises `OSError` where a directory cannot be read.
        """
        for directory in self._directories():
            close_to_others(directory)
        for path in self.temporaries():
            with contextlib.suppress(OSError):
                path.unlink()

    def temporaries(self) -> list[Path]:
        """Return files that were begun and not finished.

        Raises `OSError` where a directory cannot be read.
        """
        entries = [entry for directory in self._directories() for entry in _entries(directory)]
        return [
            Path(entry.path)
            for entry in entries
            if entry.name.startswith(TEMPORARY) and entry.is_file(follow_symlinks=False)
        ]

    def _directories(self) -> list[Path]:
        shards = [shard for kind in Kind for shard in self._shards(kind)]
        return [
            self.root,
            self.home.parent,
            self.home,
            *map(self._kept, Kind),
            self.agents,
            self.quarantine,
            *shards,
        ]

    def _kept(self, kind: Kind) -> Path:
        return self.home / f"{kind}s"

    def _shards(self, kind: Kind) -> Iterator[Path]:
        for entry in _entries(self._kept(kind)):
            if SHARD.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)


@attrs.frozen
class AgentFiles:
    """Agents by the names of their files."""

    files: frozenset[str]

    def __contains__(self, agent: object) -> bool:
        return isinstance(agent, str) and _agent_file(agent) in self.files


def _agent_file(agent: str) -> str:
    return f"{hashlib.sha256(agent.encode()).hexdigest()[:SHORT]}.safetensors"


def _entries(directory: Path) -> list["os.DirEntry[str]"]:
    """Return the entries of a directory; none where there is no directory."""
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
