"""The memory of agents between their turns: their histories, pins and records, over the blocks and
snapshots they are made of.

Knows agents and histories. Knows no rows, no arrays and no clock.
"""

from collections.abc import Sequence

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.agents import Agents
from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun, root_key
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.conversation_digests import Digest
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.entries import Block, CacheEntry, Snapshot
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.pins import Pins
from semantic_trio.domain.salt import Salt
from semantic_trio.domain.snapshots import Snapshots
from semantic_trio.domain.step import BlockKey
from semantic_trio.domain.store import Store
from semantic_trio.domain.token_histories import TokenHistories

# Snapshots of one agent that are written: the end of its head, and the latest. Each can be as large
# as the keys and values of 3,000 tokens.
SNAPSHOTS_WRITTEN = 4
# Deleted responses that are known as such: turns that were made of one are asked for within seconds
# before.
MOST_FORGOTTEN = 10_000


@attrs.define(eq=False)
class AgentMemory:
    """Agents of one model and what they remember. `Memory` adds the live rows."""

    spec: ModelCacheSpec
    budget_bytes: int
    chunk_tokens: int  # the largest piece of a prompt read in one step
    max_agents: int = 1000
    disk: Disk = attrs.field(factory=Disk)
    text_fingerprint: str = ""  # of the tokenizer and chat template
    store: Store = attrs.field(init=False)
    snapshots: Snapshots = attrs.field(init=False)
    agents: Agents = attrs.field(init=False)
    pins: Pins = attrs.field(init=False)
    token_histories: TokenHistories = attrs.field(init=False, factory=TokenHistories)
    # ids of responses that were deleted: turns made of them are not remembered
    forgotten: dict[str, None] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.store = Store(self.spec, self.budget_bytes, self.disk)
        self.snapshots = Snapshots(self.store)
        self.agents = Agents(self.max_agents, text_fingerprint=self.text_fingerprint)
        self.pins = Pins(self.store, self.snapshots)

    # --------------------------------------------------------------------------------------- agents

    def create(self, name: str, *, parent: str | None = None) -> Agent:
        """Create an agent that a client has named. Raises as `Agents.create` does."""
        agent = self.agents.create(name, parent=parent)
        self._remove_traces()
        return agent

    def get_or_create(self, name: str) -> Agent:
        """Return the agent of an id. Raises as `Agents.get_or_create` does."""
        agent = self.agents.get_or_create(name)
        self._remove_traces()
        return agent

    def recognise(self, run: TokenRun) -> Agent:
        """Return the agent without a name that a prompt continues, or a new one."""
        agent = self.agents.recognise(run)
        self._remove_traces()
        return agent

    def adopt(self, agent: Agent, prompt: TokenRun) -> bool:
        """Take in an agent of an earlier process. Returns False as `Agents.adopt` does."""
        is_adopted = self.agents.adopt(agent, prompt)
        self._remove_traces()
        return is_adopted

    def leave(self, agent: Agent) -> None:
        """Note that a turn of an agent is over."""
        self.agents.leave(agent)
        self._remove_traces()

    def fork(self, agent: Agent, name: str) -> Agent:
        """Create an agent that remembers what this one does, at no cost.

        Raises as `Agents.create` does.
        """
        fork = self.create(name, parent=agent.id)
        fork.conversation, fork.history, fork.text_fingerprint = (
            agent.conversation,
            agent.history,
            agent.text_fingerprint,
        )
        fork.responses, fork.thinking, fork.salt = set(agent.responses), agent.thinking, agent.salt
        for block in self.chain(agent):
            self.own(fork, block)
        self.write(fork)
        return fork

    def delete(self, agent: Agent) -> None:
        """Delete an agent, with its blocks that no other agent has read.

        Rows that work for it go on, and leave nothing behind.
        """
        agent.is_deleted = True
        blocks, snapshots = agent.held, self._passed(agent)
        self.pins.unpin(agent)
        self.agents.remove(agent)
        self._remove_traces()
        gone = [
            entry for entry in (*blocks, *snapshots) if not self._is_anybodys(entry, agent.salt)
        ]
        # to be asked first: with a block all that follows is struck off
        on_disk = [entry.item for entry in gone if entry.is_on_disk]
        for item in (*on_disk, *self._known_by_name_alone(agent)):
            self.store.delete(item)
        for entry in gone:
            if entry.is_cached:
                self.store.evict(entry)

    def forget(self, response: str) -> tuple[str, ...]:
        """Delete the agents that have read or given a response, and remember no turn that is made
        of it.

        Returns the ids of these agents.

        An agent that is kept is there again, without its memory: the conversation it is kept for is
        no response's.
        """
        self.forgotten[response] = None
        while len(self.forgotten) > MOST_FORGOTTEN:
            del self.forgotten[next(iter(self.forgotten))]
        holders = [agent for agent in self.agents if response in agent.responses]
        for agent in holders:
            self.delete(agent)
            if agent.is_kept:
                again = self.create(agent.id, parent=agent.parent)
                again.conversation, again.is_named = agent.conversation, agent.is_named
                self.write(again)
        return tuple(agent.id for agent in holders)

    def release(self, agent: Agent) -> None:
        """Give up the RAM of an agent: blocks that nobody else has read, with their snapshots, but
        for those in live rows.

        What is on disk stays.
        """
        self.pins.unpin(agent)
        for block in [block for block in agent.held if block.owners <= {agent}]:
            for entry in [*block.snapshots.values(), block]:
                if entry.is_cached and not entry.pins:
                    self.store.evict(entry)

    def pin(self, agent: Agent) -> None:
        """Keep an agent's memory whatever happens. Raises as `Pins.pin` does."""
        self.pins.pin(agent, self.chain(agent))
        self.write(agent)

    def unpin(self, agent: Agent) -> None:
        """Let an agent's memory be given up again."""
        self.pins.unpin(agent)
        self.write(agent)

    def keep_tokens(
        self,
        digests: tuple[Digest, ...],
        prompt: tuple[int, ...],
        answer: tuple[int, ...],
        answered: Digest | None,
        owner: str = "",
    ) -> None:
        """Keep the tokens of a conversation and its answer, and have the record of its agent
        written again.

        Arguments as of `TokenHistories.remember`.
        """
        self.token_histories.remember(digests, prompt, answer, answered, owner)
        agent = self.agents.find(owner)
        if agent is not None:
            self.write(agent)

    def write(self, agent: Agent) -> None:
        """Have what is new of an agent written to disk: its blocks and snapshots, and then the
        record that leads to them.

        What its rows have read last has to be stored on the device already.
        """
        is_wanted = self.disk.exists and agent.is_listed and (agent.history or agent.is_kept)
        if not is_wanted or self.agents.is_apart(agent.id):
            return
        chain, snapshots = self.chain(agent), self.snapshots_of(agent)
        for entry in (*chain, *(snapshots[-1:] if self.disk.is_sparing else snapshots)):
            self.store.states.write(entry)
        tail = [block for block in chain[-1:] if block.stop % self.spec.block_tokens]
        self.disk.write(agent, frozenset(entry.item for entry in (*tail, *snapshots)))

    def own(self, agent: Agent, block: Block) -> None:
        """Note that an agent has read a block. An agent that is not listed owns nothing."""
        if agent.is_listed:
            agent.own(block)

    def touch(self, agent: Agent) -> None:
        """Put an agent's blocks at the end of the order of eviction, its first ones last."""
        self.store.touch(self.chain(agent))

    def adopted(self, agent: Agent, path: Sequence[Block], *, is_pinned: bool) -> None:
        """An agent of an earlier process is here again, with these blocks on disk."""
        for block in path:
            self.own(agent, block)
        if is_pinned:
            self.pins.pin_what_fits(agent, path)

    def run_of(self, agent: Agent) -> TokenRun:
        """An agent's history with the names of its blocks."""
        return TokenRun.of_packed(
            agent.history, root_key(self.spec.fingerprint, agent.salt), self.spec.block_tokens
        )

    def strays(self, agent: Agent) -> set[BlockKey]:
        """The blocks on disk that an agent has read beside its history: before it was edited, or
        went back.
        """
        owned = {key for key in agent.strays if self.disk.has_block(key)} | {
            block.key for block in agent.blocks.values() if block.is_on_disk
        }
        return owned - {block.key for block in self.chain(agent)}

    def chain(self, agent: Agent) -> list[Block]:
        """The blocks of an agent's history that are there, from the first on.

        One that only begins like its tail is another's.
        """
        run = self.run_of(agent)
        path = self.store.tree.held(run)[0]
        last = path[-1] if path else self.store.root(agent.salt)
        alike = {
            child: run.alike(child.packed, last.stop)
            for child in last.children
            if child.key in agent.blocks
        }
        tail = max(
            filter(alike.get, alike), key=lambda child: (alike[child], -child.stop), default=None
        )
        return [*path, *([tail] if tail else [])]

    def snapshots_of(self, agent: Agent) -> list[Snapshot]:
        """The snapshots on an agent's way that outlive the process: the first and the last ones.

        By position.
        """
        passed = sorted(
            (snapshot for snapshot in self._passed(agent) if snapshot.rank > Rank.SPENT),
            key=lambda snapshot: snapshot.position,
        )
        return (
            passed
            if len(passed) <= SNAPSHOTS_WRITTEN
            else [passed[0], *passed[1 - SNAPSHOTS_WRITTEN :]]
        )

    # -------------------------------------------------------------------------------------- private

    def _passed(self, agent: Agent) -> list[Snapshot]:
        """The snapshots on an agent's way."""
        run = self.run_of(agent)
        path = [self.store.root(agent.salt), *self.store.tree.held(run)[0]]
        return [
            snapshot
            for block in path
            for snapshot in block.snapshots.values()
            if run.has(snapshot.packed, block.stop)
        ]

    def _is_anybodys(self, entry: CacheEntry, salt: Salt) -> bool:
        """True if an agent that is listed has read what ends with a block or snapshot of a salt."""
        if entry.pins or not isinstance(entry, Snapshot):
            return entry.pins > 0 or (isinstance(entry, Block) and bool(entry.owners))
        is_first = entry.after is self.store.root(salt)  # no agent owns a root
        readers = (
            [one for one in self.agents if one.salt == salt]
            if is_first
            else [self.agents.get(owner.id) for owner in entry.after.owners]
        )
        return any(
            reader.history.startswith(entry.packed, entry.after.stop * TOKEN_BYTES)
            for reader in readers
        )

    def _known_by_name_alone(self, agent: Agent) -> list[Item]:
        """The blocks of an agent's history that are on disk, that nothing leads to, and that nobody
        else has read.
        """
        run, size = self.run_of(agent), self.spec.block_tokens * TOKEN_BYTES
        there = [
            (stop * size, Item(Kind.BLOCK, key))
            for stop, key in enumerate(run.keys, 1)
            if self.disk.has_block(key)
        ]
        lost = [(stop, item) for stop, item in there if item not in self.disk.known]
        others = [other for other in self.agents if other.salt == agent.salt]
        return [
            item
            for stop, item in lost
            if not any(other.history.startswith(run.packed[:stop]) for other in others)
        ]

    def _remove_traces(self) -> None:
        """Remove the records of agents that have left the register, and their token histories.

        Token histories of an agent that made place for another are kept: they are found by
        conversation.
        """
        for agent in self.agents.take_removed():
            if not self.agents.is_apart(agent.id):
                self.store.unlisted(self.disk.remove_agent(agent))
            if agent.is_deleted:
                self.token_histories.remove(agent.id)
            else:
                self.token_histories.disown(agent.id)
