"""One agent as one file: a tar without compression, whose members are files as they are on disk.

    agent.safetensors                  the record, first
    blocks/<key>.safetensors           of its history, from the first on, and its tail
    marks/<key>.safetensors

Knows the form of such a file, from both sides. Knows nothing of what is in members, or of which
belong to whom. What is read may have been made to do harm: members are regular files, each once, of
bounded size, and nothing is ever unpacked to where a name says.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import attrs

from semantic_trio.adapters.disk.parsing import UnfitError, shown
from semantic_trio.domain.content import Item

RECORD = "agent.safetensors"
# Bytes of one member. A block of the largest models has some hundreds of MB, a snapshot of theirs
# up to one GB, a record a few.
LARGEST_FILE, LARGEST_RECORD = 2 << 30, 128 << 20
CHUNK_BYTES = 1 << 20
BLOCK = tarfile.BLOCKSIZE
PRIVATE_FILE = 0o600


def member_name(item: Item) -> str:
    """Return the name of a block or snapshot in an archive."""
    return f"{item.kind}s/{item.key.hex()}.safetensors"


def framed(name: str, content: memoryview) -> Iterator[bytes]:
    """A member, in pieces."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), PRIVATE_FILE
    yield info.tobuf(tarfile.USTAR_FORMAT)
    for start in range(0, len(content), CHUNK_BYTES):
        yield bytes(content[start : start + CHUNK_BYTES])
    yield bytes(-len(content) % BLOCK)


def ending() -> bytes:
    """Return the bytes that follow the last member."""
    return bytes(2 * BLOCK)


@attrs.frozen
class Member:
    """Header of an archive's next member."""

    name: str
    size: int  # bytes


@attrs.define(eq=False)
class ArchiveReader:
    """A reader of an archive from its beginning, member by member.

    Raises `UnfitError` for what is none, `OSError` as its stream does.
    """

    stream: BinaryIO
    _left: int = attrs.field(init=False, default=0)  # bytes of the member that was last told
    _padding: int = attrs.field(init=False, default=0)
    _names: set[str] = attrs.field(init=False, factory=set)

    def next_member(self, limit_bytes: int = LARGEST_FILE) -> Member | None:
        """The next member; None after the last one. The one before has to be copied first."""
        assert not self._left, "a member was not copied"
        self._exactly(self._padding)
        header = self._exactly(BLOCK)
        if not any(header):
            self._expect_end()
            return None
        member = _member(header)
        if member.size > limit_bytes:
            raise UnfitError(
                f"has {shown(member.name)} of {member.size} bytes, where {limit_bytes} may be"
            )
        if member.name in self._names:
            raise UnfitError(f"has {shown(member.name)} twice")
        self._names.add(member.name)
        self._left, self._padding = member.size, -member.size % BLOCK
        return member

    def copy_to(self, path: Path) -> None:
        """Write the member that was last told to a file."""
        with path.open("wb") as file:
            while self._left:
                file.write(self._exactly(min(self._left, CHUNK_BYTES)))
                self._left -= min(self._left, CHUNK_BYTES)

    def _exactly(self, size: int) -> bytes:
        pieces, left = [], size
        while left:
            piece = self.stream.read(left)
            if not piece:
                raise UnfitError("ends in the middle")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _expect_end(self) -> None:
        """A second block of zeros has to follow, and nothing but zeros may: tools fill the last
        record of a tape with them.
        """
        piece = self._exactly(BLOCK)
        while piece:
            if any(piece):
                raise UnfitError("goes on after its end")
            piece = self.stream.read(CHUNK_BYTES)


def _member(header: bytes) -> Member:
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "backslashreplace")
    except (tarfile.TarError, ValueError) as error:
        raise UnfitError(f"is no tar: {shown(str(error))}") from error
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise UnfitError(f"has {shown(info.name)}, which is no regular file")
    if info.size < 0:
        raise UnfitError(f"has {shown(info.name)} of {info.size} bytes")
    return Member(info.name, info.size)
