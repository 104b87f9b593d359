"""What a server that was killed may not leave on disk, nor find there."""

import contextlib
from pathlib import Path

from semantic_trio.adapters.disk.publishing import TEMPORARY
from tests.process import ServerProcess


def unfinished(cache: Path) -> list[Path]:
    """Files that have no names yet."""
    with contextlib.suppress(FileNotFoundError):  # they come and go
        return list(cache.rglob(f"{TEMPORARY}*"))
    return []


def assert_nothing_is_damaged(server: ServerProcess, cache: Path) -> None:
    """A process that is killed damages no file that has its name."""
    assert unfinished(cache) == []
    assert list(cache.glob("quarantine/*")) == []
    assert [
        line for line in server.said.splitlines() if '"warning"' in line or '"error"' in line
    ] == []
