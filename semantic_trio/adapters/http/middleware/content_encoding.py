"""Compressed bodies, decoded within the bounds on bodies.

Knows `content-encoding` and zlib. Knows nothing of what the bodies hold. zstd and brotli would each
need a dependency of their own.
"""

import zlib
from collections.abc import Mapping

import trio

from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.middleware.bodies import ReservedBytes, too_large

# Bytes decoded at a time, between two checks of the bounds and a turn of other tasks: about 1 ms.
CHUNK_BYTES = 1 << 18
GZIP_WINDOW = 16 + zlib.MAX_WBITS
# Encodings by name, with the windows zlib tries for them: some clients send deflate without its
# frame.
WINDOWS: Mapping[str, tuple[int, ...]] = {
    "gzip": (GZIP_WINDOW,),
    "x-gzip": (GZIP_WINDOW,),
    "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),
}
ACCEPTED = "gzip, deflate"


def encoding_of(headers: Mapping[str, str]) -> str | None:
    """Return the encoding of a body, None without one.

    Raises `Fault` 415 for an encoding that is not supported.
    """
    names = [name.strip().lower() for name in headers.get("content-encoding", "").split(",")]
    applied = [name for name in names if name not in {"", "identity"}]
    if not applied:
        return None
    if len(applied) > 1 or applied[0] not in WINDOWS:
        raise not_decoded(", ".join(applied))
    return applied[0]


def not_decoded(names: str) -> Fault:
    """Return the error for an encoding that is not supported, with the encodings that are."""
    return Fault(
        415,
        f"content-encoding {names!r} is not supported: send {ACCEPTED} or none",
        field="content-encoding",
        accepts=ACCEPTED,
    )


async def decoded(body: bytes, encoding: str, limit_bytes: int, held: ReservedBytes) -> bytes:
    """Decode a body, with its decoded bytes reserved in `held`.

    Raises `Fault` 400 for a body that is not in that encoding, 413 beyond `limit_bytes`, and what
    `HeldBytes.add` raises.
    """
    window = _window(body, encoding)
    chunks: list[bytes] = []
    size = 0
    while body:  # a gzip file may have several members
        inflater = zlib.decompressobj(window)
        while not inflater.eof:
            chunk, body = _next_chunk(inflater, body, encoding)
            size += len(chunk)
            if size > limit_bytes:
                raise too_large(limit_bytes)
            held.add(len(chunk))
            chunks.append(chunk)
            await trio.lowlevel.checkpoint()
        body = inflater.unused_data
    return b"".join(chunks)


def _next_chunk(inflater: "zlib._Decompress", body: bytes, name: str) -> tuple[bytes, bytes]:
    """Return the next decoded chunk, and the rest of the body that belongs to the same member."""
    try:
        chunk = inflater.decompress(body, CHUNK_BYTES)
    except zlib.error as error:
        raise _damaged(name) from error
    if not (chunk or inflater.eof or inflater.unconsumed_tail):
        raise _damaged(name)  # the body was cut off
    return chunk, inflater.unconsumed_tail


def _window(body: bytes, name: str) -> int:
    """Return the first zlib window that can decode the beginning of a body."""
    for window in WINDOWS[name]:
        try:
            zlib.decompressobj(window).decompress(body[:64], 1)
        except zlib.error:
            continue
        return window
    raise _damaged(name)


def _damaged(name: str) -> Fault:
    return Fault(400, f"the body is not valid {name}", field="content-encoding")
