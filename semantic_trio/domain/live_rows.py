"""Live rows: what each row begins with, the memory it holds, and what of it stays when it closes.

Knows rows, their tokens and their agents. Knows no sequences, no arrays and no clock: it orders,
the device does.

A block's content is in the live rows that hold it, and cached exactly while there is no such row.
So an active agent is not held twice, a row that closes fits where it was, and a row that opens
takes over what it is alone to use.
"""

from collections.abc import Collection, Mapping, Sequence

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.agent_memory import AgentMemory
from semantic_trio.domain.blocks import Amount
from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun, common_tokens, pack_one
from semantic_trio.domain.content import Kind
from semantic_trio.domain.entries import Block, LiveRow
from semantic_trio.domain.prefix import Match
from semantic_trio.domain.prompt import Breakpoint
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.step import Piece, Restore, RowClose, SaveBlock, SaveSnapshot, SnapshotKey
from semantic_trio.domain.store import Store, rank_at


@attrs.define(eq=False)
class _Tenant:
    row: LiveRow
    agent: Agent
    fits: int = 0  # tokens for which memory is allocated, as far as is known


@attrs.define(eq=False)
class LiveRows:
    """The live rows of one model, over the memory of its agents."""

    memory: AgentMemory
    _tenants: dict[int, _Tenant] = attrs.field(init=False, factory=dict)  # by the number of the row
    # blocks and snapshots that the plan being made reads or writes
    _in_use: set[bytes] = attrs.field(init=False, factory=set)

    @property
    def numbers(self) -> frozenset[int]:
        """Numbers of the rows."""
        return frozenset(self._tenants)

    @property
    def held_bytes(self) -> int:
        """Bytes of the budget that the rows take, without the blocks that they share in pages."""
        return sum(self._store.pool.size(("row", number)) for number in self._tenants)

    def packed(self, number: int) -> bytearray:
        """Return the tokens of a row's prompt and of its answer, packed. To be read only."""
        return self._tenants[number].row.packed

    def shared_prefix(self, run: TokenRun, number: int) -> int:
        """Return the number of tokens of a prompt that a row has read or is about to read."""
        row = self._tenants[number].row
        return common_tokens(bytes(row.packed), run.packed) if row.root.key == run.root else 0

    def take_in_use(self) -> set[bytes]:
        """Return the keys that the rows' orders since the last call read or write: the device may
        drop none of them in the same step.
        """
        in_use, self._in_use = self._in_use, set()
        return in_use

    # ----------------------------------------------------------------------------------------- open

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
        """Allocate the memory of a row that begins with a match.

        Returns the order to restore the match; None if the row begins with nothing.

        `headroom`: bytes that have to stay available for other rows. `points`: positions where
        other prompts are likely to begin; snapshots there outlast others. Entries that other
        sequences wait for are evicted only if `insists`. Raises `PoolExhaustedError`, and then
        nothing has changed.
        """
        self._store.touch([*match.path, *([match.part] if isinstance(match.part, Block) else [])])
        tail = _tail_to_take_over(match, agent)
        shared = match.path[-1].stop if match.path and self.memory.spec.is_paged else 0
        amount = self._amount(len(run), shared)
        self._evict_for_row(match, tail, sum(amount) + headroom, insists=insists)
        pieces = self._pieces(match, tail)
        self._take_over(number, match, tail, pieces)
        self._store.pool.allocate(("row", number), amount)
        self._move_in(number, run, agent, match, shared)
        self._tenants[number].row.points = {
            point.position: rank_at(point.position, points) for point in points
        }
        return self._restore(match, pieces)

    def _evict_for_row(
        self, match: Match, tail: Block | None, wanted: int, *, insists: bool
    ) -> None:
        """Evict until a row has memory.

        The copies of cached blocks that become the row's are freed for it.
        """
        freed = sum(
            self._store.size(block)
            for block in _cached(match, tail)
            if block is tail or not self.memory.spec.is_paged
        )
        sparing = {*match.path, match.part, match.snapshot}
        self._store.evict_for(
            wanted - freed, sparing if insists else sparing | self._store.states.awaited
        )

    def _pieces(self, match: Match, tail: Block | None) -> tuple[Piece, ...]:
        """Return the sources of the positions of a match, in order.

        A cached block is used last by the row that it becomes a part of.
        """
        if not self.memory.spec.has_blocks:
            return ()
        # the device may get one of these once more, and is told to drop it then
        loading = self.memory.disk.coming_keys
        return _sources(
            match, {block for block in _cached(match, tail) if block.key not in loading}
        )

    def _take_over(
        self, number: int, match: Match, tail: Block | None, pieces: Sequence[Piece]
    ) -> None:
        """Make the blocks of a match the row's.

        Of a block that no piece hands over, the device drops the stored copy.
        """
        handed_over = {piece.block for piece in pieces if piece.is_last_use}
        for block in match.path:
            self._store.states.share(block, number, drops=block.key not in handed_over)
        if tail is not None:
            self._store.states.hand_over(tail, drops=tail.key not in handed_over)

    def _move_in(self, number: int, run: TokenRun, agent: Agent, match: Match, shared: int) -> None:
        root = self._store.tree.root(run.root)
        row = LiveRow(
            number, bytearray(run.packed), list(match.path), root, read=match.length, shared=shared
        )
        for block in match.path:
            self.memory.own(agent, block)
        # a partial block that the row has taken over
        if isinstance(match.part, Block) and not match.part.is_held:
            self._store.remove(match.part)
        row.last.growing[number] = row
        self._tenants[number] = _Tenant(row, agent)
        agent.rows += 1
        self.memory.agents.touch(agent)
        if match.snapshot is not None:
            self.memory.snapshots.touch(match.snapshot)

    def _restore(self, match: Match, pieces: tuple[Piece, ...]) -> Restore | None:
        if not match.length:
            return None
        snapshot = match.snapshot.key if match.snapshot else None
        self._in_use |= {piece.block for piece in pieces if piece.block} | (
            {snapshot} if snapshot else set()
        )
        return Restore(match.length, pieces, snapshot)

    # ----------------------------------------------------------------------------------------- grow

    def grow(self, number: int, tokens: int) -> None:
        """Allocate memory for `tokens` tokens of a row.

        Raises `PoolExhaustedError`, and then no entry in memory was evicted.
        """
        tenant = self._tenants[number]
        if tokens <= tenant.fits:
            return
        amount = self._amount(tokens, tenant.row.shared)
        more = sum(amount) - self._store.pool.size(("row", number))
        if more > 0:
            if more > self._store.states.obtainable(may_lose=True).bytes:
                self._store.cancel_loads()  # rows go before sequences that wait
            self._store.evict_for(more, may_lose=True)
            self._store.pool.resize(("row", number), amount)
        tenant.fits = self.memory.spec.row_limit(tokens, self.memory.chunk_tokens)

    def fits_freely(self, number: int, tokens: int) -> bool:
        """True if a row can grow to so many tokens without evicting anything."""
        tenant = self._tenants[number]
        more = sum(self._amount(tokens, tenant.row.shared)) - self._store.pool.size(("row", number))
        return tokens <= tenant.fits or more <= self._store.pool.available

    def extend(self, number: int, token: int) -> None:
        """Note that a row has sampled a token."""
        self._tenants[number].row.packed += pack_one(token)

    def publish(self, number: int, read: int) -> None:
        """Publish the first `read` tokens of a row, which its cache holds once all planned steps
        are done: other rows may begin with them.
        """
        tenant = self._tenants[number]
        row, size = tenant.row, self.memory.spec.block_tokens
        row.read = read
        while row.read - row.whole >= size:
            last = row.last
            block = self._store.child(
                last, bytes(row.packed[row.whole * TOKEN_BYTES : (row.whole + size) * TOKEN_BYTES])
            )
            row.shared += self._store.states.publish(block, number) * size
            self.memory.own(tenant.agent, block)
            row.chain.append(block)
            block.growing[number] = last.growing.pop(number)

    def snapshot(
        self, number: int, position: int, *, replaces: bool = False
    ) -> SaveSnapshot | None:
        """Order a snapshot of a row that holds exactly `position` tokens then; None if it is not
        needed, or there is no memory for it.

        `replaces`: the snapshot takes the place of the last such snapshot of the row.
        """
        order = self.memory.snapshots.order(self._tenants[number].row, position, replaces=replaces)
        if order is not None:
            self._in_use.add(order.key)
        return order

    # ---------------------------------------------------------------------------------------- close

    def remember(
        self, number: int, run: TokenRun, salt: Salt = NO_SALT, *, has_ended: bool = True
    ) -> None:
        """Make the tokens that a row has read the history of its agent.

        `run`: the prompt, named under `salt`. Cancelled turns are not counted.
        """
        tenant = self._tenants[number]
        tenant.agent.turns += has_ended
        self.memory.agents.remember(
            tenant.agent, run, bytes(tenant.row.packed[: tenant.row.read * TOKEN_BYTES]), salt
        )

    def close(
        self,
        number: int,
        computed: int,
        breakpoints: Sequence[Breakpoint] = (),
        *,
        has_ended: bool = True,
    ) -> RowClose:
        """Free the memory of a row whose cache holds `computed` tokens, and store what it has read.

        Blocks before a breakpoint outlast others. If the turn `has_ended`, the snapshot at its end
        replaces the row's snapshots on its way.
        """
        tenant, memory = self._tenants[number], self.memory
        keeps = not tenant.agent.is_deleted
        # the device frees the row as it copies: what is stored has its memory
        self._move_out(tenant)
        is_known = computed == tenant.row.read
        snapshot = (
            memory.snapshots.order(tenant.row, computed, replaces=has_ended, insists=True)
            if keeps and is_known
            else None
        )
        saves = self._keep(tenant, breakpoints)
        if tenant.agent.is_pinned:
            memory.pins.pin_what_fits(tenant.agent, memory.chain(tenant.agent))
        return RowClose(number, saves, snapshot)

    def close_all(
        self, safe: Mapping[int, int], doubted: Collection[SnapshotKey]
    ) -> tuple[SaveBlock, ...]:
        """Close all rows after the device has lost them.

        Returns the blocks that may still be read from the device.

        `safe`: tokens of each row that passes known to be done have read. `doubted`: snapshots that
        may not be stored. To be followed by `Memory.reconcile` with what the device holds in fact.
        """
        cached = self._store.states.cached[Kind.SNAPSHOT]
        for snapshot in [cached[key] for key in doubted if key in cached]:
            self._store.evict(snapshot)
        saves: list[SaveBlock] = []
        for number, tenant in list(self._tenants.items()):
            self._move_out(tenant)
            self._cut(tenant.row, safe.get(number, 0))
            saves += self._keep(tenant)
        return tuple(saves)

    def _move_out(self, tenant: _Tenant) -> None:
        del self._tenants[tenant.row.number]
        del tenant.row.last.growing[tenant.row.number]
        self._store.pool.free(("row", tenant.row.number))
        tenant.agent.rows -= 1

    def _keep(
        self, tenant: _Tenant, breakpoints: Sequence[Breakpoint] = ()
    ) -> tuple[SaveBlock, ...]:
        """Store the blocks that only this row held, its partial block too."""
        row, agent = tenant.row, tenant.agent
        path = [*row.chain, *self._tail(row, agent)]
        for block in path:
            self._store.states.release(block, row.number)
        loose = [block for block in path if not block.is_here]
        kept = [block for block in loose if block.owners or not agent.is_deleted]
        self._store.remove_from([block for block in loose[len(kept) :] if not block.is_held])
        saves = self._store.put_in(kept, row.number, sparing=set(path))
        self._store.touch(path, breakpoints)
        return saves

    def _tail(self, row: LiveRow, agent: Agent) -> list[Block]:
        """Return the partial block after a row's whole ones, made if there is none."""
        last, packed = row.last, row.rest
        if not packed:
            return []
        held = [
            child for child in last.children if child.is_here and child.packed.startswith(packed)
        ]
        # a record leads to no block that goes on
        tail = held[0] if held and not self.memory.disk.exists else self._store.child(last, packed)
        self.memory.own(agent, tail)
        return [tail]

    def _cut(self, row: LiveRow, safe: int) -> None:
        """Remove what a row has read beyond a position."""
        doubted = [block for block in row.chain if block.stop > safe]
        for block in doubted:
            self._store.states.release(block, row.number)
        self._store.remove_from([block for block in doubted if not block.is_held])
        row.chain = [block for block in row.chain if block.stop <= safe]
        row.read = row.whole

    # -------------------------------------------------------------------------------------- private

    def audit(self) -> None:
        """Assert that of each row only whole blocks are shared."""
        assert all(tenant.row.shared <= tenant.row.whole for tenant in self._tenants.values())

    @property
    def _store(self) -> Store:
        return self.memory.store

    def _amount(self, tokens: int, shared: int) -> Amount:
        return self.memory.spec.row_amount(tokens, self.memory.chunk_tokens, shared)


def _tail_to_take_over(match: Match, agent: Agent) -> Block | None:
    """Return the cached partial block that a row begins with, if no other agent has read it: the
    row goes on growing in it.
    """
    part = match.part
    is_used_up = (
        isinstance(part, Block)
        and part.is_cached
        and part.stop == match.length
        and part.owners <= {agent}
    )
    return part if isinstance(part, Block) and is_used_up else None


def _cached(match: Match, tail: Block | None) -> list[Block]:
    """Return the cached blocks of a match that become a row's."""
    return [block for block in (*match.path, tail) if block is not None and block.is_cached]


def _sources(match: Match, taken: Collection[Block]) -> tuple[Piece, ...]:
    """Return the sources of the positions of a match, in order; `taken` blocks are used last by the
    row.
    """
    pieces = [block.piece(block.stop, is_last_use=block in taken) for block in match.path]
    if isinstance(match.part, LiveRow):
        pieces.append(
            Piece(match.path[-1].stop if match.path else 0, match.length, row=match.part.number)
        )
    elif match.part is not None:
        pieces.append(match.part.piece(match.length, is_last_use=match.part in taken))
    return tuple(pieces)
