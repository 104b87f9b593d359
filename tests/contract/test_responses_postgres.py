"""Responses in PostgreSQL: servers that go and come back, and databases that are not what they
should be.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from semantic_trio.adapters.store import open_store
from semantic_trio.adapters.store import postgres as postgres_adapter
from semantic_trio.adapters.store.address import Address
from semantic_trio.domain.errors import StoreError
from tests.contract.response_chains import conversation, response
from tests.postgres import ESCAPED, PASSWORD, Postgres


def test_a_server_is_reached_through_tcp_too(postgres: Postgres) -> None:
    with postgres.database() as url:
        with contextlib.closing(open_store(url, Path())) as store:
            chain = conversation(store, 2)
        for more in ("", "?sslmode=disable"):
            with contextlib.closing(open_store(postgres.over_tcp(url) + more, Path())) as store:
                assert store.chain("resp_1") == chain


@pytest.mark.parametrize("more", ["?sslmode=require", "?sslmode=verify-full"])
def test_who_asks_for_encryption_gets_it_or_nothing(postgres: Postgres, more: str) -> None:
    with postgres.database() as url, pytest.raises(StoreError, match="SSL"):
        open_store(postgres.over_tcp(url) + more, Path())


def test_a_wrong_password_is_told_without_it(postgres: Postgres) -> None:
    with (
        postgres.database() as url,
        pytest.raises(StoreError, match="password authentication failed") as refused,
    ):
        open_store(postgres.over_tcp(url, password="hush"), Path())

    assert "hush" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_a_connection_that_broke_is_made_again(postgres: Postgres) -> None:
    with postgres.database() as url, contextlib.closing(open_store(url, Path())) as store:
        [first] = conversation(store, 1)
        calls: list[Callable[[], object]] = [
            lambda: store.put(response(1, first)),
            lambda: store.get("resp_1"),
            lambda: store.chain("resp_1"),
            lambda: store.delete("resp_0"),
            lambda: store.prune(99, 1),
            lambda: store.prune(100, 1),
        ]
        for call, expected in zip(
            calls, [None, response(1, first), (first, response(1, first)), True, 0, 2], strict=True
        ):
            postgres.run(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = "
                "'semantic-trio'"
            )
            assert call() == expected


def test_a_server_that_is_gone_is_told_until_it_is_back(postgres: Postgres) -> None:
    with postgres.database() as url, contextlib.closing(open_store(url, Path())) as store:
        [first] = conversation(store, 1)
        postgres.stop()
        try:
            for call in (
                lambda: store.get("resp_0"),
                lambda: store.put(response(1, first)),
                lambda: store.prune(1, 1),
            ):
                with pytest.raises(StoreError) as told:
                    call()
                assert PASSWORD not in str(told.value)
                assert ESCAPED not in str(told.value)
        finally:
            postgres.start()

        store.put(response(1, first))
        assert len(store.chain("resp_1")) == 2


def test_a_server_that_starts_again_between_two_calls_is_not_noticed(postgres: Postgres) -> None:
    with postgres.database() as url, contextlib.closing(open_store(url, Path())) as store:
        [first] = conversation(store, 1)
        postgres.stop()
        postgres.start()

        store.put(response(1, first))


@pytest.mark.parametrize(
    "says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"N", b"N" + bytes(200)]
)
def test_what_is_no_server_is_told(says: bytes) -> None:
    with listening(says) as port, pytest.raises(StoreError, match=f"127.0.0.1:{port}"):
        open_store(f"postgresql://u:hush@127.0.0.1:{port}/db", Path())


def test_a_server_that_says_nothing_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_adapter, "ANSWER_SECONDS", 0.2)
    with listening(None) as port, pytest.raises(StoreError, match="timed out"):
        open_store(f"postgresql://u:hush@127.0.0.1:{port}/db?sslmode=disable", Path())


@contextlib.contextmanager
def listening(says: bytes | None) -> Iterator[int]:
    """A server on a port that answers the first who comes so, and closes; or with None, says
    nothing.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    if says is None:
                        over.wait(5)
                        return
                    connection.recv(8)
                    connection.sendall(says)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1000):
                        pass

        over = threading.Event()
        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        over.set()
        thread.join()


def test_a_database_that_a_newer_server_made_is_left_alone(postgres: Postgres) -> None:
    with postgres.database() as url:
        open_store(url, Path()).close()
        postgres.run("update semantic_responses_schema set version = 3", url)

        with pytest.raises(StoreError, match="version 3"):
            open_store(url, Path())


def test_a_database_has_to_hold_every_letter(postgres: Postgres) -> None:
    with (
        postgres.database("encoding 'SQL_ASCII' template template0") as url,
        pytest.raises(StoreError, match="UTF8"),
    ):
        open_store(url, Path())


def test_who_may_make_no_tables_can_use_those_there_are(postgres: Postgres) -> None:
    with postgres.database() as url:
        open_store(url, Path()).close()
        postgres.run("create role plain login password 'plain'")
        postgres.run(
            (
                "grant select, insert, update, delete on semantic_responses, "
                "semantic_responses_days, semantic_responses_schema to plain"
            ),
            url,
        )
        try:
            with contextlib.closing(
                open_store(url.replace(f"semantic:{ESCAPED}", "plain:plain"), Path())
            ) as store:
                conversation(store, 2)
        finally:
            postgres.run("drop owned by plain", url)
            postgres.run("drop role plain")


def test_what_one_writes_waits_for_what_another_writes(postgres: Postgres) -> None:
    with (
        postgres.database() as url,
        contextlib.closing(open_store(url, Path())) as one,
        ThreadPoolExecutor(1) as threads,
    ):
        other = postgres_adapter.connect(Address.of(url))
        other.begin()
        waits = threads.submit(one.put, response(0))
        assert not waits.done()
        other.write("rollback")
        other.close()

        waits.result(10)
