"""Counters of the disk tier."""

import attrs


@attrs.define
class Traffic:
    """Bytes, seconds and entries written to and read from disk."""

    written_bytes: int = 0
    write_seconds: float = 0.0
    read_bytes: int = 0
    read_tokens: int = 0
    read_seconds: float = 0.0  # with at least one file being read
    slower: int = 0  # times that reading took longer than computing would have taken
    damaged: int = 0  # blocks, snapshots and records
    evicted: int = 0  # blocks and snapshots deleted for others
