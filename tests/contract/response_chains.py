"""Stored responses that follow each other, and SQLite's file of them beside the store."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from semantic_trio.domain.responses import StoredResponse
from semantic_trio.ports.response_store import ResponseStore


def response(
    number: int, parent: StoredResponse | None = None, said: bytes = b"[]"
) -> StoredResponse:
    return StoredResponse.of(
        id=f"resp_{number}",
        parent=parent,
        model="m",
        created_at=number,
        status="completed",
        input=said,
        output=b"{}",
    )


def conversation(store: ResponseStore, turns: int) -> tuple[StoredResponse, ...]:
    chain: list[StoredResponse] = []
    for number in range(turns):
        chain.append(response(number, chain[-1] if chain else None))
        store.put(chain[-1])
    return tuple(chain)


def beside(file: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(sql).fetchall()
