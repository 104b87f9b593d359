"""What the memory removes with an agent or a block."""

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.conversation_digests import Digest, chain
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.memory import Memory
from semantic_trio.testing import ATTENTION_ONLY

PROMPT = tuple(range(600))


def memory(max_agents: int = 10) -> Memory:
    return Memory(
        ATTENTION_ONLY,
        budget_bytes=1 << 20,
        chunk_tokens=64,
        max_agents=max_agents,
        disk=Disk(1 << 20),
    )


def read(memory: Memory, agent: Agent, tokens: tuple[int, ...] = PROMPT) -> None:
    """A turn of an agent that reads a prompt and ends."""
    run = memory.run(tokens)
    memory.rows.open(0, run, agent, memory.match(run))
    memory.rows.publish(0, len(run))
    memory.rows.remember(0, run)
    memory.rows.close(0, len(run))


def conversation(text: str) -> tuple[Digest, ...]:
    return chain(Conversation((Message(Role.USER, (Text(text),)),)))


def next_turn(text: str) -> tuple[Digest, ...]:
    asked = Message(Role.USER, (Text(text),))
    return chain(Conversation((asked, asked)))


def test_a_removed_block_is_taken_off_every_agent_that_has_read_it() -> None:
    held = memory()
    agents = [held.get_or_create(name) for name in "ab"]
    for agent in agents:
        read(held, agent)
    before = [len(agent.held) for agent in agents]

    for block in agents[0].held[:1]:
        held.store.remove(block)

    assert all(before)
    assert [len(agent.held) for agent in agents] == [0, 0]


def test_a_removed_agent_is_taken_off_every_block_that_it_has_read() -> None:
    held = memory()
    first, second = held.get_or_create("a"), held.get_or_create("b")
    for agent in (first, second):
        read(held, agent)

    held.delete(first)

    assert {owner.id for block in second.held for owner in block.owners} == {"b"}
    assert len(first.held) == 0


def test_the_record_of_an_agent_that_makes_place_is_deleted_at_once() -> None:
    held = memory(max_agents=1)
    read(held, held.get_or_create("a"))
    held.write(held.agents.get("a"))
    held.disk.recorded(held.agents.get("a"), 100, frozenset())

    held.get_or_create("b")

    assert held.disk.is_to_remove("a")
    assert held.agents.take_removed() == [], "the memory has taken the list in the same call"


def test_token_histories_of_an_agent_that_makes_place_stay_and_those_of_a_deleted_agent_do_not() -> (
    None
):
    held = memory(max_agents=1)
    held.get_or_create("a")
    held.keep_tokens(conversation("of a"), PROMPT, (1,), None, "a")
    held.get_or_create("b")
    held.keep_tokens(conversation("of b"), PROMPT[::-1], (1,), None, "b")

    held.delete(held.agents.get("b"))

    known = [bool(held.token_histories.known(next_turn(text)).draft) for text in ("of a", "of b")]
    assert known == [True, False]
    assert held.token_histories.of_agent("a") == ()


def test_a_token_history_has_the_record_of_its_agent_written_again() -> None:
    held = memory()
    agent = held.get_or_create("a")
    read(held, agent)
    written = held.disk.is_to_record(agent)

    held.keep_tokens(conversation("of a"), PROMPT, (1,), None, "a")
    held.keep_tokens(conversation("of nobody"), PROMPT, (1,), None, "")

    assert (written, held.disk.is_to_record(agent)) == (False, True)
    assert len(held.token_histories) == 1 + 1
