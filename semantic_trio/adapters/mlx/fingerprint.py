"""Tells models apart, so that what one remembers is never given to another.

Knows files, and nothing of what is in their arrays. Memory under one fingerprint is worth as much
as recomputing it on the model at hand; so the fingerprint changes with whatever changes keys and
values: weights, quantisation, precision, the code that computes.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

# Changes when the same model would have to remember something else under the same name.
VERSION = 1
# Of each file: pieces over its whole length, for a fine-tune changes whole matrices; and the middle
# of every array, for it may change small ones. Of 540 MB that is 5 MB, read in 10 ms.
PIECES, PIECE_BYTES = 64, 65_536
MIDDLE_BYTES = 2_048
LARGEST_HEADER = 100_000_000  # bytes: the format's own bound


def fingerprint(path: Path, held: str) -> str:
    """SHA-256 in hexadecimal of the configuration in a directory, of its weights as far as sampled,
    and of `held`.

    `held` says how this process holds what it loaded: dtype, bits of keys and values. Does not
    depend on where the directory lies, on the times of its files or on their order.
    """
    digest = hashlib.sha256()
    _add(digest, f"{VERSION}/{metadata.version('mlx-lm')}/{held}".encode())
    _add(digest, (path / "config.json").read_bytes())
    for file in sorted(path.glob("*.safetensors"), key=lambda file: file.name):
        _add(digest, file.name.encode())
        with file.open("rb") as content:
            for part in _samples(content, file.stat().st_size):
                _add(digest, part)
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", part: bytes) -> None:
    """Each part with its length before it: no two sequences of parts are one string."""
    digest.update(struct.pack("<Q", len(part)))
    digest.update(part)


def _samples(content: BinaryIO, size: int) -> Iterator[bytes]:
    yield struct.pack("<Q", size)
    if size <= PIECES * PIECE_BYTES:
        yield content.read()
        return
    header = _header(content)
    yield header
    for start in _evenly(size):
        yield _piece(content, start, PIECE_BYTES)
    for start in _middles(header):
        yield _piece(content, start, MIDDLE_BYTES)


def _header(content: BinaryIO) -> bytes:
    (length,) = struct.unpack("<Q", content.read(8))
    return content.read(min(length, LARGEST_HEADER))


def _evenly(size: int) -> list[int]:
    return [(size - PIECE_BYTES) * piece // (PIECES - 1) for piece in range(PIECES)]


def _middles(header: bytes) -> list[int]:
    spans = [
        entry["data_offsets"]
        for name, entry in json.loads(header).items()
        if name != "__metadata__"
    ]
    return sorted(
        8 + len(header) + (start + stop) // 2 - min(MIDDLE_BYTES, stop - start) // 2
        for start, stop in spans
    )


def _piece(content: BinaryIO, start: int, size: int) -> bytes:
    content.seek(start)
    return content.read(size)
