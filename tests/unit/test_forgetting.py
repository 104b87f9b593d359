"""Agents go with the responses they have read, and files that others have deleted are not believed
to be there.
"""

import pytest

from semantic_trio.domain.agent_memory import MOST_FORGOTTEN
from semantic_trio.domain.chain import pack
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.testing import ATTENTION_ONLY
from semantic_trio.testing.codec import ByteDecoder

PROMPT = tuple(range(40))


@pytest.fixture
def memory() -> Memory:
    return Memory(ATTENTION_ONLY, budget_bytes=1 << 20, chunk_tokens=64, disk=Disk(1 << 20))


def test_who_has_read_a_response_goes_with_it_and_who_is_kept_is_there_without_its_memory(
    memory: Memory,
) -> None:
    for name, responses in (("reader", {"resp_1", "resp_2"}), ("other", {"resp_2"})):
        memory.get_or_create(name).responses = responses
    kept = memory.create("kept")
    kept.responses, kept.history = {"resp_1"}, pack(PROMPT)
    kept.is_named = False  # as one that was known by its content and was imported

    assert set(memory.forget("resp_1")) == {"reader", "kept"}

    assert [agent.id for agent in memory.agents] == ["other", "kept"]
    assert (memory.agents.get("kept").history, memory.agents.get("kept").responses) == (b"", set())
    assert (memory.agents.get("kept").is_kept, memory.agents.get("kept").is_named) == (True, False)
    assert memory.forget("resp_1") == ()
    memory.audit()


def test_so_many_deleted_responses_are_known_as_such_and_no_more(memory: Memory) -> None:
    for number in range(MOST_FORGOTTEN + 1):
        memory.forget(f"resp_{number}")

    assert len(memory.forgotten) == MOST_FORGOTTEN
    assert "resp_0" not in memory.forgotten


@pytest.mark.parametrize("agent", [None, "ada"])
def test_a_turn_that_is_made_of_a_deleted_response_is_no_agents(
    memory: Memory, agent: str | None
) -> None:
    limits = Limits(context_length=1000, max_rows=4, chunk_tokens=64, max_stall_seconds=0.25)
    scheduler = Scheduler(limits, memory)
    memory.forget("resp_1")
    asker = memory.get_or_create(agent) if agent else None

    request = GenerationRequest("r", PROMPT, 5, seed=1, agent=agent, responses=("resp_1", "resp_2"))
    sequence = scheduler.add(request, ByteDecoder(), asker)
    scheduler.plan()

    assert sequence.agent is not None
    assert (sequence.agent.is_listed, sequence.agent.is_deleted) == (False, True)


def test_a_turn_that_is_not_to_be_stored_has_an_agent_that_nobody_can_ask_for(
    memory: Memory,
) -> None:
    limits = Limits(context_length=1000, max_rows=4, chunk_tokens=64, max_stall_seconds=0.25)
    scheduler = Scheduler(limits, memory)

    sequence = scheduler.add(
        GenerationRequest("r", PROMPT, 5, seed=1, is_private=True, responses=("resp_1",)),
        ByteDecoder(),
    )
    scheduler.plan()

    assert sequence.agent is not None
    assert (sequence.agent.is_listed, sequence.agent.is_deleted, list(memory.agents)) == (
        False,
        False,
        [],
    )


def test_a_file_that_is_known_by_its_name_alone_can_vanish_too(memory: Memory) -> None:
    item = Item(Kind.BLOCK, b"k" * 32)
    memory.disk.added(item, 100)

    assert memory.disk.missing({}) == [item]
    memory.store.vanished(item)

    assert (memory.disk.missing({}), memory.disk.used) == ([], 0)
    memory.audit()
