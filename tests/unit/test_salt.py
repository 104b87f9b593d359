"""Histories of different salts have no name in common, whatever their tokens are; and who has one
is found and forgotten like any other agent.
"""

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.chain import TokenRun, child_key, pack, root_key, snapshot_key
from semantic_trio.domain.content import AgentRecord
from semantic_trio.domain.lineage import lineage, salted
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.salt import NO_SALT, Salt, adapted, salt_of
from tests.unit.test_records import SPEC, memory, restarted, write

ONE, OTHER = b"1" * 32, b"2" * 32
SALTS = st.just(NO_SALT) | st.binary(min_size=32, max_size=32)


def read(
    memory: Memory, tokens: tuple[int, ...], name: str, salt: Salt = NO_SALT, number: int = 0
) -> Agent:
    """A turn that reads a prompt and ends."""
    run, agent = memory.run(tokens, salt), memory.get_or_create(name)
    memory.rows.open(number, run, agent, memory.match(run))
    memory.rows.publish(number, len(run))
    memory.rows.snapshot(number, len(run))
    memory.rows.remember(number, run, salt)
    memory.rows.close(number, len(run))
    memory.audit()
    return agent


def record(tokens: list[int], salt: Salt, size: int = 16) -> AgentRecord:
    run = TokenRun.of(tokens, root_key("model", salt), size)
    keys = [run.root, *run.keys]
    snapshots = tuple(
        (at, snapshot_key(keys[at // size], run.packed[at // size * size * 4 : at * 4]))
        for at in {len(tokens) // 2, len(tokens)}
        if at
    )
    return AgentRecord(
        id="a", is_named=True, is_kept=True, is_pinned=False, parent=None, turns=1, used=1, history=run.packed, prompt_tokens=0, salt=salt,
        chain=run.last_key, snapshots=snapshots, strays=(b"stray",),
    )  # fmt: skip


@given(st.lists(st.integers(0, 9), max_size=80), SALTS, SALTS, st.sampled_from([16, 32]))
def test_two_salts_never_share_a_name(tokens: list[int], one: Salt, other: Salt, size: int) -> None:
    before = record(tokens, one, size)
    after, names = salted(before, "model", other)
    there_and_back, back = salted(after, "model", one)

    assert list(names) == list(lineage(before, "model"))
    assert list(names.values()) == list(lineage(after, "model"))
    assert one == other or not names.keys() & {*names.values()}
    assert (after.salt, after.history, after.strays) == (other, before.history, ())
    assert attrs.evolve(there_and_back, strays=before.strays, snapshots=before.snapshots) == before
    assert back == {name: item for item, name in names.items()}


@pytest.mark.parametrize("own", [NO_SALT, ONE])
def test_another_salt_keeps_the_adapter_that_has_computed_a_record(own: Salt) -> None:
    """An agent that is imported under a salt of its own must not pass for one of the model without
    the adapter.
    """
    before = record(list(range(40)), adapted(own, b"a" * 16))

    after, names = salted(before, "model", OTHER)

    assert after.salt == adapted(OTHER, b"a" * 16)
    assert list(names.values()) == list(lineage(after, "model"))


def test_without_another_salt_a_record_stays_as_it_is() -> None:
    before = record(list(range(40)), ONE)

    assert salted(before, "model", None) == (
        before,
        {item: item for item in lineage(before, "model")},
    )


def test_no_salt_of_a_client_leads_into_the_blocks_of_others() -> None:
    """Not even one that is chosen to look like the tokens of a block, or like the name of one."""
    root, packed = root_key("model"), pack(range(256))
    chosen = [packed, root, child_key(root, packed), snapshot_key(root, packed)]

    assert not {root_key("model", salt) for salt in chosen} & {
        root,
        child_key(root, packed),
        snapshot_key(root, packed),
    }
    assert len({salt_of(text) for text in ("a", "b", "\ud800")}) == 3
    assert {len(salt_of(text)) for text in ("a", "b" * 1000)} == {32}


@pytest.mark.parametrize("tokens", [10, 40], ids=["a tail alone", "whole blocks"])
def test_agents_of_two_salts_are_forgotten_apart(tokens: int) -> None:
    held, prompt = memory(), tuple(range(tokens))
    ada, eve = read(held, prompt, "ada", ONE), read(held, prompt, "eve", OTHER, 1)
    fork = held.fork(ada, "fork")
    of_eve = {*eve.blocks, *(snapshot.key for snapshot in held.snapshots_of(eve))}
    assert not {*ada.blocks} & {*eve.blocks}
    assert {*fork.blocks} == {*ada.blocks}

    held.delete(ada)
    held.audit()
    assert [block.key for block in held.chain(fork)] == [*fork.blocks], "what it shares stays"
    held.delete(fork)
    held.audit()

    assert {*held.expected().blocks, *held.expected().snapshots} == of_eve
    assert [root.key for root in held.store.tree.roots] == [root_key(SPEC.fingerprint, OTHER)], (
        "a root goes with its last block"
    )
    assert held.match(held.run((*prompt, 1), OTHER)).length == tokens
    assert held.match(held.run((*prompt, 1))).length == 0


def test_an_agent_of_a_salt_comes_back_after_a_restart() -> None:
    first = memory()
    agent = read(first, tuple(range(40)), "ada", ONE)
    first.pin(agent)
    after, gone = restarted(first, write(first, agent))
    [again] = after.agents

    assert (gone, again.salt, again.is_pinned) == (0, ONE, True)
    assert [block.key for block in after.chain(again)] == [
        block.key for block in first.chain(agent)
    ]
    assert after.store.tree.reach(after.run(tuple(range(41)), ONE), 40).length == 40
    assert after.store.tree.reach(after.run(tuple(range(41))), 40).length == 0


def test_a_block_that_nothing_leads_to_is_deleted_with_the_last_agent_of_its_salt() -> None:
    held = memory()
    agents = [
        read(held, tuple(range(32)), name, salt, number)
        for number, (name, salt) in enumerate([("ada", ONE), ("eve", OTHER)])
    ]
    second = held.chain(agents[0])[1].item
    for agent in agents:
        held.release(agent)
    held.disk.added(second, 100)

    held.delete(agents[0])

    assert held.disk.is_to_remove(second), "the other has read the same tokens, and not this block"


def test_an_agent_may_change_its_salt_with_a_turn() -> None:
    held = memory()
    agent = read(held, tuple(range(40)), "ada")

    read(held, tuple(range(50)), "ada", ONE, 1)

    assert agent.salt == ONE
    assert held.match(held.run(tuple(range(60)), ONE)).length == 50
    assert held.match(held.run(tuple(range(60)))).length == 40, (
        "what it has read before stays its own"
    )
    held.delete(agent)
    assert held.store.tree.roots == []


def test_a_row_shares_its_prompt_with_sequences_of_its_salt_alone() -> None:
    """Who waits for a row of another salt would wait in vain, and know by that what is being
    read.
    """
    held, prompt = memory(), tuple(range(40))
    run = held.run(prompt, ONE)
    held.rows.open(0, run, held.get_or_create("ada"), held.match(run))

    assert [
        held.rows.shared_prefix(held.run(prompt, salt), 0) for salt in (ONE, OTHER, NO_SALT)
    ] == [40, 0, 0]
