"""Agents as they outlive the process: what a record says, and what follows from it."""

import attrs
import pytest

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.chain import pack
from semantic_trio.domain.content import AgentRecord, HistoryEnd, Item, Kind, TokenHistory
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.records import adopt, listed, record_of, size_of, usable_histories

GLOBAL = LayerGroup(LayerKind.GLOBAL, layers=1, token_bytes=8)
SPEC = ModelCacheSpec(
    "records",
    (GLOBAL, LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=64)),
    block_tokens=16,
    row_slack_tokens=32,
)


def memory(agents: int = 10) -> Memory:
    return Memory(SPEC, 1 << 20, chunk_tokens=64, max_agents=agents, disk=Disk(1 << 20))


def read(
    memory: Memory,
    tokens: tuple[int, ...],
    name: str | None = "a",
    number: int = 0,
    positions: tuple[int, ...] = (),
) -> Agent:
    """A turn that reads a prompt and ends."""
    run = memory.run(tokens)
    agent = memory.get_or_create(name) if name else memory.recognise(run)
    memory.rows.open(number, run, agent, memory.match(run))
    for position in (*positions, len(run)):
        memory.rows.publish(number, position)
        memory.rows.snapshot(number, position)
    memory.rows.remember(number, run)
    memory.rows.close(number, len(run))
    return agent


def write(memory: Memory, agent: Agent, used: int = 1) -> AgentRecord:
    """Everything of an agent is on disk."""
    memory.write(agent)
    while kept := memory.disk.next_writes(1 << 20, memory.store.size):
        for one in kept:
            memory.store.written(one, memory.store.size(one))
    return record_of(memory, agent, used)


def restarted(
    before: Memory, record: AgentRecord, without: frozenset[Item] = frozenset()
) -> tuple[Memory, int]:
    """Another process over the same disk, and how many tokens it misses."""
    after = memory()
    for item in [item for item in before.disk.known if item not in without]:
        after.disk.added(item, before.disk.size(item))
    gone = adopt(after, record)
    after.audit()
    return after, gone


def test_an_agent_comes_back_as_it_was() -> None:
    first = memory()
    agent = read(first, tuple(range(100)), positions=(40,))
    agent.conversation = Conversation((Message(Role.USER, (Text("hi"),)),))
    first.pin(agent)

    second, gone = restarted(first, write(first, agent, used=7))

    again = second.agents.get("a")
    unlike = {"blocks", "pinned", "pinned_snapshot", "last_turn"}
    assert {k: v for k, v in attrs.asdict(again, recurse=False).items() if k not in unlike} == {
        k: v for k, v in attrs.asdict(agent, recurse=False).items() if k not in unlike
    }
    assert (gone, [block.key for block in again.held]) == (0, [block.key for block in agent.held])
    assert second.pins.bytes == first.pins.bytes
    assert again.pinned_snapshot is not None
    assert again.pinned_snapshot.position == 100


def test_who_was_not_named_is_recognised_again() -> None:
    first = memory()
    agent = read(first, tuple(range(50)), name=None)

    second, _ = restarted(first, write(first, agent))

    assert second.recognise(second.run(tuple(range(60)))).id == agent.id


def test_a_prompt_reaches_what_is_on_disk() -> None:
    first = memory()
    agent = read(first, tuple(range(100)), positions=(40,))
    second, _ = restarted(first, write(first, agent))
    run = second.run((*range(45), 7))

    match, reach = second.match(run), second.store.tree.reach(run, len(run) - 1)

    assert (match.length, match.known) == (0, 0)
    assert (reach.length, reach.known) == (40, 45)


def test_the_last_partial_block_on_disk_is_found_when_the_next_one_was_not_written() -> None:
    """The agent's next turn began before that was written, and took it over; then the process was
    killed.
    """
    first = memory()
    agent = read(first, tuple(range(100)))
    first.disk.recorded(agent, 1, listed(first, write(first, agent)))
    read(first, tuple(range(103)), number=1)
    first.write(agent)
    run = first.run(tuple(range(110)))
    first.rows.open(2, run, agent, first.match(run))

    record = record_of(first, agent, used=2)

    assert first.disk.recorded(agent, 1, listed(first, record)) == []
    second, gone = restarted(first, record)
    assert (gone, second.agents.get("a").tokens) == (3, 103)
    assert second.store.tree.reach(second.run(tuple(range(110))), 109).length == 100


@pytest.mark.parametrize(("lost", "gone"), [(0, 100), (3, 52), (6, 4)])
def test_what_follows_a_lost_block_is_gone(lost: int, gone: int) -> None:
    first = memory()
    agent = read(first, tuple(range(100)), positions=(40,))

    second, tokens = restarted(
        first, write(first, agent), without=frozenset({agent.held[lost].item})
    )

    assert tokens == gone
    held = second.agents.get("a").held
    assert [block.start for block in held] == [16 * at for at in range(lost)]


