"""Agents as they outlive the process: their records made, and taken in again.

Knows what a record says and how the tree of blocks follows from it. Knows nothing of files.
"""

import attrs

from semantic_trio.domain.agent import Agent, client_id
from semantic_trio.domain.chain import (
    TOKEN_BYTES,
    TokenRun,
    child_key,
    common_tokens,
    root_key,
    snapshot_key,
)
from semantic_trio.domain.content import AgentRecord, Item, Kind, TokenHistory
from semantic_trio.domain.entries import Block
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.store import Store

# What a record says of one beginning of a conversation, and of all else but tokens and words.
END_BYTES, OTHER_BYTES = 150, 4096
# Blocks beside its history that a record lists: a million tokens of what was edited away.
MOST_STRAYS = 4096


def record_of(memory: Memory, agent: Agent, used: int) -> AgentRecord:
    """Return the record of an agent as it is now."""
    run = memory.run_of(agent)
    return AgentRecord(
        id=agent.id,
        is_named=agent.is_named,
        is_kept=agent.is_kept,
        is_pinned=agent.is_pinned,
        parent=agent.parent,
        turns=agent.turns,
        used=used,
        history=agent.history,
        salt=agent.salt,
        prompt_tokens=agent.prompt_tokens,
        text_fingerprint=agent.text_fingerprint,
        chain=run.last_key,
        snapshots=tuple(
            (snapshot.position, snapshot.key)
            for snapshot in memory.snapshots_of(agent)
            if snapshot.is_on_disk
        ),
        strays=tuple(sorted(memory.strays(agent)))[:MOST_STRAYS],
        responses=tuple(sorted(agent.responses)),
        conversation=agent.conversation,
        token_histories=memory.token_histories.of_agent(agent.id, agent.salt)
        if memory.agents.fits(agent.text_fingerprint)
        else (),
    )


def listed(memory: Memory, record: AgentRecord) -> frozenset[Item]:
    """Return the items that only a record leads to: the snapshots it lists, and the partial block
    at the end of its history.
    """
    run = _run(memory, record, record.history)
    snapshots = {Item(Kind.SNAPSHOT, key) for _, key in record.snapshots}
    tail = _partial_block(memory.store, run)
    return frozenset(
        snapshots | ({Item(Kind.BLOCK, child_key(run.last_key, tail))} if tail else set())
    )


def size_of(record: AgentRecord) -> int:
    """Return the bytes of a record on disk, about: its history, the tokens of token histories
    beyond that, and its conversation.
    """
    tokens = sum(
        len(history.packed) // TOKEN_BYTES - common_tokens(history.packed, record.history)
        for history in record.token_histories
    )
    ends = sum(len(history.ends) for history in record.token_histories)
    names = sum(map(len, record.responses))
    return (
        len(record.history)
        + tokens * TOKEN_BYTES
        + ends * END_BYTES
        + 2 * (record.conversation.characters + names)
        + OTHER_BYTES
    )


def adopt(memory: Memory, record: AgentRecord) -> int:
    """Take in an agent of an earlier process.

    Returns how many tokens of its history are gone from the disk.

    Raises `ValueError` for a record whose tokens are not those its blocks were named after.
    """
    run = _run(memory, record, record.history)
    if record.chain != run.last_key:
        raise ValueError("its tokens are not those of its blocks")
    agent = Agent(
        record.id,
        record.is_named,
        record.is_kept,
        record.parent,
        record.conversation,
        record.history,
        record.text_fingerprint,
    )
    agent.prompt_tokens, agent.turns, agent.strays = (
        record.prompt_tokens,
        record.turns,
        frozenset(record.strays),
    )
    agent.salt, agent.responses = record.salt, set(record.responses)
    if not memory.adopt(agent, _run(memory, record, agent.recognised_by)):
        return 0
    path = _blocks(memory.store, run)
    _snapshots(memory, record, run, path)
    memory.adopted(agent, path, is_pinned=record.is_pinned)
    return len(run) - (path[-1].stop if path else 0)


def arriving(record: AgentRecord, name: str | None) -> AgentRecord:
    """A record from an archive, under another id where one is given: kept, pinned nowhere, and the
    last one to be used.

    Raises `InvalidRequestError` for another id that only the server can make.
    """
    taken = attrs.evolve(record, is_kept=True, is_pinned=False, used=0)
    return (
        taken
        if name in (None, record.id)
        else attrs.evolve(taken, id=client_id(name or ""), is_named=True)
    )


def usable_histories(memory: Memory, record: AgentRecord) -> tuple[TokenHistory, ...]:
    """Return the token histories of a record; none if its text was read with another tokenizer or
    chat template.
    """
    return record.token_histories if memory.agents.fits(record.text_fingerprint) else ()


def _run(memory: Memory, record: AgentRecord, packed: bytes) -> TokenRun:
    """Tokens of a record with the names of their blocks."""
    return TokenRun.of_packed(
        packed, root_key(memory.spec.fingerprint, record.salt), memory.spec.block_tokens
    )


def _blocks(store: Store, run: TokenRun) -> list[Block]:
    """The blocks of a history that are on disk, from the first on, and its tail."""
    path, block = [], store.tree.root(run.root)
    for packed in (
        *(run.block_at(at * run.block_tokens) for at in range(len(run.keys))),
        _partial_block(store, run),
    ):
        key = child_key(block.key, packed)
        if not packed or not store.disk.has_block(key):
            break
        block = store.child(block, packed)
        store.states.found_on_disk(block)
        path.append(block)
    return path


def _partial_block(store: Store, run: TokenRun) -> bytes:
    """Tokens of the partial block at the end of a history: those of the longest one on disk, or
    else all of them.

    The last one is not there when its agent's next turn began before it was written. The one of the
    turn before is, and begins in the same way.
    """
    beginnings = (run.rest[:stop] for stop in range(len(run.rest), 0, -TOKEN_BYTES))
    return next(
        (packed for packed in beginnings if store.disk.has_block(child_key(run.last_key, packed))),
        run.rest,
    )


def _snapshots(memory: Memory, record: AgentRecord, run: TokenRun, path: list[Block]) -> None:
    """Take in the snapshots a record lists that are on disk."""
    store = memory.store
    whole = [
        store.tree.root(run.root),
        *(block for block in path if block.stop % run.block_tokens == 0),
    ]
    for position, key in record.snapshots:
        after = whole[min(position // run.block_tokens, len(whole) - 1)]
        packed = run.packed[after.stop * TOKEN_BYTES : position * TOKEN_BYTES]
        if Item(Kind.SNAPSHOT, key) in store.disk and snapshot_key(after.key, packed) == key:
            store.states.found_on_disk(
                after.snapshots.get(key) or memory.snapshots.add(after, packed)
            )
