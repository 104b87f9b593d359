"""Responses in a file of SQLite: whose it is, what is wrong with it, its bounds, and files that are
deleted.
"""

import contextlib
import os
import random
import sqlite3
import stat
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from semantic_trio.adapters.store import Bounds, open_store, sqlite
from semantic_trio.adapters.store.responses import SqlResponses
from semantic_trio.domain.errors import ResponseNotFoundError, StoreError
from tests.contract.response_chains import beside, conversation, response


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
            modes = {
                path.name: stat.filemode(path.stat().st_mode)
                for path in [file.parent, *file.parent.iterdir()]
            }
    finally:
        os.umask(before)

    own = "-rw-------"
    assert modes == {
        "deep": "drwx------",
        "responses.sqlite": own,
        "responses.sqlite-wal": own,
        "responses.sqlite-shm": own,
    }


def test_what_was_put_is_on_disk_and_not_only_told_to_the_system(file: Path) -> None:
    """A power cut is no part of a test."""
    with contextlib.closing(open_store("", file)) as store:
        assert isinstance(store, SqlResponses)
        pragmas = [
            store._connection.read(f"pragma {name}")[0][0]
            for name in ("journal_mode", "synchronous", "fullfsync", "secure_delete")
        ]

    assert pragmas == ["wal", 2, 1, 1]


def test_a_file_that_others_could_read_is_closed_to_them(file: Path) -> None:
    kept(file)
    file.chmod(0o644)
    file.parent.chmod(0o755)

    kept(file)

    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o755], (
        "the directory may be for other things too"
    )


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
def test_a_file_of_others_is_left_as_it_is(
    file: Path, make: Callable[[Path], object], words: str
) -> None:
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
        for call in (
            lambda: store.get("resp_7"),
            lambda: store.chain("resp_7"),
            lambda: store.put(response(7)),
            lambda: store.prune(5, 1),
        ):
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


def test_a_file_that_another_writes_to_for_long_is_busy_and_then_not(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    with (
        contextlib.closing(open_store("", file)) as store,
        contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other,
    ):
        conversation(store, 1)
        other.execute("begin immediate")

        with pytest.raises(StoreError, match="locked"):
            store.put(response(1))
        assert store.get("resp_0") is not None, "reading goes on"
        other.execute("rollback")

        store.put(response(1))


def test_who_reads_does_not_keep_a_file_from_being_opened(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To write ahead has to be begun while nobody reads, and SQLite does not always wait for
    that.
    """
    kept(file)
    beside(file, "pragma journal_mode = delete")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("begin")
        other.execute("select * from semantic_responses").fetchall()
        clock = types.SimpleNamespace(
            monotonic=lambda: 0.0, sleep=lambda seconds: other.execute("rollback")
        )
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
            values = (
                one.id,
                one.parent,
                one.model,
                one.created_at,
                one.status,
                one.input_hash,
                one.output_hash,
                one.input,
                one.output,
            )
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
    with contextlib.closing(
        open_store("", tmp_path / "responses.sqlite", Bounds(budget_bytes=40 * size))
    ) as store:
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


@pytest.mark.parametrize(
    "remove", [remove_file, remove_files, remove_log, remove_directory, replace_file]
)
def test_a_file_that_is_deleted_under_the_server_is_noticed_and_made_again(
    tmp_path: Path, remove: Callable[[Path], None]
) -> None:
    file = tmp_path / "cache" / "responses.sqlite"
    with contextlib.closing(open_store("", file)) as store:
        store.put(response(0))
        remove(file)

        with capture_logs() as lines:
            store.put(response(1))

        with contextlib.closing(open_store("", file)) as another:
            assert another.get("resp_1") == response(1), "what was said to be stored is"
        assert [line["event"] for line in lines] == [
            "the database of responses was lost, and is opened again"
        ]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_follows_a_response_that_is_gone_with_its_file_is_not_said_to_be_stored(
    tmp_path: Path,
) -> None:
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
    with contextlib.closing(
        open_store("", file, Bounds(claim=lambda: claims.append(file.parent.exists())))
    ) as store:
        remove_directory(file)
        store.put(response(0))
    with contextlib.closing(
        open_store(
            f"sqlite://{tmp_path}/elsewhere.sqlite", file, Bounds(claim=lambda: claims.append(True))
        )
    ):
        pass

    assert claims == [False, False]
