"""One process per cache directory.

Knows the lock, which the kernel takes back however its holder ends, and what that one says of itself.
"""

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
from filelock import FileLock, Timeout

from semantic_trio.adapters.disk.publishing import PRIVATE_FILE, make_private, publish
from semantic_trio.domain.errors import CacheInUseError

SHOWN_BYTES = 500  # of what a holder says


@attrs.define(eq=False)
class CacheLock:
    """A directory that is this process's alone while the context lasts. It is made where there is none."""

    directory: Path
    holder: str  # one line for whoever finds it locked: "pid 123, smollm2-135m, http://127.0.0.1:8000"
    _lock: FileLock = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._lock = FileLock(self.directory / "lock", mode=PRIVATE_FILE, thread_local=False)  # may be released by another thread than took it

    def __enter__(self) -> Self:
        """Raises `CacheInUseError` where another process has it, `OSError` where the directory cannot be made or written."""
        make_private(self.directory, self.directory)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise CacheInUseError(str(self.directory), self._told()) from None
        with contextlib.suppress(OSError):  # a full disk keeps nobody from working
            self._note.unlink(missing_ok=True)  # whoever is named there was killed
            publish(self._note, self._tell)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._note.unlink(missing_ok=True)
        self._lock.release()

    @property
    def _note(self) -> Path:
        return self.directory / "lock.holder"

    def _tell(self, file: Path) -> None:
        file.write_text(self.holder, "utf-8", "backslashreplace")

    def _told(self) -> str:
        try:
            with self._note.open("rb") as note:
                said = note.read(SHOWN_BYTES).decode(errors="replace")
        except OSError:
            said = ""
        return " ".join(said.split()) or "another process"
