"""A database on a server.

Knows PostgreSQL, and when a connection is of no use any more. Knows nothing of responses. Needs the
extra `postgres`.
"""

import contextlib
import ssl
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

import attrs
from pg8000.native import Connection as Native
from pg8000.native import DatabaseError, Error
from scramp import ScramException

from semantic_trio.adapters.store.address import Address
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
    is_older,
    upgrade,
)
from semantic_trio.domain.errors import StoreError

# What pg8000 raises of the network, and of what is not in PostgreSQL's protocol: that it takes
# apart as it comes.
BROKEN = (Error, OSError, ScramException, LookupError, ValueError, struct.error)
ANSWER_SECONDS = 20.0  # a server that says nothing for so long is gone
# Who writes holds this advisory lock until its transaction ends: no response comes while its parent
# is being removed. It is no lock on the table, for that would keep the server from tidying up.
WRITER = 0x53_54_52_31
BEGIN = f"""
begin isolation level read committed;
set local synchronous_commit = on;
set local lock_timeout = '10s';
select pg_advisory_xact_lock({WRITER})
"""
# Asked of the table of tables itself: to_regclass() may remember, from before the lock was waited
# for, that there is none.
IS_MADE = (
    "select 1 from pg_catalog.pg_class where relname = 'semantic_responses_schema' and "
    "pg_catalog.pg_table_is_visible(oid)"
)
SCHEMA = (
    "create table semantic_responses_schema (version integer not null)",
    TABLE.format(bytes="bytea"),
    INDEX,
    DAYS,
)


class _Raw(Protocol):
    """Part of pg8000 that is used; it ships no types."""

    _sock: BinaryIO

    @property
    def row_count(self) -> int: ...
    def run(self, sql: str, **values: Value) -> Sequence[Row] | None: ...
    def close(self) -> None: ...


@attrs.define(eq=False)
class PostgresConnection:
    """See `DatabaseConnection`."""

    _address: Address
    _raw: _Raw

    def read(self, sql: str, **values: Value) -> Sequence[Row]:
        """See `DatabaseConnection.read`."""
        with self._store_errors():
            return self._raw.run(sql, **values) or []

    def write(self, sql: str, **values: Value) -> int:
        """See `DatabaseConnection.write`."""
        with self._store_errors():
            self._raw.run(sql, **values)
            return self._raw.row_count

    def begin(self) -> None:
        """See `DatabaseConnection.begin`."""
        self.write(BEGIN)

    def excess(self, size: int) -> int:
        """See `DatabaseConnection.excess`.

        How much a server may store is for whoever runs it to say.
        """
        return 0

    def check(self) -> None:
        """See `DatabaseConnection.check`. A server that is gone is told of by each call."""

    def close(self) -> None:
        """See `DatabaseConnection.close`."""
        stream = self._raw._sock
        with contextlib.suppress(*BROKEN):
            self._raw.close()
        # Closed by pg8000 it keeps the socket open until somebody collects it, where the network
        # has failed.
        with contextlib.suppress(*BROKEN):
            stream.close()

    def prepare(self) -> None:
        """Have the table. Changes nothing in a database that was made by a newer server."""
        [[encoding]] = self.read("select current_setting('server_encoding')")
        if encoding != "UTF8":
            raise StoreError(f"{self._address} is encoded as {encoding}: it has to be UTF8")
        if not self._is_made():
            with alone(self):
                if not self._is_made():  # another process was as quick
                    self._make_tables()
        if is_older(self._version()):
            with alone(self):
                if is_older(self._version()):
                    upgrade(self)
                    self.write(
                        "update semantic_responses_schema set version = :version", version=VERSION
                    )
        check_version(self._version())

    def _version(self) -> object:
        [[version]] = self.read("select max(version) from semantic_responses_schema")
        return version

    def _is_made(self) -> bool:
        return bool(self.read(IS_MADE))

    def _make_tables(self) -> None:
        for statement in SCHEMA:
            self.write(statement)
        self.write(
            "insert into semantic_responses_schema (version) values (:version)", version=VERSION
        )

    @contextlib.contextmanager
    def _store_errors(self) -> Iterator[None]:
        """Turn errors of pg8000 and the network into `StoreError`.

        An error of a statement leaves the connection as it was; others end it.
        """
        try:
            yield
        except DatabaseError as error:
            raise StoreError(f"{self._address}: {_said(error)}") from error
        except BROKEN as error:
            raise LostError(f"{self._address}: {_said(error)}") from error


def connect(address: Address) -> DatabaseConnection:
    """Go to a server.

    Raises `StoreError`, which leads to no traceback: a password is among what they would show.
    """
    try:
        raw = _native(address)
    except BROKEN as error:
        raise StoreError(f"{address}: {_said(error)}") from None
    connection = PostgresConnection(address, raw)
    try:
        connection.prepare()
    except BaseException:
        connection.close()
        raise
    return connection


def _native(address: Address) -> _Raw:
    raw: _Raw = Native(
        address.user,
        host=address.host,
        port=address.port,
        unix_sock=address.socket,
        database=address.database,
        password=address.password,
        ssl_context=_encryption(address),
        timeout=ANSWER_SECONDS,
        application_name="semantic-trio",
    )
    return raw


def _encryption(address: Address) -> ssl.SSLContext | bool | None:
    """Return the encryption in pg8000's values, whose True checks no certificate."""
    if address.socket is not None:
        return False
    chosen: dict[str, ssl.SSLContext | bool | None] = {
        "disable": False,
        "prefer": None,
        "require": True,
    }
    return (
        chosen[address.encryption] if address.encryption in chosen else ssl.create_default_context()
    )


def _said(error: Exception) -> str:
    """Return the message of an error in one line."""
    if isinstance(error, DatabaseError) and error.args and isinstance(error.args[0], dict):
        return str(error.args[0].get("M", "an error without words"))
    cause = error.__cause__
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else ""
    return " ".join(f"{error}{f' ({reason})' if reason else ''}".split())
