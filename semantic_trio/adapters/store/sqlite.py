"""A database that is a file.

Knows SQLite, and whose the file is. Knows nothing of responses.
"""

import contextlib
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from semantic_trio.adapters.store.sql import (
    DAYS,
    INDEX,
    TABLE,
    VERSION,
    DatabaseConnection,
    LostError,
    Row,
    Value,
    alone,
    check_version,
    integer,
    is_older,
    upgrade,
)
from semantic_trio.domain.errors import CacheInUseError, StoreError

# "STR1", in the header of every file of ours: `file` and SQLite tell by it whose a database is
APPLICATION = 0x53_54_52_31
BUSY_SECONDS, POLL_SECONDS = 10.0, 0.02  # another process may be writing for so long
PRIVATE, PRIVATE_FILE = 0o700, 0o600

# Every commit is on disk when it returns (`full`, and beyond the drive's own cache where a system
# distinguishes the two), and deleted rows are overwritten. The log (`-wal`) is cut down to this
# many bytes when it is folded in: else it would stay as large as it has ever been.
LOG_BYTES = 4 << 20
PRAGMAS = (
    "pragma synchronous = full",
    "pragma fullfsync = on",
    "pragma checkpoint_fullfsync = on",
    "pragma secure_delete = on",
    f"pragma journal_size_limit = {LOG_BYTES}",
)
_making = threading.Lock()


def _nothing() -> None:
    pass


@attrs.frozen
class Bounds:
    """Bounds of a file, and a claim that is made before the file."""

    budget_bytes: int = 1 << 60
    floor_bytes: int = 0  # what the file system keeps free
    claim: Callable[[], None] = _nothing  # takes the directory; raises `SemanticError`, `OSError`


UNBOUNDED = Bounds()


@attrs.define(eq=False)
class SqliteConnection:
    """See `DatabaseConnection`."""

    _file: Path
    _raw: sqlite3.Connection
    _bounds: Bounds = UNBOUNDED
    # those it works with: their device and number
    _files: tuple[tuple[int, int] | None, ...] = attrs.field(init=False, default=())

    def read(self, sql: str, **values: Value) -> Sequence[Row]:
        """See `DatabaseConnection.read`."""
        with _store_errors(self._file):
            rows: list[Row] = self._raw.execute(sql, values).fetchall()
        return rows

    def write(self, sql: str, **values: Value) -> int:
        """See `DatabaseConnection.write`."""
        before = self._raw.total_changes
        with _store_errors(self._file):
            self._raw.execute(sql, values)
        return self._raw.total_changes - before

    def begin(self) -> None:
        """See `DatabaseConnection.begin`."""
        self.write("begin immediate")

    def excess(self, size: int) -> int:
        """See `DatabaseConnection.excess`.

        A write takes its bytes in the log and in the file until a checkpoint.
        """
        with _store_errors(self._file):
            free = shutil.disk_usage(self._file.parent).free
        if free - 2 * size < self._bounds.floor_bytes:
            raise StoreError(
                f"{free} bytes are free on the disk, and {self._bounds.floor_bytes} are to stay so "
                "(disk_floor_mb)"
            )
        count, unused, page_bytes = (
            integer(self._value(f"pragma {name}"))
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (count - unused) * page_bytes + size - self._bounds.budget_bytes

    def check(self) -> None:
        """See `DatabaseConnection.check`."""
        before, self._files = self._files, _identities(self._file)
        if any(
            one is not None and one != other for one, other in zip(before, self._files, strict=True)
        ):
            raise LostError(f"{self._file} was deleted or replaced under the server")

    def close(self) -> None:
        """See `DatabaseConnection.close`."""
        with contextlib.suppress(sqlite3.Error):
            self._raw.close()

    def prepare(self) -> None:
        """Have the table, in a file that is ours. Changes nothing in one that is not."""
        if not self._is_ours():
            with alone(self):
                if not self._is_ours():  # another process was as quick
                    self._make_table()
        if is_older(self._value("pragma user_version")):
            with alone(self):
                if is_older(self._value("pragma user_version")):
                    upgrade(self)
                    self.write(f"pragma user_version = {VERSION}")
        check_version(self._value("pragma user_version"))
        with contextlib.suppress(OSError):  # it may be somebody else's
            self._file.chmod(PRIVATE_FILE)
        self._use_log()
        for pragma in PRAGMAS:
            self.read(pragma)
        self._files = _identities(self._file)

    def _is_ours(self) -> bool:
        return self._value("pragma application_id") == APPLICATION

    def _make_table(self) -> None:
        if any(
            map(
                self._value,
                (
                    "pragma application_id",
                    "pragma user_version",
                    "select count(*) from sqlite_master",
                ),
            )
        ):
            raise StoreError(f"{self._file} is a database of another program")
        for statement in (
            TABLE.format(bytes="blob"),
            INDEX,
            DAYS,
            f"pragma application_id = {APPLICATION}",
            f"pragma user_version = {VERSION}",
        ):
            self.write(statement)

    def _use_log(self) -> None:
        """Write ahead, so that readers and writers do not wait for each other.

        SQLite itself does not wait if two processes switch at once.
        """
        deadline = time.monotonic() + BUSY_SECONDS
        while self._value("pragma journal_mode") != "wal":
            try:
                self._raw.execute("pragma journal_mode = wal").fetchall()
                return  # also where the file system has no shared memory: then it goes on as it was
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def _value(self, sql: str) -> object:
        [[value]] = self.read(sql)
        return value


def connect(file: Path, bounds: Bounds = UNBOUNDED) -> DatabaseConnection:
    """Open a database file, which is made if there is none.

    Raises `StoreError`, and leaves a file of another program as it was.
    """
    with _store_errors(file), _making:
        bounds.claim()
        _make(file)
        raw = sqlite3.connect(
            file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    connection = SqliteConnection(file, raw, bounds)
    try:
        with _store_errors(file):
            connection.prepare()
    except BaseException:
        connection.close()
        raise
    return connection


def _make(file: Path) -> None:
    """An empty file, and directories, that are their owner's alone; those that are there stay as
    they are.

    A file that is there is not even opened: closing it would take away the locks that this process
    has on it (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    _make_directory(file.parent)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(mode=PRIVATE, exist_ok=True)


def _identities(file: Path) -> tuple[tuple[int, int] | None, ...]:
    """Device and number of the database and of its log, which is there from the first change on
    until the last connection is closed; else None.
    """
    return tuple(_identity(one) for one in (file, file.with_name(f"{file.name}-wal")))


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _store_errors(file: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into `StoreError`, in one line."""
    try:
        yield
    except (sqlite3.Error, OSError, CacheInUseError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StoreError(f"{file}: {reason}") from error
