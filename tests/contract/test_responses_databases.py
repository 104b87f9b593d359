"""Stores of responses when things go wrong: processes that are killed, servers that go, files that are not what they should be."""

import contextlib
import os
import random
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from structlog.testing import capture_logs

from semantic_trio.adapters.store import Bounds, open_store, sqlite
from semantic_trio.adapters.store import postgres as postgres_adapter
from semantic_trio.adapters.store.address import Address
from semantic_trio.adapters.store.responses import SqlResponses
from semantic_trio.domain.errors import ResponseNotFoundError, StoreError
from semantic_trio.domain.responses import Misfit, StoredResponse, verify
from semantic_trio.ports import ResponseStore
from tests.postgres import ESCAPED, PASSWORD, Postgres
from tests.search import examples

KILLS = examples(10, 3)

WRITES = """
import itertools, sys
from pathlib import Path
from semantic_trio.adapters.store import open_store
from semantic_trio.domain.responses import StoredResponse

url, file, name = sys.argv[1:]
store, parent = open_store(url, Path(file)), None
for turn in itertools.count():
    said = b"%d" % turn * 5000
    parent = StoredResponse.of(
        id=f"{name}_{turn}", parent=parent, model="m", created_at=turn, status="in_progress", input=said, output=b""
    )
    store.put(parent)
    parent = parent.answered("completed", said)
    store.put(parent)
    print(parent.id, parent.output_hash, flush=True)
"""


def response(number: int, parent: StoredResponse | None = None, said: bytes = b"[]") -> StoredResponse:
    return StoredResponse.of(id=f"resp_{number}", parent=parent, model="m", created_at=number, status="completed", input=said, output=b"{}")


def conversation(store: ResponseStore, turns: int) -> tuple[StoredResponse, ...]:
    chain: list[StoredResponse] = []
    for number in range(turns):
        chain.append(response(number, chain[-1] if chain else None))
        store.put(chain[-1])
    return tuple(chain)


@attrs.frozen
class Place:
    """A database by its URL, and its default file."""

    url: str
    file: Path
    run: Callable[[str], object]  # SQL that goes around the store

    def open(self) -> contextlib.closing[Any]:
        return contextlib.closing(open_store(self.url, self.file))


def beside(file: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(sql).fetchall()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    file = tmp_path / "responses.sqlite"
    if request.param == "sqlite":
        yield Place("", file, lambda sql: beside(file, sql))
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database() as url:
        yield Place(url, file, lambda sql: server.run(sql, url))


# ------------------------------------------------------------------------------------------------------------------- both


@pytest.mark.timeout(600)
def test_what_was_put_is_there_however_the_process_ends(place: Place) -> None:
    """Kill -9, at a moment of chance."""
    chance = random.Random(1)
    told: list[list[str]] = []
    for kill in range(KILLS):
        arguments = [sys.executable, "-c", WRITES, place.url, str(place.file), f"kill{kill}"]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told += [process.stdout.readline().split() for _ in range(chance.randint(1, 30))]
            threading.Event().wait(chance.random() / 100)
            process.kill()
            told += [line.split() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]

    with place.open() as store:
        for name, hashed in told:
            found = store.get(name)
            assert found is not None
            assert (found.status, found.output_hash) == ("completed", hashed)
        for kill in range(KILLS):
            last = [name for name, _ in told if name.startswith(f"kill{kill}_")][-1]
            assert verify(store.chain(last)) == ()


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("input", "'x'", Misfit("resp_1", "input_hash")),
        ("output", "'x'", Misfit("resp_1", "output_hash")),
        ("input_hash", "'x'", Misfit("resp_1", "input_hash")),
        ("output_hash", "'x'", Misfit("resp_1", "output_hash")),
    ],
)
def test_what_is_changed_behind_its_back_is_found(place: Place, field: str, value: str, found: Misfit) -> None:
    with place.open() as store:
        conversation(store, 3)
        kind = "blob" if not place.url else "bytea"
        new = f"cast({value} as {kind})" if field in {"input", "output"} else value

        place.run(f"update semantic_responses set {field} = {new} where id = 'resp_1'")

        assert found in verify(store.chain("resp_2"))


