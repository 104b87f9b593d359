"""The file of the event log: whole lines are appended, and a full file is put aside.

Blocking. Knows lines and sizes. Knows nothing of the server.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import attrs
import msgspec

from semantic_trio.adapters.events.lines import line_of
from semantic_trio.domain.observation import Observed

# Size of a file, and the number of full ones kept beside it: 50 MB are about 250,000 events.
FILE_BYTES, FULL_FILES = 10_000_000, 4


@attrs.frozen
class EventFile:
    """A sink: `path`, and `path.1` (the youngest) to `path.4`, readable by their owner alone."""

    path: Path

    def write(self, batch: Sequence[Observed]) -> None:
        """See `Sink`. If the disk refuses, nothing of the batch stays in the file."""
        encoder = msgspec.json.Encoder()
        text = b"".join(encoder.encode(line_of(observed)) + b"\n" for observed in batch)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._size() + len(text) > FILE_BYTES:
            self._rotate()
        self._append(text)

    def _append(self, text: bytes) -> None:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                text = b"\n" + text  # the process before was ended within a line
            try:
                _write_all(file, text)
            except OSError:
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def _rotate(self) -> None:
        names = [
            self.path,
            *(
                self.path.with_name(f"{self.path.name}.{number}")
                for number in range(1, FULL_FILES + 1)
            ),
        ]
        for younger, older in reversed(list(zip(names, names[1:], strict=False))):
            with contextlib.suppress(FileNotFoundError):
                younger.replace(older)


def _write_all(file: int, text: bytes) -> None:
    """Write all bytes: the system may take fewer at a time."""
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(file, rest) :]
