"""One process per cache directory.

Knows the lock, which the kernel takes back however its holder ends, and what that one says of itself.
"""

import contextlib
import fcntl
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
from filelock import FileLock, Timeout

from semantic_trio.adapters.disk.publishing import PRIVATE_FILE, make_private, publish
from semantic_trio.domain.errors import CacheInUseError

SHOWN_BYTES = 500  # of what a holder says
# Whoever only wants to know who holds the lock has it for a moment: nobody is to be turned away for that.
MOMENT_SECONDS, POLL_SECONDS = 0.2, 0.02


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
            self._lock.acquire(timeout=MOMENT_SECONDS, poll_interval=POLL_SECONDS)
        except Timeout:
            raise CacheInUseError(str(self.directory), _told(self.directory)) from None
        with contextlib.suppress(OSError):
            _note(self.directory).unlink(missing_ok=True)  # whoever is named there was killed
        self.tell(self.holder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            _note(self.directory).unlink(missing_ok=True)
        self._lock.release()

    def tell(self, holder: str) -> None:
        """Say something else of oneself from now on."""
        self.holder = holder
        with contextlib.suppress(OSError):  # a full disk keeps nobody from working
            publish(_note(self.directory), lambda file: _write(file, holder))


def held_by(directory: Path) -> str | None:
    """Who works with a directory, in their own words; None: nobody. Raises `OSError` where that cannot be known."""
    try:
        with (directory / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _told(directory)
    except FileNotFoundError:
        pass
    return None


def _note(directory: Path) -> Path:
    return directory / "lock.holder"


def _write(file: Path, holder: str) -> None:
    file.write_text(holder, "utf-8", "backslashreplace")


def _told(directory: Path) -> str:
    try:
        with _note(directory).open("rb") as note:
            said = note.read(SHOWN_BYTES).decode(errors="replace")
    except OSError:
        said = ""
    return " ".join(said.split()) or "another process"
