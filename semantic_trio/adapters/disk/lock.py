"""Lock of a cache directory, which one process holds at a time.

Knows the lock, which the kernel releases however its holder ends, and the holder's description of
itself.
"""

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
import structlog

from semantic_trio.adapters.disk.publishing import PRIVATE_FILE, make_private, publish
from semantic_trio.domain.errors import CacheInUseError

log = structlog.get_logger(__name__)

SHOWN_BYTES = 500  # of a holder's description
# `held_by` takes the lock for a moment: a process that starts then waits instead of failing.
MOMENT_SECONDS, POLL_SECONDS = 0.2, 0.02


@attrs.define(eq=False)
class CacheLock:
    """Exclusive use of a directory while the context lasts.

    The directory is made if there is none.
    """

    directory: Path
    holder: str  # one line for other processes: "pid 123, smollm2-135m, http://127.0.0.1:8000"
    # of the locked file; None while this process does not hold the lock
    _descriptor: int | None = attrs.field(init=False, default=None)
    _is_entered: bool = attrs.field(init=False, default=False)
    _claiming: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def __enter__(self) -> Self:
        """Raises `CacheInUseError` if another process holds the lock, `OSError` if the directory
        cannot be made or written.
        """
        self._take()
        self._is_entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._claiming:
            self._is_entered = False
            if self._is_held:
                with contextlib.suppress(OSError):
                    _note(self.directory).unlink(missing_ok=True)
            self._release()

    def claim(self) -> None:
        """Take the lock again if the directory or the lock file was deleted under this process.

        Both are made again, with a warning in the log. Raises as `__enter__` does; the next call
        tries again. May be called by any thread.
        """
        with self._claiming:
            if not self._is_entered or self._is_held:
                return
            self._release()
            self._take()
            log.warning(
                "the cache directory was deleted under the server, and is made again",
                directory=str(self.directory),
            )

    def describe(self, holder: str) -> None:
        """Change the description of the holder."""
        self.holder = holder
        with contextlib.suppress(OSError):  # a full disk keeps nobody from working
            publish(_note(self.directory), lambda file: _write(file, holder))

    @property
    def _is_held(self) -> bool:
        """True if the locked file is still the one that other processes find."""
        return self._descriptor is not None and _is_there(self._descriptor, _file(self.directory))

    def _take(self) -> None:
        make_private(self.directory, self.directory)
        deadline = time.monotonic() + MOMENT_SECONDS
        while (descriptor := _locked(_file(self.directory))) is None:
            if time.monotonic() > deadline:
                raise CacheInUseError(str(self.directory), _holder(self.directory))
            time.sleep(POLL_SECONDS)
        self._descriptor = descriptor
        with contextlib.suppress(OSError):
            _note(self.directory).unlink(missing_ok=True)  # its writer was killed
        self.describe(self.holder)

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def held_by(directory: Path) -> str | None:
    """Return the holder's description of itself; None if no process holds the lock.

    Raises `OSError` if that cannot be found out.
    """
    try:
        with _file(directory).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(directory)
    except FileNotFoundError:
        pass
    return None


def _locked(file: Path) -> int | None:
    """Return a descriptor of the file, locked until it is closed; None if another process holds it
    or has just deleted the file.

    Raises `OSError`.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_there(descriptor, file):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_there(descriptor: int, file: Path) -> bool:
    """True if an open file is still the file of that name."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), file.stat())
    return False


def _file(directory: Path) -> Path:
    return directory / "lock"


def _note(directory: Path) -> Path:
    return directory / "lock.holder"


def _write(file: Path, holder: str) -> None:
    file.write_text(holder, "utf-8", "backslashreplace")


def _holder(directory: Path) -> str:
    try:
        with _note(directory).open("rb") as note:
            said = note.read(SHOWN_BYTES).decode(errors="replace")
    except OSError:
        said = ""
    return " ".join(said.split()) or "another process"
