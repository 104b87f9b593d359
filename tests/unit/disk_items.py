"""Items of a disk tier in unit tests: where one is, and files that refuse to write it."""

import errno

from semantic_trio.domain.content import Item, Kind
from semantic_trio.testing import MemoryFiles
from tests.unit.conftest import Server


def refusing(*methods: str) -> MemoryFiles:
    """Files of which these methods fail."""

    def refuse(method: str) -> None:
        if method in methods:
            raise OSError(errno.EROFS, "read-only file system")

    return MemoryFiles(before=refuse)


def item_at(server: Server, history: tuple[int, ...], index: int) -> Item:
    """The block of a history."""
    return Item(Kind.BLOCK, server.memory.run(history).keys[index])
