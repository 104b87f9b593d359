"""The memory of one model: what a prompt can begin with, and whether the device holds what the
memory says.

Knows prompts, agents and their turns. Knows no arrays and no clock: it orders, the device does. Its
live rows are in `live_rows`.
"""

from collections.abc import Iterable

import attrs

from semantic_trio.domain.agent import Agent, explain
from semantic_trio.domain.agent_memory import AgentMemory
from semantic_trio.domain.chain import TokenRun, root_key
from semantic_trio.domain.content import Kind
from semantic_trio.domain.conversation import ThinkingChoice
from semantic_trio.domain.entries import Block, CacheEntry
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.live_rows import LiveRows
from semantic_trio.domain.prefix import Match
from semantic_trio.domain.reuse import ReuseSource, TurnReuse
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.step import BlockKey, Inventory, SnapshotKey

# Tokens below which computing them is no slower than reading them from disk.
WORTH_READING = 32


@attrs.frozen
class Recalled:
    """Blocks and snapshots on their way from disk for a prompt."""

    ordered: int = 0  # just now
    coming: int = 0
    awaited: frozenset[CacheEntry] = frozenset()  # all that the prompt will begin with


NOTHING_RECALLED = Recalled()


@attrs.define(eq=False)
class Memory(AgentMemory):
    """The agents, blocks, snapshots and live rows of one model, and the orders to its device that
    follow from them.
    """

    # tokens of the longest sequence the budget holds when that is alone
    longest_row: int = attrs.field(init=False)
    rows: LiveRows = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.longest_row = self._longest_row()
        self.rows = LiveRows(self)

    # -------------------------------------------------------------------------------------- prompts

    def run(self, tokens: tuple[int, ...], salt: Salt = NO_SALT) -> TokenRun:
        """Return tokens with the keys of their blocks.

        Other tokens, or the same under another salt, never have these keys.
        """
        return TokenRun.of(tokens, root_key(self.spec.fingerprint, salt), self.spec.block_tokens)

    def match(self, run: TokenRun) -> Match:
        """Return the longest prefix of a prompt that is in memory.

        Never all of it: the last token is always computed.
        """
        return self.store.tree.match(run, len(run) - 1)

    def turn(
        self,
        agent: Agent,
        run: TokenRun,
        match: Match,
        thinking: ThinkingChoice | None = None,
        *,
        from_disk: bool = False,
    ) -> TurnReuse:
        """Return the turn that begins with a match, its prompt written with a choice of thinking.

        To be called before the row is opened.
        """
        parts = [*match.path, match.part]
        is_cached = any(isinstance(part, Block) and part.is_cached for part in parts)
        source = (
            ReuseSource.DISK if from_disk else ReuseSource.RAM if is_cached else ReuseSource.ROW
        )
        is_damaged = self.disk.was_damaged_after((run.root, *run.keys))
        fits = self.agents.fits(agent.text_fingerprint)
        return explain(
            agent,
            run,
            match.length,
            match.known,
            source,
            thinking=thinking,
            is_damaged=is_damaged,
            fits=fits,
        )

    def recall(
        self, run: TokenRun, *, is_last_try: bool = False, may_order: bool = True
    ) -> Recalled:
        """Order the loads of entries on disk that a prompt could begin with.

        Raises `PoolExhaustedError` if there is no memory for them now; the last try orders as many
        as there is memory for.
        """
        if self.disk.is_empty or self.disk.is_stuck:
            return NOTHING_RECALLED
        near, far = self.match(run), self.store.tree.reach(run, len(run) - 1)
        try:
            return self._bring_back(near, far, may_order=may_order, insists=is_last_try)
        except PoolExhaustedError as error:
            if not is_last_try:
                raise
            # that do not fit; rounded up
            blocks = (error.free - error.wanted) // max(self.spec.block_bytes(), 1)
            return self._bring_back_some(run, near, far.length + blocks * self.spec.block_tokens)

    def _bring_back(
        self, near: Match, far: Match, *, may_order: bool = True, insists: bool
    ) -> Recalled:
        if far.length - near.length < WORTH_READING:
            return NOTHING_RECALLED
        parts = [
            one
            for one in (*far.path, far.part, far.snapshot)
            if isinstance(one, CacheEntry) and not one.is_here
        ]
        wanted = [one for one in parts if not one.is_loading]
        if wanted and not may_order:
            return NOTHING_RECALLED
        sparing = {*far.path, far.part, far.snapshot}
        self.snapshots.load(wanted, sparing, insists=insists)
        return Recalled(
            len(wanted),
            len(parts),
            frozenset(one for one in sparing if isinstance(one, CacheEntry)),
        )

    def _bring_back_some(self, run: TokenRun, near: Match, limit: int) -> Recalled:
        try:
            return self._bring_back(near, self.store.tree.reach(run, max(limit, 0)), insists=True)
        except PoolExhaustedError:
            return NOTHING_RECALLED

    def row_bytes(self, tokens: int) -> int:
        """Return the bytes of a live row of so many tokens that shares nothing."""
        return sum(self.spec.row_amount(tokens, self.chunk_tokens, 0))

    # --------------------------------------------------------------------------------------- device

    @property
    def is_idle(self) -> bool:
        """True if the device has nothing to drop, and nothing is on its way from disk."""
        return not (self.store.states.has_drops or self.disk.reading)

    def take_drops(self) -> tuple[tuple[BlockKey, ...], tuple[SnapshotKey, ...]]:
        """Return the keys of blocks and snapshots that the device is to drop in the step that is
        being planned, each once.
        """
        return self.store.states.take_drops(self.rows.take_in_use())

    def await_entries(self, entries: frozenset[CacheEntry]) -> None:
        """Protect entries that were loaded for sequences that still wait for a row, instead of
        those protected before.
        """
        self.store.states.awaited = entries

    def write_closed(self, agents: Iterable[Agent]) -> None:
        """Order the writes of entries that the device has stored from closed rows, and of the
        records of their agents.
        """
        self.store.states.order_writes()
        for agent in agents:
            self.write(agent)

    def expected(self) -> Inventory:
        """Return the rows, blocks and snapshots that the device holds when it has carried out all
        orders.
        """
        cached = self.store.states.cached
        return Inventory(
            self.rows.numbers, frozenset(cached[Kind.BLOCK]), frozenset(cached[Kind.SNAPSHOT])
        )

    def reconcile(self, inventory: Inventory) -> list[str]:
        """Make the memory agree with what the device holds. Returns one line for each difference.

        To be called when the device has carried out all orders.
        """
        lines = [f"{len(inventory.rows)} rows nobody works with"] if inventory.rows else []
        return lines + self.store.reconcile(inventory)

    def audit(self) -> None:
        """Assert that pool, tree, states, rows and agents agree."""
        entries = self.store.entries()
        self.store.states.audit(entries)
        self.rows.audit()
        self._audit_pool(entries)
        self._audit_blocks([entry for entry in entries if isinstance(entry, Block)])
        self._audit_pins()

    # -------------------------------------------------------------------------------------- private

    def _audit_pool(self, entries: Iterable[CacheEntry]) -> None:
        pool = self.store.pool
        names = {entry.key for entry in entries if entry.key in pool} | {
            ("row", number) for number in self.rows.numbers
        }
        assert pool.used == sum(pool.size(name) for name in names), (
            "something is counted that is not held"
        )
        assert pool.used + pool.available == self.budget_bytes
        assert sum(pool.used_by_group) == pool.used

    def _audit_blocks(self, blocks: list[Block]) -> None:
        for block in blocks:
            assert self.rows.numbers.issuperset(block.rows)
            assert block.parent is not None, "only roots have no parent"
            assert block.parent.parent is None or set(block.rows) <= set(block.parent.rows)
        owned = {(block, agent) for agent in self.agents for block in agent.blocks.values()}
        assert owned == {(block, owner) for block in blocks for owner in block.owners}, (
            "agents have what is there, and nothing else"
        )

    def _audit_pins(self) -> None:
        pinned = {block for agent in self.agents for block in agent.pinned}
        snapshots = {
            agent.pinned_snapshot for agent in self.agents if agent.pinned_snapshot is not None
        }
        assert self.pins.snapshot_bytes == sum(
            self.spec.snapshot_bytes(snapshot.position) for snapshot in snapshots
        )
        assert (
            self.pins.bytes
            == sum(self.store.size(block) for block in pinned) + self.pins.snapshot_bytes
        )

    def _longest_row(self) -> int:
        low, high = 0, 1 << 40
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (middle, high) if self.row_bytes(middle) <= self.budget_bytes else (low, middle)
            )
        return low