def test_what_leads_in_a_circle_comes_to_an_end(place: Place) -> None:
    with place.open() as store:
        conversation(store, 3)
        place.run("update semantic_responses set parent = 'resp_2' where id = 'resp_0'")

        assert [one.id for one in store.chain("resp_2")] == ["resp_0", "resp_1", "resp_2"]
        assert Misfit("resp_0", "parent") in verify(store.chain("resp_2"))
        assert [store.prune(day, 1) for day in (1, 2, 3)] == [0, 3, 0]


def test_what_lost_its_parent_is_told_by_it(place: Place) -> None:
    with place.open() as store:
        conversation(store, 3)
        place.run("delete from semantic_responses where id = 'resp_0'")

        assert verify(store.chain("resp_2")) == (Misfit("resp_1", "parent"), Misfit("resp_1", "input_hash"))


def test_many_processes_may_make_the_tables_at_once(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        arguments = [[sys.executable, "-c", WRITES, place.url, str(place.file), f"process{who}"] for who in range(6)]
        processes = [stack.enter_context(subprocess.Popen(one, stdout=subprocess.PIPE, text=True)) for one in arguments]
        told = [process.stdout.readline().split()[0] for process in processes]
        for process in processes:
            process.kill()

    with place.open() as store:
        assert told == [f"process{who}_0" for who in range(6)]
        assert all(store.get(name) for name in told)


def test_many_threads_may_make_the_tables_at_once(place: Place) -> None:
    def talk(who: int) -> None:
        with place.open() as store:
            store.put(response(who))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(talk, range(8)))

    with place.open() as store:
        assert all(store.get(f"resp_{who}") for who in range(8))


def test_a_long_conversation_is_read_at_once(place: Place) -> None:
    with place.open() as store:
        chain = conversation(store, 300)

        assert store.chain("resp_299") == chain


# ------------------------------------------------------------------------------------------------------------------- SQLite


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "responses.sqlite"


def kept(file: Path) -> None:
    with contextlib.closing(open_store("", file)) as store:
        conversation(store, 3)


def test_the_file_is_its_owners_alone(file: Path) -> None:
    before = os.umask(0)
    try:
        with contextlib.closing(open_store("", file)) as store:
            conversation(store, 1)
            modes = {path.name: stat.filemode(path.stat().st_mode) for path in [file.parent, *file.parent.iterdir()]}
    finally:
        os.umask(before)

    own = "-rw-------"
    assert modes == {"deep": "drwx------", "responses.sqlite": own, "responses.sqlite-wal": own, "responses.sqlite-shm": own}


def test_what_was_put_is_on_disk_and_not_only_told_to_the_system(file: Path) -> None:
    """A power cut is no part of a test."""
    with contextlib.closing(open_store("", file)) as store:
        assert isinstance(store, SqlResponses)
        manners = [store._connection.read(f"pragma {name}")[0][0] for name in ("journal_mode", "synchronous", "fullfsync", "secure_delete")]

    assert manners == ["wal", 2, 1, 1]


def test_a_file_that_others_could_read_is_closed_to_them(file: Path) -> None:
    kept(file)
    file.chmod(0o644)
    file.parent.chmod(0o755)

    kept(file)

    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o755], "the directory may be for other things too"


def another_programs(file: Path) -> None:
    beside(file, "create table t (x)")


