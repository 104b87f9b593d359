"""Rates: of reading a directory, and those that a running server has measured."""

import contextlib
import fcntl
import http.client
import os
import re
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

import attrs

from semantic_trio.entrypoints.claude import ANYWHERE
from semantic_trio.entrypoints.settings import Settings

PROBE_BYTES, PIECE_BYTES = 64 << 20, 1 << 20
ANSWER_SECONDS = 2.0
COMPUTED, READ = "semantic_prefill_tokens_per_second", "semantic_disk_read_tokens_per_second"


@attrs.frozen
class Rates:
    """Tokens of prompts per second; 0: not measured yet."""

    computed: float
    read: float
    layout: str = ""  # how rows go through the model; empty: it does not say


def read_rate(directory: Path) -> float:
    """Bytes per second that come from a file in a directory, from the disk as far as the system
    lets us.

    Leaves nothing. Raises `OSError`.
    """
    piece = os.urandom(PIECE_BYTES)  # nothing that a file system could compress
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(PROBE_BYTES // PIECE_BYTES):
            file.write(piece)
        os.fsync(file.fileno())
        _forget_what_is_cached(file)
        file.seek(0)
        started = time.perf_counter()
        while file.read(PIECE_BYTES):
            pass
        return PROBE_BYTES / max(time.perf_counter() - started, 1e-6)


def ask_rates(settings: Settings) -> Rates | None:
    """Return the rates of the server on the port of these settings; None where none answers."""
    connection = http.client.HTTPConnection(
        ANYWHERE.get(settings.host, settings.host).strip("[]"),
        settings.port,
        timeout=ANSWER_SECONDS,
    )
    try:
        with contextlib.closing(connection):
            connection.request(
                "GET", "/metrics", headers={"x-api-key": settings.key} if settings.key else {}
            )
            with connection.getresponse() as response:
                text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    computed, read = _value(COMPUTED, text), _value(READ, text)
    layout = re.search(r'^semantic_layout_info\{layout="([^"]*)"\}', text, re.MULTILINE)
    return (
        None
        if computed is None or read is None
        else Rates(computed, read, layout[1] if layout else "")
    )


def _forget_what_is_cached(file: "tempfile._TemporaryFileWrapper[bytes] | BinaryIO") -> None:
    """Have the next read come from the disk: best effort."""
    with contextlib.suppress(OSError):
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        elif hasattr(fcntl, "F_NOCACHE"):  # macOS
            fcntl.fcntl(file.fileno(), fcntl.F_NOCACHE, 1)


def _value(name: str, exposition: str) -> float | None:
    found = re.search(rf"^{name} (\S+)$", exposition, re.MULTILINE)
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None
