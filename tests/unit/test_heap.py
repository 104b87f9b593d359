import ctypes
from pathlib import Path

import pytest

from semantic_trio.adapters.heap import trim_heap

HAS_TRIM = hasattr(ctypes.CDLL(None), "malloc_trim")
MIB = 1 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not HAS_TRIM, reason="the C library returns memory by itself")
def test_returns_what_is_free_below_what_is_not() -> None:
    # malloc writes a header into each, so all are resident
    blocks = [bytes(4096) for _ in range(200 * MIB // 4096)]
    held = blocks[-1]  # above the others in the heap
    full = resident()
    del blocks

    trim_heap()

    assert resident() < full - 150 * MIB
    assert len(held) == 4096


def test_does_nothing_where_the_c_library_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())

    trim_heap()