def newer(file: Path) -> None:
    kept(file)
    beside(file, "pragma user_version = 3")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: file.write_bytes(b"A letter to a friend. " * 500), "not a database"),
        (lambda file: file.write_bytes(b"hi"), "not a database"),
        (another_programs, "another program"),
        (lambda file: beside(file, "pragma application_id = 7"), "another program"),
        (newer, "version 3"),
    ],
)
def test_a_file_of_others_is_left_as_it_is(file: Path, make: Callable[[Path], object], words: str) -> None:
    file.parent.mkdir()
    make(file)
    before = file.read_bytes()

    with pytest.raises(StoreError, match=words) as refused:
        open_store("", file)

    assert str(file) in str(refused.value) or words == "version 3"
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_an_empty_file_is_a_new_one(file: Path) -> None:
    file.parent.mkdir()
    file.touch()

    kept(file)


@pytest.mark.parametrize("name", ["directory", "file/responses.sqlite"])
def test_a_file_that_cannot_be_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match=str(tmp_path / name)):
        open_store("", tmp_path / name)


def test_a_damaged_file_is_told_and_left_as_it_is(file: Path) -> None:
    with contextlib.closing(open_store("", file)) as store:
        conversation(store, 200)
    content = bytearray(file.read_bytes())
    content[4096:] = random.Random(1).randbytes(len(content) - 4096)
    file.write_bytes(content)

    with contextlib.closing(open_store("", file)) as store:
        for call in (lambda: store.get("resp_7"), lambda: store.chain("resp_7"), lambda: store.put(response(7)), lambda: store.prune(5, 1)):
            with pytest.raises(StoreError, match="malformed"):
                call()
    assert file.read_bytes() == bytes(content)


def test_a_row_that_somebody_else_wrote_is_told(file: Path) -> None:
    kept(file)
    beside(file, "update semantic_responses set input = 7 where id = 'resp_1'")
    beside(file, "update semantic_responses set model = x'00' where id = 'resp_2'")

    with contextlib.closing(open_store("", file)) as store:
        for name in ("resp_1", "resp_2"):
            with pytest.raises(StoreError, match="no response"):
                store.get(name)
        assert store.get("resp_0") is not None


