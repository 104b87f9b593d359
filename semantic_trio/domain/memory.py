"""The memory of agents in RAM: what a row begins with, and what of it stays.

Knows rows, agents and their turns. Knows no arrays and no clock: it orders, the device does.

A block's content is in the live rows that have read it, and stored exactly while there is no such row. So an active agent is not held twice, a row
that closes fits where it was, and a row that opens takes over what it is alone to use.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import attrs

from semantic_trio.domain.agent import Agent, explain
from semantic_trio.domain.agents import Agents
from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun, common_tokens, pack_one, root_key
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.conversation import Breakpoint, ThinkingChoice
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.pins import Pins
from semantic_trio.domain.prefix import Block, Kept, LiveRow, Mark, Match
from semantic_trio.domain.residency import Rank
from semantic_trio.domain.reuse import Source, Turn
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.step import BlockKey, Closing, Inventory, MarkKey, Piece, Restore, SaveBlock, SaveMark
from semantic_trio.domain.store import Store, rank_at

# Marks of one agent that are written: the end of its head, and the latest. Each can be as large as the keys and values of 3,000 tokens.
MARKS_WRITTEN = 4
# Deleted responses that are known as such: turns that were made of one are asked for within seconds before.
MOST_FORGOTTEN = 10_000
# Tokens below which computing them is no slower than reading them from disk.
WORTH_READING = 32


@attrs.frozen
class Recalled:
    """What is on its way from disk for a prompt, in blocks and marks."""

    ordered: int = 0  # just now
    coming: int = 0
    awaited: frozenset[Kept] = frozenset()  # all that the prompt will begin with


NOTHING_RECALLED = Recalled()


@attrs.define(eq=False)
class _Tenant:
    row: LiveRow
    agent: Agent
    has_room_for: int = 0  # tokens, as far as is known


@attrs.define(eq=False)
class Memory:
    """Everything remembered of one model, and the orders to its device that follow from it."""

    spec: ModelCacheSpec
    budget_bytes: int
    chunk_tokens: int  # the largest piece of a prompt read in one step
    max_agents: int = 1000
    disk: Disk = attrs.field(factory=Disk)
    text_fingerprint: str = ""  # of the tokenizer and chat template
    removed: Callable[[Agent], None] = lambda agent: None  # told of every agent that is gone
    store: Store = attrs.field(init=False)
    agents: Agents = attrs.field(init=False)
    pins: Pins = attrs.field(init=False)
    longest_row: int = attrs.field(init=False)  # tokens of the longest sequence the budget holds when that is alone
    forgotten: dict[str, None] = attrs.field(init=False, factory=dict)  # ids of responses that were deleted: turns made of them are not remembered
    _rows: dict[int, _Tenant] = attrs.field(init=False, factory=dict)
    _in_use: set[bytes] = attrs.field(init=False, factory=set)  # blocks and marks that the plan being made reads or writes

    def __attrs_post_init__(self) -> None:
        self.store = Store(self.spec, self.budget_bytes, self.disk, self._disown)
        self.agents = Agents(self.max_agents, self._no_record, text_fingerprint=self.text_fingerprint)
        self.pins = Pins(self.store)
        self.longest_row = self._longest_row()

    # ---------------------------------------------------------------------------------------------------------------- prompts

    def run(self, tokens: tuple[int, ...], salt: Salt = NO_SALT) -> TokenRun:
        """Tokens with the names of their blocks, which are those of other tokens or another salt never."""
        return TokenRun.of(tokens, root_key(self.spec.fingerprint, salt), self.spec.block_tokens)

    def match(self, run: TokenRun) -> Match:
        """What a prompt could begin with; its last token is always computed."""
        return self.store.tree.match(run, len(run) - 1)

    def promise(self, run: TokenRun, number: int) -> int:
        """How many tokens of a prompt a live row has read or is about to read."""
        row = self._rows[number].row
        return common_tokens(bytes(row.packed), run.packed) if row.root.key == run.root else 0

    def turn(self, agent: Agent, run: TokenRun, match: Match, thinking: ThinkingChoice | None = None, *, from_disk: bool = False) -> Turn:
        """The turn that begins with a match, its prompt written with a choice of thinking. To be called before the row is opened."""
        parts = [*match.path, match.part]
        is_stored = any(isinstance(part, Block) and part.is_stored for part in parts)
        source = Source.DISK if from_disk else Source.RAM if is_stored else Source.ROW
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
        parts = [one for one in (*far.path, far.part, far.mark) if isinstance(one, Kept) and not one.is_here]
        wanted = [one for one in parts if not one.is_coming]
        if wanted and not may_order:
            return NOTHING_RECALLED
        sparing = {*far.path, far.part, far.mark}
        self.store.bring_back(wanted, sparing, insists=insists)
        return Recalled(len(wanted), len(parts), frozenset(one for one in sparing if isinstance(one, Kept)))

    def _bring_back_some(self, run: TokenRun, near: Match, limit: int) -> Recalled:
        try:
            return self._bring_back(near, self.store.tree.reach(run, max(limit, 0)), insists=True)
        except PoolExhaustedError:
            return NOTHING_RECALLED

    def row_bytes(self, tokens: int) -> int:
        """What a live row of so many tokens takes."""
        return sum(self.spec.row_amount(tokens, self.chunk_tokens))

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
        """Give a row its room and its beginning; None when it begins with nothing.

        `headroom` bytes have to be left for others. `points` are where others are likely to begin: a mark there outlasts others. What others wait for
        goes only where it `insists`.
        Raises `PoolExhaustedError`, and then nothing has changed.
        """
        taken = dict.fromkeys(block for block in match.stored if block is not match.part or block.owners <= {agent.id})
        self.store.touch([*match.path, *([match.part] if isinstance(match.part, Block) else [])])
        freed = sum(self.store.ledger.size(block) for block in taken)
        sparing = {*match.path, match.part, match.mark}
        self.store.room.make(self.row_bytes(len(run)) - freed + headroom, sparing if insists else sparing | self.store.ledger.awaited)
        coming = self.disk.coming_keys  # the device may get one of these once more, and is told to drop it then
        used_up = {block for block in taken if self.spec.has_blocks and block.key not in coming}
        pieces = _pieces(match, used_up) if self.spec.has_blocks else ()
        for block in taken:
            self.store.take_out(block, drop=block not in used_up)
        self.store.pool.allocate(("row", number), self.spec.row_amount(len(run), self.chunk_tokens))
        self._move_in(number, run, agent, match)
        self._rows[number].row.points = {point.position: rank_at(point.position, points) for point in points}
        if not match.length:
            return None
        mark = match.mark.key if match.mark else None
        self._in_use |= {piece.block for piece in pieces if piece.block} | ({mark} if mark else set())
        return Restore(match.length, pieces, mark)

    def take_drops(self) -> tuple[tuple[BlockKey, ...], tuple[MarkKey, ...]]:
        """What the device is to drop in the step that is being planned; told once."""
        drops = self.store.ledger.take_drops(self._in_use)
        self._in_use.clear()
        return drops

    def grow(self, number: int, tokens: int) -> None:
        """Give a row the room to hold so many tokens. Raises `PoolExhaustedError`, and then nothing was given up that is here."""
        tenant = self._rows[number]
        if tokens <= tenant.has_room_for:
            return
        more = self.row_bytes(tokens) - self.store.pool.size(("row", number))
        if more > 0:
            if more > self.store.room.obtainable(may_lose=True).bytes:
                self.store.call_off()  # who runs goes before who waits
            self.store.room.make(more, may_lose=True)
            self.store.pool.resize(("row", number), self.spec.row_amount(tokens, self.chunk_tokens))
        tenant.has_room_for = self.spec.row_limit(tokens, self.chunk_tokens)

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
            if block.is_stored:  # somebody else read the same meanwhile, and closed
                self.store.take_out(block, drop=True)
            self.store.ledger.cancel(block)
            block.rows[number] = None
            self._own(tenant.agent, block)
            row.chain.append(block)
            block.growing[number] = last.growing.pop(number)

    def mark(self, number: int, position: int, *, replaces: bool = False) -> SaveMark | None:
        """Order a mark of a row that holds exactly `position` tokens then; None where there is no need or no room for one.

        `replaces`: it takes the place of the last such mark of the row.
        """
        order = self.store.marks.order(self._rows[number].row, position, replaces=replaces)
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

        What is before a breakpoint stays longer than what is not. When its turn `has_ended`, its end takes the place of the marks on its way.
        """
        tenant = self._rows[number]
        keeps = not tenant.agent.is_deleted
        self._move_out(tenant)  # the device gives the row up as it copies: what is kept has its room
        mark = self.store.marks.order(tenant.row, fed, replaces=has_ended, insists=True) if keeps and fed == tenant.row.read else None
        saves = self._keep(tenant, breakpoints)
        if tenant.agent.is_pinned:
            self.pins.pin_what_fits(tenant.agent, self.chain(tenant.agent))
        return Closing(number, saves, mark)

    def close_all(self, safe: Mapping[int, int], doubted: Collection[MarkKey]) -> tuple[SaveBlock, ...]:
        """The device loses its rows: what could be read of them still. `safe` has, by row, the positions that passes known to be done have read.

        To be followed by `reconcile`, with what the device has kept in fact.
        """
        for key in doubted:
            if key in self.store.marks.stored:
                self.store.marks.give_up(self.store.marks.stored[key])
        saves: list[SaveBlock] = []
        for number, tenant in list(self._rows.items()):
            self._move_out(tenant)
            self._cut(tenant.row, safe.get(number, 0))
            saves += self._keep(tenant)
        return tuple(saves)

    # ----------------------------------------------------------------------------------------------------------------- agents

    def fork(self, agent: Agent, name: str) -> Agent:
        """A new agent that remembers what this one does, at no cost. Raises as `Agents.create` does."""
        fork = self.agents.create(name, parent=agent.id)
        fork.conversation, fork.history, fork.text_fingerprint = agent.conversation, agent.history, agent.text_fingerprint
        fork.responses, fork.thinking, fork.salt = set(agent.responses), agent.thinking, agent.salt
        for block in self.chain(agent):
            self._own(fork, block)
        self.write(fork)
        return fork

    def delete(self, agent: Agent) -> None:
        """Forget an agent, and its blocks that nobody else has read. Rows that work for it go on, and leave nothing behind."""
        agent.is_deleted = True
        blocks, marks = agent.held, self._passed(agent)
        self.pins.unpin(agent)
        self.agents.remove(agent)
        gone = [kept for kept in (*blocks, *marks) if not self._is_anybodys(kept, agent.salt)]
        on_disk = [kept.item for kept in gone if kept.is_written]  # to be asked first: with a block all that follows is struck off
        for item in (*on_disk, *self._known_by_name_alone(agent)):
            self.store.discard(item)
        for kept in gone:
            if kept.is_stored:
                self.store.give_up(kept)

    def forget(self, response: str) -> tuple[str, ...]:
        """Delete the agents that have read or given a response, and remember no turn that is made of it. Returns the ids of these agents.

        An agent that is kept is there again, without its memory: the conversation it is kept for is no response's.
        """
        self.forgotten[response] = None
        while len(self.forgotten) > MOST_FORGOTTEN:
            del self.forgotten[next(iter(self.forgotten))]
        holders = [agent for agent in self.agents if response in agent.responses]
        for agent in holders:
            self.delete(agent)
            if agent.is_kept:
                again = self.agents.create(agent.id, parent=agent.parent)
                again.conversation, again.is_named = agent.conversation, agent.is_named
                self.write(again)
        return tuple(agent.id for agent in holders)

    def release(self, agent: Agent) -> None:
        """Give up the RAM of an agent: blocks that nobody else has read, with their marks, but for those in live rows. What is on disk stays."""
        self.pins.unpin(agent)
        for block in [block for block in agent.held if block.owners <= {agent.id}]:
            for kept in [*block.marks.values(), block]:
                if kept.is_stored and not kept.pins:
                    self.store.give_up(kept)

    def pin(self, agent: Agent) -> None:
        """Keep an agent's memory whatever happens. Raises as `Pins.pin` does."""
        self.pins.pin(agent, self.chain(agent))
        self.write(agent)

    def unpin(self, agent: Agent) -> None:
        """Let an agent's memory be given up again."""
        self.pins.unpin(agent)
        self.write(agent)

    def write(self, agent: Agent) -> None:
        """Have what is new of an agent written to disk: its blocks and marks, and then the record that leads to them.

        What its rows have read last has to be stored on the device already.
        """
        is_wanted = self.disk.exists and agent.is_listed and (agent.history or agent.is_kept)
        if not is_wanted or self.agents.is_apart(agent.id):
            return
        chain, marks = self.chain(agent), self.marks(agent)
        for kept in (*chain, *(marks[-1:] if self.disk.is_sparing else marks)):
            self.store.ledger.write(kept)
        tail = [block for block in chain[-1:] if block.stop % self.spec.block_tokens]
        self.disk.write(agent, frozenset(kept.item for kept in (*tail, *marks)))

    def adopted(self, agent: Agent, path: Sequence[Block], *, is_pinned: bool) -> None:
        """An agent of an earlier process is here again, with these blocks on disk."""
        for block in path:
            self._own(agent, block)
        if is_pinned:
            self.pins.pin_what_fits(agent, path)

    def run_of(self, agent: Agent) -> TokenRun:
        """An agent's history with the names of its blocks."""
        return TokenRun.of_packed(agent.history, root_key(self.spec.fingerprint, agent.salt), self.spec.block_tokens)

    def strays(self, agent: Agent) -> set[BlockKey]:
        """The blocks on disk that an agent has read beside its history: before it was edited, or went back."""
        owned = {key for key in agent.strays if self.disk.has_block(key)} | {block.key for block in agent.blocks.values() if block.is_written}
        return owned - {block.key for block in self.chain(agent)}

    def chain(self, agent: Agent) -> list[Block]:
        """The blocks of an agent's history that are there, from the first on. One that only begins like its tail is another's."""
        run = self.run_of(agent)
        path = self.store.tree.held(run)[0]
        last = path[-1] if path else self.store.root(agent.salt)
        alike = {child: run.alike(child.packed, last.stop) for child in last.children.values() if child.key in agent.blocks}
        tail = max(filter(alike.get, alike), key=lambda child: (alike[child], -child.stop), default=None)
        return [*path, *([tail] if tail else [])]

    def marks(self, agent: Agent) -> list[Mark]:
        """The marks on an agent's way that outlive the process: the first and the last ones. By position."""
        passed = sorted((mark for mark in self._passed(agent) if mark.rank > Rank.SPENT), key=lambda mark: mark.position)
        return passed if len(passed) <= MARKS_WRITTEN else [passed[0], *passed[1 - MARKS_WRITTEN :]]

    # ------------------------------------------------------------------------------------------------------------------ books

    def expected(self) -> Inventory:
        """What the device should hold when it has done everything it was told."""
        return Inventory(frozenset(self._rows), frozenset(self.store.stored_keys()), frozenset(self.store.marks.stored))

    def reconcile(self, inventory: Inventory) -> list[str]:
        """Make the books agree with what the device holds, where they do not. Returns a line for each difference.

        To be asked when the device has done everything it was told.
        """
        told = [f"{len(inventory.rows)} rows nobody works with"] if inventory.rows else []
        return told + self.store.reconcile(inventory)

    def audit(self) -> None:
        """Assert that pool, tree, rows and agents agree."""
        pool, blocks = self.store.pool, list(self.store.tree.blocks())
        kept = [*blocks, *(mark for block in (*self.store.tree.roots, *blocks) for mark in block.marks.values())]
        names = {one.key for one in kept if one.is_stored or one.is_coming} | {("row", number) for number in self._rows}
        assert all(name in pool for name in names), "something is held that is not counted"
        assert pool.used == sum(pool.size(name) for name in names), "something is counted that is not held"
        assert pool.used + pool.available == self.budget_bytes
        assert sum(pool.used_by_group) == pool.used
        for one in kept:
            assert one.is_held, "what is nowhere is struck off"
            assert not one.is_coming or (one.is_written and not one.is_here), "what comes is on disk, and not here yet"
        for block in blocks:
            assert not (block.is_stored and block.rows), "what a row holds is not stored"
            assert set(block.rows) <= set(self._rows)
            assert block.parent is not None, "only roots have no parent"
            assert block.parent.parent is None or set(block.rows) <= set(block.parent.rows)
        self.store.audit(kept)
        pinned = {block for agent in self.agents for block in agent.pinned}
        marks = {agent.pinned_mark for agent in self.agents if agent.pinned_mark is not None}
        assert self.pins.marks_bytes == sum(self.spec.mark_bytes(mark.position) for mark in marks)
        assert self.pins.bytes == sum(self.store.ledger.size(block) for block in pinned) + self.pins.marks_bytes
        owned = {(block, agent.id) for agent in self.agents for block in agent.blocks.values()}
        assert owned == {(block, owner) for block in blocks for owner in block.owners}, "agents have what is there, and nothing else"

    # ---------------------------------------------------------------------------------------------------------------- private

    def _longest_row(self) -> int:
        low, high = 0, 1 << 40
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.row_bytes(middle) <= self.budget_bytes else (low, middle)
        return low

    def _own(self, agent: Agent, block: Block) -> None:
        if agent.is_listed:
            block.owners.add(agent.id)
            agent.blocks[block.key] = block

    def _disown(self, block: Block) -> None:
        """A block is gone."""
        for owner in block.owners:
            del self.agents.get(owner).blocks[block.key]
        block.owners.clear()

    def _move_in(self, number: int, run: TokenRun, agent: Agent, match: Match) -> None:
        row = LiveRow(number, bytearray(run.packed), list(match.path), self.store.tree.root(run.root), match.length)
        for block in match.path:
            block.rows[number] = None
            self._own(agent, block)
        if isinstance(match.part, Block) and not match.part.is_held:  # a tail it has taken over: it grows in the row
            self.store.forget(match.part)
        row.last.growing[number] = row
        self._rows[number] = _Tenant(row, agent)
        agent.rows += 1
        self.agents.touch(agent)
        if match.mark is not None:
            self.store.marks.touch(match.mark)

    def _move_out(self, tenant: _Tenant) -> None:
        del self._rows[tenant.row.number]
        del tenant.row.last.growing[tenant.row.number]
        self.store.pool.free(("row", tenant.row.number))
        tenant.agent.rows -= 1

    def _keep(self, tenant: _Tenant, breakpoints: Sequence[Breakpoint] = ()) -> tuple[SaveBlock, ...]:
        """Store what only this row held, its tail too."""
        row, agent = tenant.row, tenant.agent
        path = [*row.chain, *self._tail(row, agent)]
        for block in path:
            block.rows.pop(row.number, None)
        loose = [block for block in path if not block.is_here]
        kept = [block for block in loose if block.owners or not agent.is_deleted]
        self.store.forget_all([block for block in loose[len(kept) :] if not block.is_held])
        saves = self.store.put_in(kept, row.number, sparing=set(path))
        self.store.touch(path, breakpoints)
        return saves

    def _tail(self, row: LiveRow, agent: Agent) -> list[Block]:
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
            block.rows.pop(row.number, None)
        self.store.forget_all([block for block in doubted if not block.is_held])
        row.chain = [block for block in row.chain if block.stop <= safe]
        row.read = row.whole

    def _passed(self, agent: Agent) -> list[Mark]:
        """The marks on an agent's way."""
        run = self.run_of(agent)
        path = [self.store.root(agent.salt), *self.store.tree.held(run)[0]]
        return [mark for block in path for mark in block.marks.values() if run.has(mark.packed, block.stop)]

    def _is_anybodys(self, kept: Kept, salt: Salt) -> bool:
        """True if an agent that is listed has read what ends with a block or mark of a salt."""
        if kept.pins or not isinstance(kept, Mark):
            return kept.pins > 0 or (isinstance(kept, Block) and bool(kept.owners))
        is_first = kept.after is self.store.root(salt)  # no agent owns a root
        readers = [one for one in self.agents if one.salt == salt] if is_first else map(self.agents.get, kept.after.owners)
        return any(reader.history.startswith(kept.packed, kept.after.stop * TOKEN_BYTES) for reader in readers)

    def _known_by_name_alone(self, agent: Agent) -> list[Item]:
        """The blocks of an agent's history that are on disk, that nothing leads to, and that nobody else has read."""
        run, size = self.run_of(agent), self.spec.block_tokens * TOKEN_BYTES
        there = [(stop * size, Item(Kind.BLOCK, key)) for stop, key in enumerate(run.keys, 1) if self.disk.has_block(key)]
        lost = [(stop, item) for stop, item in there if item not in self.disk.known]
        others = [other for other in self.agents if other.salt == agent.salt]
        return [item for stop, item in lost if not any(other.history.startswith(run.packed[:stop]) for other in others)]

    def _no_record(self, agent: Agent) -> None:
        """Remove what the record of an agent that is gone alone led to."""
        if not self.agents.is_apart(agent.id):
            self.store.unlisted(self.disk.remove_agent(agent))
        self.removed(agent)


def _pieces(match: Match, taken: Collection[Block]) -> tuple[Piece, ...]:
    """Where the positions of a match come from."""
    pieces = [block.piece(block.stop, is_last_use=block in taken) for block in match.path]
    if isinstance(match.part, LiveRow):
        pieces.append(Piece(match.path[-1].stop if match.path else 0, match.length, row=match.part.number))
    elif match.part is not None:
        pieces.append(match.part.piece(match.length, is_last_use=match.part in taken))
    return tuple(pieces)
