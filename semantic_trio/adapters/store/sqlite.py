"""A database that is a file.

Knows SQLite, and whose the file is. Knows nothing of responses.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from semantic_trio.adapters.store.sql import INDEX, TABLE, VERSION, Connection, Row, Value, alone, check_version
from semantic_trio.domain.errors import StoreError

APPLICATION = 0x53_54_52_31  # "STR1", in the header of every file of ours: `file` and SQLite tell by it whose a database is
BUSY_SECONDS, POLL_SECONDS = 10.0, 0.02  # another process may be writing for so long
PRIVATE, PRIVATE_FILE = 0o700, 0o600

# Every commit is on disk when it returns (`full`, and beyond the drive's own cache where a system tells the two apart), and what is deleted is
# overwritten.
MANNERS = ("pragma synchronous = full", "pragma fullfsync = on", "pragma checkpoint_fullfsync = on", "pragma secure_delete = on")
_making = threading.Lock()


@attrs.define(eq=False)
class SqliteConnection:
    """See `Connection`."""

    _file: Path
    _raw: sqlite3.Connection

    def read(self, sql: str, **values: Value) -> Sequence[Row]:
        """See `Connection.read`."""
        with _told(self._file):
            rows: list[Row] = self._raw.execute(sql, values).fetchall()
        return rows

    def write(self, sql: str, **values: Value) -> int:
        """See `Connection.write`."""
        before = self._raw.total_changes
        with _told(self._file):
            self._raw.execute(sql, values)
        return self._raw.total_changes - before

    def begin(self) -> None:
        """See `Connection.begin`."""
        self.write("begin immediate")

    def close(self) -> None:
        """See `Connection.close`."""
        with contextlib.suppress(sqlite3.Error):
            self._raw.close()

    def prepare(self) -> None:
        """Have the table, in a file that is ours. Changes nothing in one that is not."""
        if not self._is_ours():
            with alone(self):
                if not self._is_ours():  # another process was as quick
                    self._make_table()
        check_version(self._number("pragma user_version"))
        with contextlib.suppress(OSError):  # it may be somebody else's
            self._file.chmod(PRIVATE_FILE)
        self._use_log()
        for manner in MANNERS:
            self.read(manner)

    def _is_ours(self) -> bool:
        return self._number("pragma application_id") == APPLICATION

    def _make_table(self) -> None:
        if any(map(self._number, ("pragma application_id", "pragma user_version", "select count(*) from sqlite_master"))):
            raise StoreError(f"{self._file} is a database of another program")
        for statement in (TABLE.format(bytes="blob"), INDEX, f"pragma application_id = {APPLICATION}", f"pragma user_version = {VERSION}"):
            self.write(statement)

    def _use_log(self) -> None:
        """Write ahead, so that who reads and who writes do not wait for each other. Where two want this at once SQLite itself does not wait."""
        deadline = time.monotonic() + BUSY_SECONDS
        while self._number("pragma journal_mode") != "wal":
            try:
                self._raw.execute("pragma journal_mode = wal").fetchall()
                return  # also where the file system has no shared memory: then it goes on as it was
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def _number(self, sql: str) -> object:
        [[number]] = self.read(sql)
        return number


def connect(file: Path) -> Connection:
    """Open a file, made where there is none. Raises `StoreError`, with the file as it was where it is none of ours."""
    with _told(file), _making:
        _make(file)
        raw = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection = SqliteConnection(file, raw)
    try:
        with _told(file):
            connection.prepare()
    except BaseException:
        connection.close()
        raise
    return connection


def _make(file: Path) -> None:
    """An empty file, and directories, that are their owner's alone; those that are there stay as they are.

    A file that is there is not even opened: closing it would take away the locks that this process has on it
    (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    _make_directory(file.parent)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(mode=PRIVATE, exist_ok=True)


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """What SQLite and the file system raise, in one line."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StoreError(f"{file}: {reason}") from error
