"""Stores of responses when things go wrong: processes that are killed, servers that go, files that
are not what they should be.
"""

import contextlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from semantic_trio.adapters.store import open_store
from semantic_trio.domain.responses import Misfit, verify
from tests.contract.response_chains import beside, conversation, response
from tests.postgres import Postgres
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


@attrs.frozen
class Place:
    """A database by its URL, and its default file."""

    url: str
    file: Path
    run: Callable[[str], object]  # SQL that goes around the store

    def open(self) -> contextlib.closing[Any]:
        return contextlib.closing(open_store(self.url, self.file))


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    file = tmp_path / "responses.sqlite"
    if request.param == "sqlite":
        yield Place("", file, lambda sql: beside(file, sql))
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database() as url:
        yield Place(url, file, lambda sql: server.run(sql, url))


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
            told += [
                line.split()
                for line in process.stdout.read().splitlines(keepends=True)
                if line.endswith("\n")
            ]

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
def test_what_is_changed_behind_its_back_is_found(
    place: Place, field: str, value: str, found: Misfit
) -> None:
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

        assert verify(store.chain("resp_2")) == (
            Misfit("resp_1", "parent"),
            Misfit("resp_1", "input_hash"),
        )


def test_many_processes_may_make_the_tables_at_once(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        arguments = [
            [sys.executable, "-c", WRITES, place.url, str(place.file), f"process{who}"]
            for who in range(6)
        ]
        processes = [
            stack.enter_context(subprocess.Popen(one, stdout=subprocess.PIPE, text=True))
            for one in arguments
        ]
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
