"""Directories of built models on this machine: each is there as a whole or not at all.

Knows names, versions and how to publish a directory. Knows nothing of what is in one.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
from filelock import FileLock, Timeout

from semantic_trio.adapters.catalogue.progress import Progress

# The file in a finished directory that tells which version of its recipe built it.
MARK = ".recipe"


@attrs.frozen
class Shelf:
    """A directory of finished directories. Everything below it is readable by its owner only."""

    root: Path

    def find(self, name: str, version: str) -> Path | None:
        """The finished directory of this name, unless another version of its recipe built it."""
        mark = self.root / name / MARK
        return mark.parent if mark.is_file() and mark.read_text() == version else None

    def install(
        self, name: str, version: str, build: Callable[[Path], None], progress: Progress
    ) -> Path:
        """Have `build` fill a directory and publish it under the name, unless it is there already.

        Several processes may do this at once: one builds, the others wait for it. Raises what
        `build` does, `OSError` when the disk does; a failure or a kill at any moment leaves the
        name as it was, and what is left behind beside it is wiped by the next call.
        """
        private_directory(self.root)
        lock = FileLock(self.root / f".{name}.lock", mode=0o600)
        acquire(lock, f"{name}: another process is building it", progress)
        try:
            return self.find(name, version) or self._build(name, version, build)
        finally:
            lock.release()

    def remove(self, name: str, progress: Progress) -> int:
        """Remove the directory of a name, if there is one, and return the bytes of its files.

        Whoever has files open keeps them. Raises `OSError`.
        """
        if not (self.root / name).is_dir():
            return 0
        lock = FileLock(self.root / f".{name}.lock", mode=0o600)
        acquire(lock, f"{name}: another process is building it", progress)
        try:
            size = sum(path.stat().st_size for path in _below(self.root / name) if path.is_file())
            shutil.rmtree(self.root / name)
        finally:
            lock.release()
        return size

    def _build(self, name: str, version: str, build: Callable[[Path], None]) -> Path:
        finished, old = self.root / name, self.root / f".{name}.old"
        wipe(self.root, f".{name}.building-*", old.name)
        # A name of its own, mode 0700: a child of a killed build may still be writing into that
        # one's.
        building = Path(tempfile.mkdtemp(prefix=f".{name}.building-", dir=self.root))
        try:
            build(building)
            (building / MARK).write_text(version)
            _seal(building)
            if finished.exists():  # built by another version; whoever has its files open keeps them
                finished.rename(old)
            building.rename(finished)
            _sync(self.root)
        finally:
            wipe(self.root, building.name, old.name)
        return finished


def private_directory(directory: Path) -> None:
    """Make the directory and what is missing above it, for the owner only."""
    if not directory.is_dir():
        private_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def wipe(directory: Path, *patterns: str) -> None:
    """Remove the directories of these names, if there are any."""
    for pattern in patterns:
        for leftover in directory.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


def acquire(lock: FileLock, reason: str, progress: Progress) -> None:
    """Take a lock, and say why it has to be waited for if that is so."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.step(f"{reason}, waiting")
        lock.acquire()


def _seal(directory: Path) -> None:
    """Make a directory private and durable before it gets its name."""
    for path in _below(directory):
        path.chmod(0o700 if path.is_dir() else 0o600)
        _sync(path)


def _below(directory: Path) -> Iterator[Path]:
    yield from directory.rglob("*")
    yield directory


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