def test_snapshots_that_are_not_on_the_way_are_left_out() -> None:
    first = memory()
    agent = read(first, tuple(range(100)), positions=(40,))
    record = write(first, agent)
    crooked = attrs.evolve(
        record,
        snapshots=((39, record.snapshots[0][1]), record.snapshots[1], (80, b"unknown" + bytes(25))),
    )

    second, _ = restarted(first, crooked)

    assert [snapshot.position for snapshot in second.snapshots_of(second.agents.get("a"))] == [100]


def test_a_record_of_other_tokens_is_none() -> None:
    first = memory()
    record = write(first, read(first, tuple(range(100))))

    with pytest.raises(ValueError, match="not those of its blocks"):
        adopt(memory(), attrs.evolve(record, history=pack(range(1, 101))))


def test_a_record_of_less_than_a_block_has_the_roots_name() -> None:
    first = memory()
    agent = first.create("a")

    second, gone = restarted(first, write(first, agent))

    assert (gone, second.agents.get("a").held) == (0, [])
    with pytest.raises(ValueError, match="not those of its blocks"):
        adopt(memory(), attrs.evolve(write(first, agent), history=pack(range(16))))


def test_who_finds_no_room_in_the_register_is_not_taken_in() -> None:
    first, small = memory(), memory(agents=1)
    records = [
        write(first, read(first, tuple(range(100)), name, number))
        for number, name in enumerate("ab")
    ]
    small.create("kept")

    assert [adopt(small, record) for record in records] == [0, 0]
    with pytest.raises(InvalidRequestError, match="delete one"):
        adopt(small, attrs.evolve(records[0], is_kept=True))

    assert [agent.id for agent in small.agents] == ["kept"]
    small.audit()


def test_a_record_lists_what_it_alone_leads_to() -> None:
    first = memory()
    agent = read(first, tuple(range(100)), positions=(40,))
    record = write(first, agent)

    items = listed(first, record)

    assert items == {
        agent.held[-1].item,
        *(Item(Kind.SNAPSHOT, key) for _, key in record.snapshots),
    }
    assert (
        listed(first, attrs.evolve(record, history=record.history[: 96 * 4], snapshots=()))
        == frozenset()
    )


def test_a_record_takes_what_it_says() -> None:
    record = write(memory(), memory().create("a"))
    long = attrs.evolve(record, history=pack(range(1000)))
    line = TokenHistory(pack(range(1000)), (HistoryEnd(bytes(32), 1000, is_answer=True),))
    words = Conversation((Message(Role.USER, (Text("words " * 100),)),))

    empty, history = size_of(record), size_of(long)

    assert history - empty == 4000
    assert size_of(attrs.evolve(long, token_histories=(line,))) - history < 200, (
        "its tokens are the history's"
    )
    assert size_of(attrs.evolve(record, token_histories=(line,))) - empty > 4000
    assert size_of(attrs.evolve(record, conversation=words)) - empty > 600


# --------------------------------------------------------------- another tokenizer or chat template

HISTORY = TokenHistory(pack(range(20)), (HistoryEnd(bytes(32), 20, is_answer=True),))


def test_a_history_keeps_the_fingerprint_it_was_read_under_until_it_is_read_again() -> None:
    first, after = memory(), memory()
    first.agents.text_fingerprint, after.agents.text_fingerprint = "old", "new"
    adopt(after, write(first, read(first, tuple(range(100)))))
    agent = after.agents.get("a")
    after.token_histories.adopt("a", (HISTORY,))

    untouched = record_of(after, agent, used=2)
    read(after, tuple(range(50, 150)))
    read_again = record_of(after, agent, used=3)

    assert (untouched.text_fingerprint, untouched.token_histories) == ("old", ())
    assert (read_again.text_fingerprint, read_again.token_histories) == ("new", (HISTORY,))


@pytest.mark.parametrize("fingerprint", ["", "old"], ids=["of before", "of another template"])
def test_token_histories_are_used_under_their_own_fingerprint_alone(fingerprint: str) -> None:
    first, after = memory(), memory()
    after.agents.text_fingerprint = "new"
    record = attrs.evolve(
        write(first, read(first, tuple(range(100)))),
        token_histories=(HISTORY,),
        text_fingerprint=fingerprint,
    )

    assert usable_histories(after, record) == ()
    assert usable_histories(after, attrs.evolve(record, text_fingerprint="new")) == (HISTORY,)


def test_no_prompt_is_recognised_by_a_history_of_another_template() -> None:
    first, after = memory(), memory()
    after.agents.text_fingerprint = "new"
    record = write(first, read(first, tuple(range(100)), name=None))
    adopt(after, record)

    found = after.recognise(after.run(tuple(range(100))))

    assert found.id != record.id
    assert after.agents.get(record.id).tokens == 100