def test_a_file_that_another_writes_to_for_long_is_busy_and_then_not(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    with contextlib.closing(open_store("", file)) as store, contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        conversation(store, 1)
        other.execute("begin immediate")

        with pytest.raises(StoreError, match="locked"):
            store.put(response(1))
        assert store.get("resp_0") is not None, "reading goes on"
        other.execute("rollback")

        store.put(response(1))


def test_who_reads_does_not_keep_a_file_from_being_opened(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To write ahead has to be begun while nobody reads, and SQLite does not always wait for that."""
    kept(file)
    beside(file, "pragma journal_mode = delete")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("begin")
        other.execute("select * from semantic_responses").fetchall()
        clock = types.SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda seconds: other.execute("rollback"))
        monkeypatch.setattr(sqlite, "time", clock)
        monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.01)

        kept(file)

    assert beside(file, "pragma journal_mode") == [("wal",)]


def test_a_full_disk_changes_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(open_store("", file)) as store:
        [first] = conversation(store, 1)
        assert isinstance(store, SqlResponses)
        store._connection.read("pragma max_page_count = 20")

        with pytest.raises(StoreError, match="full"):
            store.put(response(1, first, bytes(1_000_000)))

        assert (store.get("resp_1"), store.chain("resp_0")) == (None, (first,))
        store.put(response(1, first))


def test_what_was_deleted_is_not_in_the_file(file: Path) -> None:
    with contextlib.closing(open_store("", file)) as store:
        store.put(response(0, said=b"a secret " * 3000))
        store.put(response(1, said=b"a promise " * 3000))
        store.delete("resp_0")

    content = file.read_bytes()
    assert (b"a secret" in content, b"a promise" in content) == (False, True)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


# --------------------------------------------------------------------------------------------------------------- PostgreSQL


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
    with postgres.database() as url, pytest.raises(StoreError, match="password authentication failed") as refused:
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
        for call, expected in zip(calls, [None, response(1, first), (first, response(1, first)), True, 0, 2], strict=True):
            postgres.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'semantic-trio'")
            assert call() == expected


def test_a_server_that_is_gone_is_told_until_it_is_back(postgres: Postgres) -> None:
    with postgres.database() as url, contextlib.closing(open_store(url, Path())) as store:
        [first] = conversation(store, 1)
        postgres.stop()
        try:
            for call in (lambda: store.get("resp_0"), lambda: store.put(response(1, first)), lambda: store.prune(1, 1)):
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


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"N", b"N" + bytes(200)])
def test_what_is_no_server_is_told(says: bytes) -> None:
    with listening(says) as port, pytest.raises(StoreError, match=f"127.0.0.1:{port}"):
        open_store(f"postgresql://u:hush@127.0.0.1:{port}/db", Path())


def test_a_server_that_says_nothing_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_adapter, "ANSWER_SECONDS", 0.2)
    with listening(None) as port, pytest.raises(StoreError, match="timed out"):
        open_store(f"postgresql://u:hush@127.0.0.1:{port}/db?sslmode=disable", Path())


@contextlib.contextmanager
def listening(says: bytes | None) -> Iterator[int]:
    """A server on a port that answers the first who comes so, and closes; or with None, says nothing."""
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
    with postgres.database("encoding 'SQL_ASCII' template template0") as url, pytest.raises(StoreError, match="UTF8"):
        open_store(url, Path())


def test_who_may_make_no_tables_can_use_those_there_are(postgres: Postgres) -> None:
    with postgres.database() as url:
        open_store(url, Path()).close()
        postgres.run("create role plain login password 'plain'")
        postgres.run("grant select, insert, update, delete on semantic_responses, semantic_responses_days, semantic_responses_schema to plain", url)
        try:
            with contextlib.closing(open_store(url.replace(f"semantic:{ESCAPED}", "plain:plain"), Path())) as store:
                conversation(store, 2)
        finally:
            postgres.run("drop owned by plain", url)
            postgres.run("drop role plain")


def test_what_one_writes_waits_for_what_another_writes(postgres: Postgres) -> None:
    with postgres.database() as url, contextlib.closing(open_store(url, Path())) as one, ThreadPoolExecutor(1) as threads:
        other = postgres_adapter.connect(Address.of(url))
        other.begin()
        waits = threads.submit(one.put, response(0))
        assert not waits.done()
        other.write("rollback")
        other.close()

        waits.result(10)


# ------------------------------------------------------------------------------------------------------- files: bounds, and deletion

VERSION_1 = """
create table semantic_responses (
  id text primary key not null, parent text, model text not null, created_at bigint not null, status text not null,
  input_hash text not null, output_hash text not null, input blob, output blob
);
create index semantic_responses_created_at on semantic_responses (created_at);
pragma application_id = 1398034993;
pragma user_version = 1;
"""


def test_a_file_of_the_version_before_is_gone_on_with(tmp_path: Path) -> None:
    file, records = tmp_path / "responses.sqlite", [response(number) for number in (2, 0, 1)]
    with contextlib.closing(sqlite3.connect(file)) as raw, raw:
        raw.executescript(VERSION_1)
        for one in records:
            values = (one.id, one.parent, one.model, one.created_at, one.status, one.input_hash, one.output_hash, one.input, one.output)
            raw.execute("insert into semantic_responses values (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    with contextlib.closing(open_store("", file)) as store:
        store.put(response(3, response(0)))
        assert [store.get(one.id) for one in records] == records
        assert [store.prune(day, 1) for day in (1, 2)] == [0, 4]

    with contextlib.closing(open_store("", file)) as again:
        assert again.get("resp_0") is None


def test_the_oldest_conversations_make_room_for_new_ones(tmp_path: Path) -> None:
    file, size = tmp_path / "responses.sqlite", 100_000
    with contextlib.closing(open_store("", file, Bounds(budget_bytes=40 * size))) as store:
        first = response(0, said=b"x" * size)
        store.put(first)
        for number in range(1, 200):
            store.put(response(number, said=b"x" * size))
        kept = [number for number in range(200) if store.get(f"resp_{number}")]

    assert kept == list(range(200 - len(kept), 200)), "the last ones, without a gap"
    assert 25 <= len(kept) <= 40
    assert file.stat().st_size <= 41 * size


def test_a_conversation_that_goes_on_is_not_what_makes_room(tmp_path: Path) -> None:
    size = 100_000
    with contextlib.closing(open_store("", tmp_path / "responses.sqlite", Bounds(budget_bytes=40 * size))) as store:
        chain = [response(0, said=b"x" * size)]
        store.put(chain[0])
        for number in range(1, 35):
            chain.append(response(number, chain[-1], said=b"x" * size))
            store.put(chain[-1])
            store.put(response(1000 + number, said=b"x" * size))
        assert store.chain("resp_34") == tuple(chain)
        with pytest.raises(StoreError, match="responses_budget_mb"):
            store.put(response(35, chain[-1], said=b"x" * 20 * size))
        assert store.chain("resp_34") == tuple(chain), "what was there is there"


def test_what_the_disk_is_to_keep_free_is_kept_free(tmp_path: Path) -> None:
    file, floor = tmp_path / "responses.sqlite", 1 << 60
    with contextlib.closing(open_store("", file)) as store:
        store.put(response(0))

    with contextlib.closing(open_store("", file, Bounds(floor_bytes=floor))) as store:
        with pytest.raises(StoreError, match=r"disk_floor_mb"):
            store.put(response(1))
        assert store.get("resp_0") == response(0)
        assert store.delete("resp_0"), "what makes room is done"


def remove_file(file: Path) -> None:
    file.unlink()


def remove_files(file: Path) -> None:
    for one in file.parent.glob(f"{file.name}*"):
        one.unlink()


def remove_log(file: Path) -> None:
    file.with_name(f"{file.name}-wal").unlink()


def remove_directory(file: Path) -> None:
    remove_files(file)
    file.parent.rmdir()


def replace_file(file: Path) -> None:
    remove_files(file)
    with contextlib.closing(open_store("", file)):
        pass


@pytest.mark.parametrize("remove", [remove_file, remove_files, remove_log, remove_directory, replace_file])
def test_a_file_that_is_deleted_under_the_server_is_noticed_and_made_again(tmp_path: Path, remove: Callable[[Path], None]) -> None:
    file = tmp_path / "cache" / "responses.sqlite"
    with contextlib.closing(open_store("", file)) as store:
        store.put(response(0))
        remove(file)

        with capture_logs() as lines:
            store.put(response(1))

        with contextlib.closing(open_store("", file)) as another:
            assert another.get("resp_1") == response(1), "what was said to be stored is"
        assert [line["event"] for line in lines] == ["the database of responses was lost, and is opened again"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_follows_a_response_that_is_gone_with_its_file_is_not_said_to_be_stored(tmp_path: Path) -> None:
    file = tmp_path / "responses.sqlite"
    with contextlib.closing(open_store("", file)) as store:
        store.put(response(0))
        remove_files(file)

        with pytest.raises(ResponseNotFoundError):
            store.put(response(1, response(0)))
        assert store.get("resp_0") is None


def test_the_directory_is_claimed_before_a_file_is_made_in_it(tmp_path: Path) -> None:
    claims: list[bool] = []
    file = tmp_path / "cache" / "responses.sqlite"
    with contextlib.closing(open_store("", file, Bounds(claim=lambda: claims.append(file.parent.exists())))) as store:
        remove_directory(file)
        store.put(response(0))
    with contextlib.closing(open_store(f"sqlite://{tmp_path}/elsewhere.sqlite", file, Bounds(claim=lambda: claims.append(True)))):
        pass

    assert claims == [False, False]
