"""The place of files that turned out to be wrong, each beside a line that says why.

Knows file names. Knows nothing of what is in files.
"""

import contextlib
import re
import threading
from pathlib import Path

import attrs

from semantic_trio.adapters.disk.publishing import PRIVATE_FILE, make_private

MOST_FILES = 32  # kept, for somebody to look at; the first to come go first
NAME = re.compile(r"([a-z]+-[0-9a-f]+)-([0-9]{1,18})\.(?:safetensors|txt)")


@attrs.frozen(eq=False)
class Quarantine:
    """One directory.

    Counts the files it is given; that there are no clocks in their names means no clock can reorder
    them.
    """

    root: Path  # closed to others with all that is in it
    directory: Path
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def take(self, path: Path, name: str, reason: str) -> None:
        """Move a file here, if it is there. Raises `OSError`."""
        with self._lock:
            make_private(self.root, self.directory)
            kept = self._kept()
            number = kept[-1][0] + 1 if kept else 1
            try:
                path.rename(self.directory / f"{name}-{number}.safetensors")
            except FileNotFoundError:
                return
            # It is out of use, and that is what counts: a full disk may have no room for the
            # reason.
            with contextlib.suppress(OSError):
                self._forget([*kept, (number, name)][:-MOST_FILES])
                self._note(self.directory / f"{name}-{number}.txt", reason)

    def files(self) -> list[Path]:
        """All files in quarantine, reasons included.

        Raises `OSError` where the directory cannot be read.
        """
        return (
            [path for path in sorted(self.directory.iterdir()) if NAME.fullmatch(path.name)]
            if self.directory.is_dir()
            else []
        )

    def _kept(self) -> list[tuple[int, str]]:
        """Numbers and names, in the order of numbers."""
        found = [NAME.fullmatch(file.name) for file in self.directory.iterdir()]
        return sorted({(int(one[2]), one[1]) for one in found if one})

    def _forget(self, files: list[tuple[int, str]]) -> None:
        for number, name in files:
            for suffix in (".safetensors", ".txt"):
                (self.directory / f"{name}-{number}{suffix}").unlink(missing_ok=True)

    def _note(self, file: Path, reason: str) -> None:
        file.write_text(f"{' '.join(reason.splitlines())}\n", "utf-8", "backslashreplace")
        file.chmod(PRIVATE_FILE)
