"""The memory of agents at work: what a row begins with, and what of it stays.

Knows rows, agents and their turns. Knows no arrays and no clock: it orders, the device does.

A block's content is in the live rows that hold it, and cached exactly while there is no such row. So an active agent is not held twice, a row
that closes fits where it was, and a row that opens takes over what it is alone to use.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs

from semantic_trio.domain.agent import Agent, explain
from semantic_trio.domain.agent_memory import AgentMemory
from semantic_trio.domain.blocks import Amount
from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun, common_tokens, pack_one, root_key
from semantic_trio.domain.content import Kind
from semantic_trio.domain.conversation import Breakpoint, ThinkingChoice
from semantic_trio.domain.entries import Block, CacheEntry, LiveRow
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.prefix import Match
from semantic_trio.domain.reuse import Source, Turn
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.step import BlockKey, Closing, Inventory, Piece, Restore, SaveBlock, SaveSnapshot, SnapshotKey
from semantic_trio.domain.store import rank_at

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
class _Tenant:
    row: LiveRow
    agent: Agent
    has_room_for: int = 0  # tokens, as far as is known


@attrs.define(eq=False)
class Memory(AgentMemory):
    """Agents, blocks, snapshots and live rows of one model, and the orders to its device that follow from them."""

    longest_row: int = attrs.field(init=False)  # tokens of the longest sequence the budget holds when that is alone
    _rows: dict[int, _Tenant] = attrs.field(init=False, factory=dict)
    _in_use: set[bytes] = attrs.field(init=False, factory=set)  # blocks and snapshots that the plan being made reads or writes

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.longest_row = self._longest_row()

    # ---------------------------------------------------------------------------------------------------------------- prompts

    def run(self, tokens: tuple[int, ...], salt: Salt = NO_SALT) -> TokenRun:
        """Tokens with the names of their blocks, which are those of other tokens or another salt never."""
        return TokenRun.of(tokens, root_key(self.spec.fingerprint, salt), self.spec.block_tokens)

    def match(self, run: TokenRun) -> Match:
        """The longest part of a prompt that is in memory. Never all of it: the last token is always computed."""
        return self.store.tree.match(run, len(run) - 1)

    def shared_prefix(self, run: TokenRun, number: int) -> int:
        """Tokens of a prompt that a live row has read or is about to read."""
        row = self._rows[number].row
        return common_tokens(bytes(row.packed), run.packed) if row.root.key == run.root else 0

    def turn(self, agent: Agent, run: TokenRun, match: Match, thinking: ThinkingChoice | None = None, *, from_disk: bool = False) -> Turn:
        """The turn that begins with a match, its prompt written with a choice of thinking. To be called before the row is opened."""
        parts = [*match.path, match.part]
        is_cached = any(isinstance(part, Block) and part.is_cached for part in parts)
        source = Source.DISK if from_disk else Source.RAM if is_cached else Source.ROW
        is_damaged = self.disk.was_damaged_after((run.root, *run.keys))
        fits = self.agents.fits(agent.text_fingerprint)
        return explain(agent, run, match.length, match.known, source, thinking=thinking, is_damaged=is_damaged, fits=fits)

    def recall(self, run: TokenRun, *, is_last_try: bool = False, may_order: bool = True) -> Recalled:
        """Have brought back from disk what a prompt could begin with.

        Raises `PoolExhaustedError` where there is no room for it now; in its last try it orders what there is room for.
        """
        if self.disk.is_empty or self.disk.is_stuck:
            return NOTHING_RECALLED
        near, far = self.match(run), self.store.tree.reach(run, len(run) - 1)
        try:
            return self._bring_back(near, far, may_order=may_order, insists=is_last_try)
        except PoolExhaustedError as error:
            if not is_last_try:
                raise
            blocks = (error.free - error.wanted) // max(self.spec.block_bytes(), 1)  # that do not fit; rounded up
            return self._bring_back_some(run, near, far.length + blocks * self.spec.block_tokens)

    def _bring_back(self, near: Match, far: Match, *, may_order: bool = True, insists: bool) -> Recalled:
        if far.length - near.length < WORTH_READING:
            return NOTHING_RECALLED
        parts = [one for one in (*far.path, far.part, far.snapshot) if isinstance(one, CacheEntry) and not one.is_here]
        wanted = [one for one in parts if not one.is_loading]
        if wanted and not may_order:
            return NOTHING_RECALLED
        sparing = {*far.path, far.part, far.snapshot}
        self.snapshots.load(wanted, sparing, insists=insists)
        return Recalled(len(wanted), len(parts), frozenset(one for one in sparing if isinstance(one, CacheEntry)))

    def _bring_back_some(self, run: TokenRun, near: Match, limit: int) -> Recalled:
        try:
            return self._bring_back(near, self.store.tree.reach(run, max(limit, 0)), insists=True)
        except PoolExhaustedError:
            return NOTHING_RECALLED

    def row_bytes(self, tokens: int) -> int:
        """Bytes of a live row of so many tokens that shares nothing."""
        return sum(self._row_amount(tokens))

    # ------------------------------------------------------------------------------------------------------------------- rows

    def open(
        self,
        number: int,
        run: TokenRun,
        agent: Agent,
        match: Match,
        headroom: int = 0,
        points: Sequence[Breakpoint] = (),
        *,
        insists: bool = True,
    ) -> Restore | None:
        """Give a row its memory and its beginning; None when it begins with nothing.

        `headroom` bytes have to be left for others. `points` are where others are likely to begin: a snapshot there outlasts others. What others wait
        for is evicted only where it `insists`.
        Raises `PoolExhaustedError`, and then nothing has changed.
        """
        self.store.touch([*match.path, *([match.part] if isinstance(match.part, Block) else [])])
        tail = self._tail_to_take_over(match, agent)
        taken = [block for block in (*match.path, tail) if block is not None and block.is_cached]
        shared = match.path[-1].stop if match.path and self.spec.is_paged else 0
        amount = self._row_amount(len(run), shared)
        freed = sum(self.store.size(block) for block in taken if block is tail or not self.spec.is_paged)
        sparing = {*match.path, match.part, match.snapshot}
        self.store.make_room(sum(amount) - freed + headroom, sparing if insists else sparing | self.store.states.awaited)
        loading = self.disk.coming_keys  # the device may get one of these once more, and is told to drop it then
        pieces = _pieces(match, {block for block in taken if block.key not in loading}) if self.spec.has_blocks else ()
        handed_over = {piece.block for piece in pieces if piece.is_last_use}
        for block in match.path:
            self.store.states.share(block, number, drops=block.key not in handed_over)
        if tail is not None:
            self.store.states.hand_over(tail, drops=tail.key not in handed_over)
        self.store.pool.allocate(("row", number), amount)
        self._move_in(number, run, agent, match, shared)
        self._rows[number].row.points = {point.position: rank_at(point.position, points) for point in points}
        if not match.length:
            return None
        snapshot = match.snapshot.key if match.snapshot else None
        self._in_use |= {piece.block for piece in pieces if piece.block} | ({snapshot} if snapshot else set())
        return Restore(match.length, pieces, snapshot)

    def take_drops(self) -> tuple[tuple[BlockKey, ...], tuple[SnapshotKey, ...]]:
        """Keys of blocks and snapshots that the device is to drop in the step that is being planned. Each is returned once."""
        drops = self.store.states.take_drops(self._in_use)
        self._in_use.clear()
        return drops

    def grow(self, number: int, tokens: int) -> None:
        """Give a row the room to hold so many tokens. Raises `PoolExhaustedError`, and then nothing was given up that is here."""
        tenant = self._rows[number]
        if tokens <= tenant.has_room_for:
            return
        amount = self._row_amount(tokens, tenant.row.shared)
        more = sum(amount) - self.store.pool.size(("row", number))
        if more > 0:
            if more > self.store.states.obtainable(may_lose=True).bytes:
                self.store.cancel_loads()  # rows go before sequences that wait
            self.store.make_room(more, may_lose=True)
            self.store.pool.resize(("row", number), amount)
        tenant.has_room_for = self.spec.row_limit(tokens, self.chunk_tokens)

    def fits_freely(self, number: int, tokens: int) -> bool:
        """True if a row can grow to so many tokens without evicting anything."""
        tenant = self._rows[number]
        more = sum(self._row_amount(tokens, tenant.row.shared)) - self.store.pool.size(("row", number))
        return tokens <= tenant.has_room_for or more <= self.store.pool.available

    def packed(self, number: int) -> bytearray:
        """The tokens of a row's prompt and of its answer, packed. To be read only."""
        return self._rows[number].row.packed

    def extend(self, number: int, token: int) -> None:
        """A row has drawn a token."""
        self._rows[number].row.packed += pack_one(token)

    def publish(self, number: int, read: int) -> None:
        """A row's cache holds so many of its tokens once the steps that were planned are done: others may begin with them."""
        tenant = self._rows[number]
        row, size = tenant.row, self.spec.block_tokens
        row.read = read
        while row.read - row.whole >= size:
            last = row.last
            block = self.store.child(last, bytes(row.packed[row.whole * TOKEN_BYTES : (row.whole + size) * TOKEN_BYTES]))
            row.shared += self.store.states.publish(block, number) * size
            self._own(tenant.agent, block)
            row.chain.append(block)
            block.growing[number] = last.growing.pop(number)

    def snapshot(self, number: int, position: int, *, replaces: bool = False) -> SaveSnapshot | None:
        """Order a snapshot of a row that holds exactly `position` tokens then; None where there is no need or no room for one.

        `replaces`: it takes the place of the last such snapshot of the row.
        """
        order = self.snapshots.order(self._rows[number].row, position, replaces=replaces)
        if order is not None:
            self._in_use.add(order.key)
        return order

    def remember(self, number: int, run: TokenRun, salt: Salt = NO_SALT, *, has_ended: bool = True) -> None:
        """Make what the row has read its agent's history. `run` is the prompt, named under `salt`. A turn that was cancelled is not counted."""
        tenant = self._rows[number]
        tenant.agent.turns += has_ended
        self.agents.remember(tenant.agent, run, bytes(tenant.row.packed[: tenant.row.read * TOKEN_BYTES]), salt)

    def close(self, number: int, fed: int, breakpoints: Sequence[Breakpoint] = (), *, has_ended: bool = True) -> Closing:
        """Take a row's room back and keep what it has read: `fed` tokens are in its cache, and all of them that are known are published.

        What is before a breakpoint stays longer than what is not. When its turn `has_ended`, its end takes the place of the snapshots on its way.
        """
        tenant = self._rows[number]
        keeps = not tenant.agent.is_deleted
        self._move_out(tenant)  # the device gives the row up as it copies: what is kept has its room
        snapshot = self.snapshots.order(tenant.row, fed, replaces=has_ended, insists=True) if keeps and fed == tenant.row.read else None
        saves = self._keep(tenant, breakpoints)
        if tenant.agent.is_pinned:
            self.pins.pin_what_fits(tenant.agent, self.chain(tenant.agent))
        return Closing(number, saves, snapshot)

    def close_all(self, safe: Mapping[int, int], doubted: Collection[SnapshotKey]) -> tuple[SaveBlock, ...]:
        """The device loses its rows: what could be read of them still. `safe` has, by row, the positions that passes known to be done have read.

        To be followed by `reconcile`, with what the device has kept in fact.
        """
        cached = self.store.states.cached[Kind.SNAPSHOT]
        for snapshot in [cached[key] for key in doubted if key in cached]:
            self.store.evict(snapshot)
        saves: list[SaveBlock] = []
        for number, tenant in list(self._rows.items()):
            self._move_out(tenant)
            self._cut(tenant.row, safe.get(number, 0))
            saves += self._keep(tenant)
        return tuple(saves)

    # ----------------------------------------------------------------------------------------------------------------- device

    @property
    def is_idle(self) -> bool:
        """True if the device has nothing to drop, and nothing is on its way from disk."""
        return not (self.store.states.has_drops or self.disk.reading)

    @property
    def rows_bytes(self) -> int:
        """Bytes of the budget that live rows take, but for the blocks that they share in pages."""
        return sum(self.store.pool.size(("row", number)) for number in self._rows)

    def await_entries(self, entries: frozenset[CacheEntry]) -> None:
        """Keep what has come from disk for sequences that have not begun with it yet, instead of what was kept for such before."""
        self.store.states.awaited = entries

    def write_closed(self, agents: Iterable[Agent]) -> None:
        """The device has stored what closed rows held: have it written, with the records of their agents."""
        self.store.states.order_writes()
        for agent in agents:
            self.write(agent)

    def expected(self) -> Inventory:
        """Rows, blocks and snapshots that the device holds when it has done everything it was told."""
        cached = self.store.states.cached
        return Inventory(frozenset(self._rows), frozenset(cached[Kind.BLOCK]), frozenset(cached[Kind.SNAPSHOT]))

    def reconcile(self, inventory: Inventory) -> list[str]:
        """Make the memory agree with what the device holds, where it does not. Returns a line for each difference.

        To be called when the device has done everything it was told.
        """
        lines = [f"{len(inventory.rows)} rows nobody works with"] if inventory.rows else []
        return lines + self.store.reconcile(inventory)

    def audit(self) -> None:
        """Assert that pool, tree, states, rows and agents agree."""
        pool, entries = self.store.pool, self.store.entries()
        blocks = [entry for entry in entries if isinstance(entry, Block)]
        self.store.states.audit(entries)
        names = {entry.key for entry in entries if entry.key in pool} | {("row", number) for number in self._rows}
        assert pool.used == sum(pool.size(name) for name in names), "something is counted that is not held"
        assert pool.used + pool.available == self.budget_bytes
        assert sum(pool.used_by_group) == pool.used
        for tenant in self._rows.values():
            assert tenant.row.shared <= tenant.row.whole, "only whole blocks are shared"
        for block in blocks:
            assert set(block.rows) <= set(self._rows)
            assert block.parent is not None, "only roots have no parent"
            assert block.parent.parent is None or set(block.rows) <= set(block.parent.rows)
        pinned = {block for agent in self.agents for block in agent.pinned}
        snapshots = {agent.pinned_snapshot for agent in self.agents if agent.pinned_snapshot is not None}
        assert self.pins.snapshot_bytes == sum(self.spec.snapshot_bytes(snapshot.position) for snapshot in snapshots)
        assert self.pins.bytes == sum(self.store.size(block) for block in pinned) + self.pins.snapshot_bytes
        owned = {(block, agent) for agent in self.agents for block in agent.blocks.values()}
        assert owned == {(block, owner) for block in blocks for owner in block.owners}, "agents have what is there, and nothing else"

    # ---------------------------------------------------------------------------------------------------------------- private

    def _row_amount(self, tokens: int, shared: int = 0) -> Amount:
        return self.spec.row_amount(tokens, self.chunk_tokens, shared)

    def _longest_row(self) -> int:
        low, high = 0, 1 << 40
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.row_bytes(middle) <= self.budget_bytes else (low, middle)
        return low

    def _tail_to_take_over(self, match: Match, agent: Agent) -> Block | None:
        """The cached partial block that a row begins with, if no other agent has read it: it goes on growing in the row."""
        part = match.part
        is_used_up = isinstance(part, Block) and part.is_cached and part.stop == match.length and part.owners <= {agent}
        return part if isinstance(part, Block) and is_used_up else None

    def _move_in(self, number: int, run: TokenRun, agent: Agent, match: Match, shared: int) -> None:
        root = self.store.tree.root(run.root)
        row = LiveRow(number, bytearray(run.packed), list(match.path), root, read=match.length, shared=shared)
        for block in match.path:
            self._own(agent, block)
        if isinstance(match.part, Block) and not match.part.is_held:  # a partial block that the row has taken over
            self.store.remove(match.part)
        row.last.growing[number] = row
        self._rows[number] = _Tenant(row, agent)
        agent.rows += 1
        self.agents.touch(agent)
        if match.snapshot is not None:
            self.snapshots.touch(match.snapshot)

    def _move_out(self, tenant: _Tenant) -> None:
        del self._rows[tenant.row.number]
        del tenant.row.last.growing[tenant.row.number]
        self.store.pool.free(("row", tenant.row.number))
        tenant.agent.rows -= 1

    def _keep(self, tenant: _Tenant, breakpoints: Sequence[Breakpoint] = ()) -> tuple[SaveBlock, ...]:
        """Store what only this row held, its partial block too."""
        row, agent = tenant.row, tenant.agent
        path = [*row.chain, *self._tail(row, agent)]
        for block in path:
            self.store.states.release(block, row.number)
        loose = [block for block in path if not block.is_here]
        kept = [block for block in loose if block.owners or not agent.is_deleted]
        self.store.remove_from([block for block in loose[len(kept) :] if not block.is_held])
        saves = self.store.put_in(kept, row.number, sparing=set(path))
        self.store.touch(path, breakpoints)
        return saves

    def _tail(self, row: LiveRow, agent: Agent) -> list[Block]:
        """The partial block after a row's whole ones, made where there is none."""
        last, packed = row.last, row.rest
        if not packed:
            return []
        held = [child for child in last.children.values() if child.is_here and child.packed.startswith(packed)]
        tail = held[0] if held and not self.disk.exists else self.store.child(last, packed)  # a record leads to no block that goes on
        self._own(agent, tail)
        return [tail]

    def _cut(self, row: LiveRow, safe: int) -> None:
        """Forget what a row has read beyond a position."""
        doubted = [block for block in row.chain if block.stop > safe]
        for block in doubted:
            self.store.states.release(block, row.number)
        self.store.remove_from([block for block in doubted if not block.is_held])
        row.chain = [block for block in row.chain if block.stop <= safe]
        row.read = row.whole


def _pieces(match: Match, taken: Collection[Block]) -> tuple[Piece, ...]:
    """The sources of the positions of a match, in order."""
    pieces = [block.piece(block.stop, is_last_use=block in taken) for block in match.path]
    if isinstance(match.part, LiveRow):
        pieces.append(Piece(match.path[-1].stop if match.path else 0, match.length, row=match.part.number))
    elif match.part is not None:
        pieces.append(match.part.piece(match.length, is_last_use=match.part in taken))
    return tuple(pieces)
