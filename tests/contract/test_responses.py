"""What is relied on in a store of responses, claimed of the fake, SQLite and PostgreSQL alike."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from semantic_trio.adapters.store import open_store
from semantic_trio.domain.errors import (
    ResponseConflictError,
    ResponseNotFoundError,
    SemanticError,
    StoreError,
)
from semantic_trio.domain.responses import StoredResponse, verify
from semantic_trio.ports.response_store import ResponseStore
from semantic_trio.testing import MemoryResponses
from tests.postgres import Postgres

CLOCK = itertools.count(1)
KINDS = ["memory", "sqlite", "postgres"]


@attrs.frozen
class Bench:
    """A store, and how another process would open it."""

    store: ResponseStore
    another: Callable[[], ResponseStore]


@contextlib.contextmanager
def bench_of(kind: str, request: pytest.FixtureRequest, root: Path) -> Iterator[Bench]:
    """An empty store of a kind."""
    if kind == "memory":
        memory = MemoryResponses()
        yield Bench(memory, lambda: memory)
        return
    server: Postgres | None = request.getfixturevalue("postgres") if kind == "postgres" else None
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(server.database()) if server else ""

        def another() -> ResponseStore:
            return stack.enter_context(
                contextlib.closing(open_store(url, root / "deep" / "responses.sqlite"))
            )

        yield Bench(another(), another)


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench_of(request.param, request, tmp_path) as bench:
        yield bench


@pytest.fixture
def store(bench: Bench) -> ResponseStore:
    return bench.store


@pytest.fixture(scope="module", params=KINDS[1:])
def lasting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ResponseStore]:
    """A store that many examples use, one after the other."""
    with bench_of(request.param, request, tmp_path_factory.mktemp("lasting")) as bench:
        yield bench.store


def response(
    number: int,
    parent: StoredResponse | None = None,
    status: str = "completed",
    created_at: int | None = None,
) -> StoredResponse:
    return StoredResponse.of(
        id=f"resp_{number}",
        parent=parent,
        model="org/model é 日本",
        created_at=number if created_at is None else created_at,
        status=status,
        input=b'[{"role":"user","content":"\xc3\xa9 %d"}]' % number,
        output=b'{"n":%d}' % number,
    )


def conversation(store: ResponseStore, turns: int) -> tuple[StoredResponse, ...]:
    chain: list[StoredResponse] = []
    for number in range(turns):
        chain.append(response(number, chain[-1] if chain else None))
        store.put(chain[-1])
    return tuple(chain)


# --------------------------------------------------------------------------------------------- kept


def test_at_first_there_is_nothing(store: ResponseStore) -> None:
    assert (
        store.get("resp_0"),
        store.chain("resp_0"),
        store.delete("resp_0"),
        grown_old(store),
    ) == (None, (), False, 0)


def test_what_was_put_is_there_for_whoever_comes_after(bench: Bench) -> None:
    chain = conversation(bench.store, 3)

    again = bench.another()

    assert [again.get(one.id) for one in chain] == list(chain)
    assert again.chain("resp_2") == chain
    assert again.chain("resp_1") == chain[:2]
    assert verify(again.chain("resp_2")) == ()


@pytest.mark.parametrize("content", [b"", b"\0\xff\\x00'\"%s :id ?", bytes(range(256)) * 40_000])
def test_content_comes_back_byte_by_byte(store: ResponseStore, content: bytes) -> None:
    kept = StoredResponse.of(
        id="a'b:c %s",
        parent=None,
        model="",
        created_at=1 << 40,
        status="",
        input=content,
        output=content,
    )

    store.put(kept)

    assert store.get("a'b:c %s") == kept


def test_the_same_again_is_nothing(bench: Bench) -> None:
    for one in conversation(bench.store, 2):
        bench.store.put(one)
        bench.another().put(one)

    assert len(bench.store.chain("resp_1")) == 2


def test_a_taken_id_is_not_given_again(store: ResponseStore) -> None:
    first, second = conversation(store, 2)

    for other in (
        first.answered("completed", b"{}"),
        response(1),
        response(1, first, created_at=7),
        first.answered("in_progress", b"{}"),
    ):
        with pytest.raises(ResponseConflictError):
            store.put(other)

    assert store.chain("resp_1") == (first, second)


def test_what_is_in_progress_is_replaced_by_what_becomes_of_it(bench: Bench) -> None:
    [first] = conversation(bench.store, 1)
    queued = response(1, first, "queued")
    running, done = (
        queued.answered("in_progress", b'{"so":"far"}'),
        queued.answered("completed", b'{"all":1}'),
    )

    for one in (queued, running, running, done, done):
        bench.store.put(one)
        assert bench.another().chain("resp_1") == (first, one)

    with pytest.raises(ResponseConflictError):
        bench.store.put(running)


def test_another_turn_does_not_take_the_place_of_one_in_progress(store: ResponseStore) -> None:
    [first] = conversation(store, 1)
    store.put(response(1, first, "in_progress"))

    with pytest.raises(ResponseConflictError):
        store.put(response(1))


def test_a_response_needs_its_parent(store: ResponseStore) -> None:
    with pytest.raises(ResponseNotFoundError, match="resp_0"):
        store.put(response(1, response(0)))

    assert store.get("resp_1") is None


def test_nothing_follows_what_has_no_answer_yet(store: ResponseStore) -> None:
    """It would be bound to what does not last."""
    pending = response(0, status="in_progress")
    store.put(pending)

    with pytest.raises(ResponseConflictError):
        store.put(response(1, pending))
    with pytest.raises(ResponseConflictError):
        store.put(response(1, pending.answered("completed", b"{}")))


def test_what_does_not_follow_from_its_parent_is_not_kept(store: ResponseStore) -> None:
    [first] = conversation(store, 1)

    for wrong in (
        response(1, first.answered("completed", b"{}")),
        attrs.evolve(response(1, first), output=b"{}"),
    ):
        with pytest.raises(ResponseConflictError):
            store.put(wrong)

    assert store.get("resp_1") is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "resp_0'; drop table semantic_responses; --",
        "%",
        "_",
        "resp\0",
        "\ud800",
        "é",
        "x" * 10_000,
        ":id",
    ],
)
def test_any_id_may_be_asked_for(store: ResponseStore, name: str) -> None:
    conversation(store, 1)

    assert (store.get(name), store.chain(name), store.delete(name)) == (None, (), False)
    assert store.get("resp_0") is not None


# ------------------------------------------------------------------------------------------ removed


def test_what_is_deleted_is_gone_and_its_place_stays(bench: Bench) -> None:
    first, second, third = conversation(bench.store, 3)

    assert (bench.store.delete("resp_1"), bench.store.delete("resp_1")) == (True, False)

    again = bench.another()
    assert again.get("resp_1") is None
    assert again.chain("resp_2") == (first, second.deleted(), third)
    assert again.chain("resp_1") == (first, second.deleted())
    assert verify(again.chain("resp_2")) == ()


def test_what_was_deleted_does_not_come_back(store: ResponseStore) -> None:
    [first] = conversation(store, 1)
    pending = response(1, first, "in_progress")
    store.put(pending)
    store.delete("resp_1")
    store.delete("resp_0")

    for late in (pending, pending.answered("completed", b"{}"), first):
        with pytest.raises(ResponseNotFoundError):
            store.put(late)

    assert (store.get("resp_0"), store.get("resp_1")) == (None, None)


def test_what_is_deleted_may_be_followed_by_what_was_already_on_its_way(
    store: ResponseStore,
) -> None:
    [first] = conversation(store, 1)
    store.delete("resp_0")

    store.put(response(1, first))

    assert store.chain("resp_1") == (first.deleted(), response(1, first))


def grown_old(store: ResponseStore, days: int = 1) -> int:
    """Have so many days pass, and the next one come.

    Returns how many responses were removed that are older than `days` days then.
    """
    clock = next(CLOCK) * 1000
    for day in range(days + 1):
        store.prune(clock + day, 0)
    return store.prune(clock + days + 1, days)


def test_what_is_old_goes_but_for_what_newer_ones_follow(bench: Bench) -> None:
    bench.store.prune(100, 0)
    chain = conversation(bench.store, 3)
    fork = response(10, chain[1])
    for one in (fork, response(11, fork), response(20)):
        bench.store.put(one)
    bench.store.delete("resp_11")
    bench.store.prune(101, 0)
    last = response(3, chain[2])
    for one in (last, response(21)):
        bench.store.put(one)

    assert (bench.store.prune(102, 2), bench.store.prune(103, 2)) == (0, 3)

    again = bench.another()
    assert again.chain("resp_3") == (*chain, last), "its last turn is new"
    assert [again.chain(gone) for gone in ("resp_10", "resp_11", "resp_20")] == [(), (), ()]
    assert again.get("resp_21") is not None
    assert (again.prune(103, 2), grown_old(again), grown_old(again)) == (0, 5, 0)


@pytest.mark.parametrize("days", [0, 30])
def test_no_clock_removes_what_the_server_has_not_seen_grow_old(bench: Bench, days: int) -> None:
    """It leaps ahead by forty days, and back; it goes back to 1970; the machine is off for a
    year.
    """
    bench.store.prune(20_000, days)
    conversation(bench.store, 2)

    assert [
        bench.another().prune(today, days)
        for today in (20_040, 20_001, 0, 20_002, 20_400, 40_000, 20_401)
    ] == [0] * 7
    assert len(bench.store.chain("resp_1")) == 2


def test_what_came_when_the_clock_was_wrong_grows_as_old_as_anything(bench: Bench) -> None:
    bench.store.prune(20_000, 30)
    for number, today in enumerate((20_040, 0, 20_001)):
        bench.store.prune(today, 30)
        bench.store.put(response(number, created_at=today))

    removed = [bench.store.prune(today, 30) for today in range(20_002, 20_040)]

    assert removed.index(1) >= 28, "a day of its own at the most is made of each leap"
    assert sum(removed) == 3


def test_days_count_once_however_often_a_server_is_started(store: ResponseStore) -> None:
    conversation(store, 1)

    assert [store.prune(20_000, 1) for _ in range(50)] == [0] * 50
    assert [store.prune(today, 1) for today in (20_001, 20_001, 20_002)] == [1, 0, 0]


def test_a_pruned_id_may_be_given_again(store: ResponseStore) -> None:
    conversation(store, 1)
    grown_old(store)

    store.put(response(0, status="failed"))

    assert store.get("resp_0") == response(0, status="failed")


def test_after_the_end_nothing_is_done(store: ResponseStore) -> None:
    conversation(store, 1)
    store.close()
    store.close()

    for call in (
        lambda: store.get("resp_0"),
        lambda: store.chain("resp_0"),
        lambda: store.put(response(1)),
        lambda: store.prune(1, 1),
    ):
        with pytest.raises(StoreError, match="closed"):
            call()


# ------------------------------------------------------------------------------------------ at once


def test_threads_and_other_processes_meet_in_one_store(bench: Bench) -> None:
    stores = [bench.store, bench.another()]

    def talk(who: int) -> None:
        parent: StoredResponse | None = None
        for turn in range(15):
            parent = response(100 * who + turn, parent)
            stores[turn % 2].put(parent)
            assert stores[(turn + 1) % 2].chain(parent.id)[-1] == parent

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(talk, range(8)))

    assert [len(bench.another().chain(f"resp_{100 * who + 14}")) for who in range(8)] == [15] * 8


def test_of_many_who_want_one_id_one_gets_it(bench: Bench) -> None:
    stores = [bench.store, bench.another()]
    barrier = threading.Barrier(8)

    def put(who: int) -> bool:
        barrier.wait()
        with contextlib.suppress(ResponseConflictError):
            stores[who % 2].put(response(0, created_at=who))
            return True
        return False

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(put, range(8))) == 1


def test_nothing_is_left_without_its_parent_by_a_pruning(bench: Bench) -> None:
    other = bench.another()

    def talk(number: int) -> None:
        parent = response(number, created_at=0)
        bench.store.put(parent)
        child = response(1000 + number, parent, created_at=9)
        with contextlib.suppress(ResponseNotFoundError):
            bench.store.put(child)
            assert bench.store.chain(child.id) in ((), (parent, child)), "both are removed, or none"

    with ThreadPoolExecutor(2) as threads:
        pruned = threads.submit(lambda: [other.prune(day, 1) for day in range(40)])
        list(threads.map(talk, range(40)))
        pruned.result()

    assert {len(bench.store.chain(f"resp_{1000 + number}")) for number in range(40)} <= {0, 2}


# ---------------------------------------------------------------------------------------- all alike

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "pending", "finish", "delete", "prune", "again"]),
        st.integers(0, 7),
        st.integers(-1, 7),
        st.integers(0, 5),
    ),
    max_size=25,
)


def outcome(
    store: ResponseStore,
    what: str,
    made: dict[str, StoredResponse],
    number: int,
    parent: int,
    when: int,
) -> object:
    """What a step comes to: an answer, or the name of a fault."""
    before = made.get(f"resp_{parent}")
    new = response(number, before, "in_progress" if what == "pending" else "completed", when)
    old = made.get(new.id, new)
    try:
        match what:
            case "put" | "pending":
                return store.put(new)
            case "again":
                return store.put(old)
            case "finish":
                return store.put(old.answered("completed", b"{}"))
            case "delete":
                return store.delete(new.id)
            case _:
                return store.prune(when, parent + 1)
    except SemanticError as error:
        return repr(error)


@given(STEPS)
@settings(max_examples=60, deadline=None)  # it is disks and servers that are waited for
def test_databases_do_as_the_fake_does(
    lasting: ResponseStore, steps: list[tuple[str, int, int, int]]
) -> None:
    fake = MemoryResponses()
    for each in (fake, lasting):
        grown_old(each)
        each.prune(0, 0)
    made: dict[str, StoredResponse] = {}
    for what, number, parent, when in steps:
        assert outcome(lasting, what, made, number, parent, when) == outcome(
            fake, what, made, number, parent, when
        )
        made = {
            one.id: one
            for name in map("resp_{}".format, range(8))
            if (one := fake.get(name) or made.get(name))
        }

    for name in map("resp_{}".format, range(8)):
        assert (lasting.get(name), lasting.chain(name)) == (fake.get(name), fake.chain(name))
        assert verify(fake.chain(name)) == ()
