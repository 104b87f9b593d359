"""What one model has on disk, by the books: orders, what came of them, and what nobody needs any
more.
"""

import pytest

from semantic_trio.domain import disk
from semantic_trio.domain.chain import root_key
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.entries import CacheEntry
from semantic_trio.domain.memory import Memory
from tests.unit.test_records import memory, read, write


def cooled(memory: Memory, agent: str = "a") -> list[CacheEntry]:
    """What an agent has is on disk alone."""
    write(memory, memory.agents.get(agent))
    memory.store.evict_all()
    memory.take_drops()
    return [*memory.chain(memory.agents.get(agent))]


def ordered(memory: Memory, tokens: int) -> list[CacheEntry]:
    """What a prompt wants brought back."""
    memory.recall(memory.run(tuple(range(tokens))))
    return memory.disk.take_reads()


def test_without_a_budget_there_is_nothing_to_do() -> None:
    ram = Memory(memory().spec, 1 << 20, chunk_tokens=64)

    ram.write(read(ram, tuple(range(100))))
    ram.delete(ram.agents.get("a"))

    assert (ram.disk.exists, ram.disk.is_idle, ram.disk.waiting) == (False, True, 0)


def test_as_much_is_written_at_once_as_is_wanted_and_one_at_least() -> None:
    first = memory()
    first.write(read(first, tuple(range(100))))
    size = first.store.size

    batches = [len(first.disk.next_writes(limit, size)) for limit in (1, 128, 300, 1 << 20)]

    assert batches == [1, 1, 2, 8]


def test_a_record_comes_after_all_that_was_ordered_before_it() -> None:
    first = memory()
    agents = [read(first, tuple(range(100 * n, 100 * n + 20)), f"a{n}", n) for n in range(2)]
    for agent in (*agents, agents[0]):
        first.write(agent)

    order = list[object]()
    while first.disk.waiting:
        if (next_one := first.disk.next_record()) is not None:
            first.disk.begin_record(next_one)
            assert first.disk.is_to_record(next_one)
            first.disk.end_record(is_written=True)
            order.append(next_one)
        else:
            batch = first.disk.next_writes(1 << 20, first.store.size)
            for kept in batch:
                first.store.written(kept, 1)
            order.append(len(batch))

    assert order == [6, agents[1], agents[0]]
    assert not first.disk.is_to_record(agents[0])


def test_a_record_that_could_not_be_written_waits_unless_its_agent_is_gone() -> None:
    first = memory()
    kept, gone = (read(first, tuple(range(100 * n, 100 * n + 20)), f"a{n}", n) for n in range(2))
    for agent in (kept, gone):
        first.write(agent)
        first.disk.begin_record(agent)
        if agent is gone:
            first.delete(gone)
        first.disk.end_record(is_written=False)

    assert (first.disk.is_to_write(kept), first.disk.is_to_write(gone)) == (True, False)
    assert first.disk.is_to_remove("a1")


def test_the_last_things_damaged_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MOST_DAMAGED", 2)
    first = memory()
    agent = read(first, tuple(range(100)))
    books = Disk(1)

    for block in agent.held[:3]:
        books.damaged(block)

    root, *keys = root_key(first.spec.fingerprint), *first.run(tuple(range(100))).keys
    assert [books.was_damaged_after([key]) for key in (root, *keys[:3])] == [
        False,
        True,
        True,
        False,
    ]


def test_what_is_computed_while_it_is_read_is_not_kept_twice() -> None:
    first = memory()
    read(first, tuple(range(100)))
    [block, *_] = cooled(first)
    assert block in ordered(first, 110)

    read(first, tuple(range(100)), number=1)  # nobody waits
    used = first.store.pool.used
    first.store.loaded(block, has_come=True)

    assert (block.is_cached, first.store.pool.used) == (True, used)
    assert block.key not in first.take_drops()[0]
    first.audit()


def test_what_waits_to_be_written_stays_with_all_that_leads_to_it() -> None:
    """The file of its first block was deleted by something else: evicting that block would remove
    what follows it.
    """
    first = memory()
    other = read(first, tuple(range(200, 230)), "b")
    write(first, read(first, tuple(range(48)), number=1))
    agent = read(first, tuple(range(64)), number=2)
    first.write(agent)
    [block, *_] = chain = first.chain(agent)
    first.store.vanished(block.item)
    waiting = first.disk.waiting

    freed = first.store.evict_all(first.store.unwritten())

    assert freed > 0
    assert all(entry.is_cached for entry in chain)
    assert not any(entry.is_cached for entry in first.chain(other))
    assert first.disk.waiting == waiting
    first.audit()


def test_what_comes_for_nobody_is_dropped() -> None:
    first = memory()
    read(first, tuple(range(100)))
    [block, *_] = cooled(first)
    ordered(first, 110)

    first.store.cancel_loads()
    first.store.loaded(block, has_come=True)

    assert first.take_drops() == ((block.key,), ())
    first.audit()


def test_a_copy_that_was_to_be_dropped_stays_until_what_is_read_has_come() -> None:
    first = memory()
    read(first, tuple(range(100)))
    write(first, first.agents.get("a"))
    first.store.evict_all()  # and the device has not heard of it yet
    [block, other, *_] = ordered(first, 110)
    assert first.take_drops() == ((), ())

    first.store.loaded(block, has_come=True)
    first.store.loaded(other, has_come=False)

    assert block.key not in first.take_drops()[0]
    assert not other.is_cached
    first.audit()


def test_what_was_called_off_and_is_wanted_again_is_read_once() -> None:
    first = memory()
    read(first, tuple(range(100)))
    cooled(first)
    blocks = ordered(first, 110)

    first.store.cancel_loads()
    again = ordered(first, 110)

    assert (len(blocks) > 0, again) == (True, [])
    assert all(block.is_loading for block in blocks)
    first.audit()


def test_what_was_lost_is_not_lost_again_under_another_hand() -> None:
    """It was deleted while it was read, and may be there again."""
    first = memory()
    read(first, tuple(range(100)))
    [block, *_] = cooled(first)
    ordered(first, 110)
    first.store.delete(block.item)
    first.disk.added(block.item, 100)

    first.store.lost(block)

    assert block.item in first.disk


def test_what_somebody_pins_is_not_deleted_when_no_record_lists_it() -> None:
    first = memory()
    agent = read(first, tuple(range(100)))
    tail = cooled(first)[-1]
    listed = first.disk.recorded(agent, 100, frozenset({tail.item}))
    first.pin(agent)

    first.store.unlisted([*listed, *first.disk.remove_agent(agent)])

    assert tail.item in first.disk


def test_what_an_agents_next_record_will_list_is_needed_already() -> None:
    first = memory()
    parent = read(first, tuple(range(100)))
    tail = cooled(first)[-1]
    first.disk.recorded(parent, 100, frozenset({tail.item}))
    fork = first.fork(parent, "fork")

    first.delete(parent)

    assert tail.item in first.disk
    assert first.chain(fork)[-1] is tail
    first.delete(fork)
    assert tail.item not in first.disk


def test_what_was_recorded_meanwhile_takes_nothing_from_the_next_record() -> None:
    first = memory()
    agent = read(first, tuple(range(100)))
    write(first, agent)
    first.disk.begin_record(agent)
    read(first, tuple(range(110)), number=1)
    tail = first.chain(agent)[-1]
    first.write(agent)

    first.disk.end_record(is_written=True)
    unneeded = first.disk.recorded(agent, 100, frozenset())

    assert tail.item not in unneeded


def test_what_a_row_holds_is_written_when_that_closes() -> None:
    """Whoever that row works for."""
    first = memory()
    agent = read(first, tuple(range(100)))
    run = first.run((*range(96), 7))
    first.rows.open(1, run, first.get_or_create("b"), first.match(run))
    first.rows.publish(1, 97)
    first.write(agent)
    held = [block for block in first.chain(agent) if block.rows]
    first.delete(first.agents.get("b"))

    first.rows.close(1, 97)
    before = [first.disk.is_to_write(block) for block in held]
    first.store.states.order_writes()

    assert (before, [first.disk.is_to_write(block) for block in held]) == ([False] * 6, [True] * 6)
    first.audit()


def test_what_was_given_up_before_its_row_was_closed_on_the_device_is_not_written() -> None:
    first = memory()
    agent = read(first, tuple(range(100)))
    run = first.run((*range(96), 7))
    first.rows.open(1, run, first.get_or_create("b"), first.match(run))
    first.rows.publish(1, 97)
    first.write(agent)
    first.rows.close(1, 97)
    while first.disk.waiting:
        for kept in first.disk.next_writes(1 << 20, first.store.size):
            first.store.not_written(kept)
        if first.disk.next_record() is not None:
            first.disk.begin_record(agent)
            first.disk.end_record(is_written=True)

    first.store.evict_all()
    first.store.states.order_writes()

    assert first.disk.next_writes(1 << 20, first.store.size) == []
    first.audit()


def test_the_last_that_waits_may_be_a_block() -> None:
    first = memory()
    first.store.states.write(read(first, tuple(range(100))).held[0])

    assert len(first.disk.next_writes(1 << 20, first.store.size)) == 1


def test_what_is_deleted_and_cannot_be_is_tried_again() -> None:
    first = memory()
    agent = read(first, tuple(range(20)))
    write(first, agent)
    first.disk.recorded(agent, 100, frozenset())
    first.delete(agent)
    removals = list[object]()
    while (removal := first.disk.next_removal()) is not None:
        removals.append(removal)
        first.disk.put_off(removal)

    assert first.disk.next_removal() is None
    assert all(first.disk.is_to_remove(removal) for removal in removals)
    first.disk.remove_again()
    assert first.disk.next_removal() in removals
    assert "a" in removals
