"""What is kept within a budget, and what goes first."""

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from semantic_trio.domain import blocks
from semantic_trio.domain.blocks import BlockPool
from semantic_trio.domain.content import Kind
from semantic_trio.domain.entries import Block, Snapshot
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.eviction import EvictionQueue, Rank
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.prompt import Breakpoint
from semantic_trio.domain.step import RowClose
from tests.search import examples

GROUPS = (
    LayerGroup(LayerKind.GLOBAL, layers=2, token_bytes=4),
    LayerGroup(LayerKind.SLIDING, layers=1, token_bytes=2, window=32),
)
SPEC = ModelCacheSpec("pool", GROUPS, block_tokens=16, row_slack_tokens=32)
TOTAL = 1000


def snapshots(memory: Memory) -> list[Snapshot]:
    """The snapshots in memory."""
    return [
        entry for entry in memory.store.entries() if isinstance(entry, Snapshot) and entry.is_cached
    ]


class PoolMachine(RuleBasedStateMachine):
    """Names are held, resized and freed in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(SPEC, TOTAL)
        self.held: dict[int, tuple[int, int]] = {}
        self.names = 0

    @rule(first=st.integers(0, 400), second=st.integers(0, 400))
    def allocate(self, first: int, second: int) -> None:
        """All of it, or nothing and the numbers."""
        self.names += 1
        before = (self.pool.used, self.pool.used_by_group)
        if first + second <= self.pool.available:
            self.pool.allocate(self.names, (first, second))
            self.held[self.names] = (first, second)
            return
        with pytest.raises(PoolExhaustedError) as refused:
            self.pool.allocate(self.names, (first, second))
        assert (refused.value.wanted, refused.value.free) == (first + second, self.pool.available)
        assert (self.pool.used, self.pool.used_by_group) == before, "a refusal changes nothing"
        assert self.names not in self.pool

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data(), size=st.integers(0, 500))
    def resize(self, data: st.DataObject, size: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        if sum(self.held[name]) + self.pool.available >= size:
            self.pool.resize(name, (size, 0))
            self.held[name] = (size, 0)
        else:
            with pytest.raises(PoolExhaustedError):
                self.pool.resize(name, (size, 0))

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.pool.free(name)
        del self.held[name]

    @invariant()
    def the_books_agree(self) -> None:
        assert self.pool.used + self.pool.available == TOTAL
        assert self.pool.used_by_group == tuple(
            sum(amount[group] for amount in self.held.values()) for group in (0, 1)
        )
        assert all(self.pool.size(name) == sum(amount) for name, amount in self.held.items())


TestPool = pytest.mark.exhaustive(pytest.mark.timeout(1200)(PoolMachine.TestCase))
TestPool.settings = settings(max_examples=examples(1000), deadline=None)


def test_a_name_that_would_hold_more_than_is_free_keeps_what_it_holds() -> None:
    pool = BlockPool(SPEC, TOTAL)
    pool.allocate("row", (10, 6))

    with pytest.raises(PoolExhaustedError) as refused:
        pool.resize("row", (TOTAL + 1, 0))

    assert (refused.value.wanted, refused.value.free) == (TOTAL + 1 - 16, TOTAL - 16)
    assert (pool.size("row"), pool.used_by_group) == (16, (10, 6))


def test_what_a_name_holds_no_more_is_available_again() -> None:
    pool = BlockPool(SPEC, TOTAL)
    pool.allocate("row", (10, 6))

    pool.shrink("row", (4, 6))

    assert (pool.size("row"), pool.used_by_group, pool.available) == (6, (6, 0), TOTAL - 6)


def test_a_pool_serves_another_model_when_nothing_is_held() -> None:
    pool = BlockPool(SPEC, TOTAL)
    pool.allocate("row", (10, 10))
    with pytest.raises(AssertionError):
        pool.reconfigure(SPEC, 500)
    pool.free("row")

    pool.reconfigure(ModelCacheSpec("other", GROUPS[:1]), 500)

    assert (pool.available, pool.used_by_group) == (500, (0,))


def test_the_largest_batch_is_what_fits_into_the_rest() -> None:
    pool = BlockPool(SPEC, TOTAL)
    pool.allocate("row", (200, 0))

    assert pool.largest_batch(50) == 800 // (50 * 4 + 32 * 2)


def test_the_number_of_buffers_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_BUFFERS", 5)
    pool = BlockPool(SPEC, TOTAL)
    pool.allocate("one", (1, 0), buffers=4)

    with pytest.raises(PoolExhaustedError):
        pool.allocate("two", (1, 0), buffers=4)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(Rank)), max_size=40))
def test_the_least_used_of_the_lowest_rank_goes_first(touches: list[tuple[int, Rank]]) -> None:
    queue, ranks, last = EvictionQueue[int](), dict[int, Rank](), dict[int, int]()
    for at, (name, rank) in enumerate(touches):
        queue.touch(name, 10, rank)
        ranks[name], last[name] = rank, at

    assert list(queue.victims()) == sorted(ranks, key=lambda name: (ranks[name], last[name]))
    assert (len(queue), queue.offered.bytes) == (len(ranks), 10 * len(ranks))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(["touch", "forget", "hold back", "let go"]),
            st.sampled_from(Rank),
        ),
        max_size=40,
    )
)
def test_what_is_held_back_keeps_its_place_and_is_not_offered(
    events: list[tuple[int, str, Rank]],
) -> None:
    queue, ranks, last, held_back = (
        EvictionQueue[int](),
        dict[int, Rank](),
        dict[int, int](),
        set[int](),
    )
    for at, (name, what, rank) in enumerate(events):
        if what == "touch":
            queue.touch(name, 10 + name, rank)
            ranks[name], last[name] = rank, at
        elif what == "forget":
            queue.forget(name)
            ranks.pop(name, None)
        elif what == "hold back":
            queue.hold_back(name)
            held_back.add(name)
        else:
            queue.let_go(name)
            held_back.discard(name)

    for is_held_back, share in ((False, queue.offered), (True, queue.held_back)):
        names = [
            name
            for name in sorted(ranks, key=lambda name: (ranks[name], last[name]))
            if (name in held_back) == is_held_back
        ]
        assert list(queue.victims(held_back=is_held_back)) == names
        assert (share.bytes, share.count) == (sum(10 + name for name in names), len(names))


@pytest.mark.parametrize(
    ("held_back", "sparing", "expected"),
    [(False, set(), (30, 2)), (True, set(), (60, 3)), (True, {1, 3, 9}, (20, 1))],
)
def test_a_share_is_all_but_what_is_spared(
    held_back: bool, sparing: set[int], expected: tuple[int, int]
) -> None:
    queue = EvictionQueue[int]()
    for name in (1, 2, 3):
        queue.touch(name, 10 * name)
    queue.hold_back(3)

    share = queue.share(sparing, held_back=held_back)

    assert (share.bytes, share.count) == expected


def test_snapshots_stay_within_their_share() -> None:
    memory = Memory(SPEC, 16 * 1024, chunk_tokens=16)
    run = memory.run(tuple(range(100)))
    agent = memory.get_or_create("a")
    memory.rows.open(0, run, agent, memory.match(run))
    positions = [
        memory.rows.snapshot(0, position)
        for position in range(1, 100)
        if memory.rows.publish(0, position) is None
    ]

    assert None not in positions
    assert memory.snapshots.used <= memory.budget_bytes * 0.25
    assert memory.rows.snapshot(0, 99) is None, "it is there already"
    memory.audit()


def read(
    memory: Memory,
    tokens: tuple[int, ...],
    name: str = "a",
    number: int = 0,
    points: tuple[Breakpoint, ...] = (),
) -> RowClose:
    """A turn that reads a prompt and ends."""
    run = memory.run(tokens)
    memory.rows.open(number, run, memory.get_or_create(name), memory.match(run), points=points)
    memory.rows.publish(number, len(run))
    memory.rows.remember(number, run)
    return memory.rows.close(number, len(run), points)


def test_a_history_of_any_length_is_forgotten() -> None:
    """Deleting it met Python's bound on recursion once, and left the books half done."""
    memory = Memory(attrs.evolve(SPEC, groups=GROUPS[:1]), 10**7, chunk_tokens=16)
    read(memory, tuple(range(1500 * 16)))

    memory.delete(memory.agents.get("a"))

    assert memory.store.pool.used == 0
    assert len(memory.take_drops()[0]) == 1500
    memory.audit()


# A snapshot is 1,000 bytes, and snapshots may take a quarter of the budget.
HEAVY = ModelCacheSpec(
    "heavy",
    (GROUPS[0], LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=1000)),
    block_tokens=16,
    row_slack_tokens=32,
)


def test_no_snapshot_of_a_row_takes_the_place_of_its_points() -> None:
    memory = Memory(HEAVY, 12_000, chunk_tokens=16)
    run = memory.run(tuple(range(200)))
    memory.rows.open(
        0,
        run,
        memory.get_or_create("a"),
        memory.match(run),
        points=(Breakpoint(40, Rank.MARKED), Breakpoint(50, Rank.LONG)),
    )
    kept = []
    for position in (40, 50, 60, 70, 80):
        memory.rows.publish(0, position)
        memory.rows.snapshot(0, position, replaces=position >= 60)
        kept.append({snapshot.position for snapshot in snapshots(memory)})

    assert kept == [{40}, {40, 50}, {40, 50, 60}, {40, 50, 70}, {40, 50, 80}]


def test_a_snapshot_of_low_rank_finds_no_room_among_the_rows_points() -> None:
    memory = Memory(HEAVY, 8000, chunk_tokens=16)
    run = memory.run(tuple(range(90)))
    memory.rows.open(
        0,
        run,
        memory.get_or_create("a"),
        memory.match(run),
        points=(Breakpoint(40, Rank.MARKED), Breakpoint(50, Rank.LONG)),
    )
    for position in (40, 50):
        memory.rows.publish(0, position)
        memory.rows.snapshot(0, position)

    memory.rows.publish(0, 60)

    assert memory.rows.snapshot(0, 60) is None
    assert {snapshot.position for snapshot in snapshots(memory)} == {40, 50}


def test_a_snapshot_that_was_replaced_and_is_used_again_is_like_any_other() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=16)
    run = memory.run(tuple(range(100)))
    memory.rows.open(0, run, memory.get_or_create("a"), memory.match(run))
    for position in (50, 60):
        memory.rows.publish(0, position)
        memory.rows.snapshot(0, position, replaces=True)
    spent = next(snapshot for snapshot in snapshots(memory) if snapshot.position == 50)
    assert spent.rank is Rank.SPENT

    other = memory.run((*range(50), 7))
    match = memory.match(other)
    memory.rows.open(1, other, memory.get_or_create("b"), match)

    assert (match.snapshot, spent.rank) == (spent, Rank.PLAIN)


def test_a_row_that_closes_has_its_own_room_for_its_snapshot() -> None:
    memory = Memory(SPEC, 16 * 1024, chunk_tokens=16)
    run = memory.run(tuple(range(100)))
    memory.rows.open(0, run, memory.get_or_create("a"), memory.match(run))
    memory.rows.publish(0, 100)
    memory.store.pool.allocate("the rest", (memory.store.pool.available, 0))

    closing = memory.rows.close(0, 100)

    assert closing.snapshot is not None
    assert [save.stop for save in closing.blocks] == [16, 32, 48, 64, 80, 96, 100]


def test_a_snapshot_that_finds_no_room_costs_nobody_anything() -> None:
    """Its share has room for it where another snapshot goes, but the budget has not even then."""
    memory = Memory(SPEC, 540, chunk_tokens=1)
    run = memory.run(tuple(range(40)))
    memory.rows.open(0, run, memory.get_or_create("a"), memory.match(run))
    for position in (10, 32, 40):
        memory.rows.publish(0, position)
        if position < 40:
            memory.rows.snapshot(0, position)
    memory.store.states.pin(max(snapshots(memory), key=lambda snapshot: snapshot.position))
    memory.store.pool.allocate("the rest", (memory.store.pool.available, 0))

    assert memory.rows.snapshot(0, 40) is None
    assert {snapshot.position for snapshot in snapshots(memory)} == {10, 32}


def test_what_went_with_the_block_before_it_is_given_up_once() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=16)
    read(memory, tuple(range(48)))
    memory.store.touch([block for block in memory.store.tree.blocks() if not block.children])

    memory.store.evict_all()

    assert memory.store.pool.used == 0
    assert memory.store.evictions == 2


def test_a_pinned_history_goes_from_its_end_on_when_it_is_let_go() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=16)
    read(memory, tuple(range(48)))
    agent = memory.agents.get("a")

    memory.pin(agent)
    memory.unpin(agent)

    assert [
        block.start
        for block in memory.store.states.queues[Kind.BLOCK].victims()
        if isinstance(block, Block)
    ] == [32, 16, 0]


def test_a_block_that_another_agent_pins_too_is_counted_until_both_let_it_go() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=16)
    read(memory, tuple(range(48)))
    memory.fork(memory.agents.get("a"), "b")
    agents = [memory.agents.get(name) for name in ("a", "b")]
    for agent in agents:
        memory.pin(agent)
    pinned = []
    for agent in agents:
        pinned.append(memory.pins.bytes)
        memory.unpin(agent)

    assert pinned[0] == pinned[1] > 0
    assert memory.pins.bytes == 0
    memory.audit()


def test_a_pinned_snapshot_the_device_has_lost_is_let_go_like_any_other() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=16)
    read(memory, tuple(range(48)))
    agent = memory.agents.get("a")
    memory.pin(agent)
    memory.reconcile(attrs.evolve(memory.expected(), snapshots=frozenset()))

    memory.unpin(agent)

    assert (memory.pins.bytes, snapshots(memory)) == (0, [])
    memory.audit()


def test_blocks_the_device_has_lost_are_struck_off_with_what_follows() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=16)
    read(memory, tuple(range(64)))
    _, _, *others = sorted(memory.store.tree.blocks(), key=lambda block: block.start)

    told = memory.reconcile(
        attrs.evolve(
            memory.expected(), rows=frozenset(), blocks=frozenset(block.key for block in others)
        )
    )

    assert told == ["2 blocks and snapshots are not on the device"]
    assert list(memory.store.tree.blocks()) == []
    memory.audit()


def test_who_is_released_gives_up_what_nobody_else_has_read_and_nobody_pins() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=16)
    read(memory, tuple(range(48)))
    read(memory, (*range(16), *range(100, 132)), "b", 1)
    memory.pin(memory.agents.get("b"))

    memory.release(memory.agents.get("a"))
    memory.release(memory.agents.get("a"))

    assert sorted(block.start for block in memory.store.tree.blocks()) == [0, 16, 32]
    assert memory.agents.get("a").held == [
        block for block in memory.store.tree.blocks() if block.start == 0
    ]
    memory.audit()


def test_pins_leave_half_of_the_snapshots_to_the_others() -> None:
    memory = Memory(HEAVY, 16_000, chunk_tokens=16)
    for number in range(3):
        read(memory, tuple(range(100 * number, 100 * number + 32)), f"a{number}", number)
    for number in range(2):
        memory.pin(memory.agents.get(f"a{number}"))

    with pytest.raises(PoolExhaustedError) as refused:
        memory.pin(memory.agents.get("a2"))

    assert (refused.value.wanted, refused.value.free) == (1000, 0)
    assert memory.pins.bytes == 2 * (1000 + 32 * 4)
    assert not memory.agents.get("a2").is_pinned
    memory.audit()
    for agent in memory.agents:
        memory.unpin(agent)
    assert memory.pins.bytes == memory.pins.snapshot_bytes == 0


def test_a_history_whose_snapshot_is_gone_is_pinned_and_forked_all_the_same() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=16)
    read(memory, tuple(range(100)))
    agent = memory.agents.get("a")
    for snapshot in snapshots(memory):
        memory.store.evict(snapshot)

    memory.pin(agent)
    fork = memory.fork(agent, "b")

    assert memory.pins.bytes == SPEC.block_bytes(100)
    assert fork.held == agent.held
    assert agent.held


def test_a_rank_outlasts_being_used() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=16)
    read(memory, tuple(range(48)), points=(Breakpoint(48, Rank.LONG),))

    read(memory, tuple(range(60)), number=1)

    ranks = {block.start: block.rank for block in memory.store.tree.blocks()}
    assert ranks == {0: Rank.LONG, 16: Rank.LONG, 32: Rank.LONG, 48: Rank.PLAIN}
    assert memory.store.states.queues[Kind.BLOCK].of_rank(Rank.PLAIN) == [
        block for block in memory.store.tree.blocks() if block.start == 48
    ]


def test_snapshots_go_before_blocks_of_a_higher_rank() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=16)
    read(memory, tuple(range(40)), "plain")
    read(memory, tuple(range(100, 140)), "marked", 1, points=(Breakpoint(40, Rank.MARKED),))

    kinds = [
        (type(victim).__name__, victim.rank)
        for victim in memory.store.states.victims(may_lose=True)
    ]

    blocks, snapshot = [("Block", Rank.PLAIN)] * 3, ("Snapshot", Rank.PLAIN)
    assert kinds == [*blocks, snapshot, *[("Block", Rank.MARKED)] * 3, ("Snapshot", Rank.MARKED)]


def test_nothing_is_given_up_for_buffers_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "MAX_BUFFERS", 7)
    memory = Memory(SPEC, 16 * 1024, chunk_tokens=16)
    read(memory, tuple(range(48)))
    memory.pin(memory.agents.get("a"))
    run = memory.run(tuple(range(100, 116)))
    memory.rows.open(
        1, run, memory.get_or_create("b"), memory.match(run), points=(Breakpoint(10, Rank.PLAIN),)
    )
    memory.rows.publish(1, 10)
    memory.rows.snapshot(1, 10)
    memory.rows.publish(1, 16)

    closing = memory.rows.close(1, 17)

    assert closing.blocks == ()
    assert {snapshot.position for snapshot in snapshots(memory)} == {48, 10}
    memory.audit()


def test_a_row_that_closes_keeps_what_the_bound_on_buffers_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "MAX_BUFFERS", 5)
    memory = Memory(SPEC, 16 * 1024, chunk_tokens=16)
    run = memory.run(tuple(range(100)))
    memory.rows.open(0, run, memory.get_or_create("a"), memory.match(run))
    memory.rows.publish(0, 100)

    saves = memory.rows.close(0, 100).blocks

    assert [(save.start, save.stop) for save in saves] == [(0, 16), (16, 32)], (
        "from the beginning on, and without gaps"
    )
    assert memory.match(run).known == 32
    memory.audit()


def test_a_snapshot_larger_than_the_share_of_snapshots_is_not_taken() -> None:
    memory = Memory(SPEC, 3 * 64 + 48 * 8 * 3, chunk_tokens=1)
    run = memory.run(tuple(range(32)))
    memory.rows.open(0, run, memory.get_or_create("a"), memory.match(run))
    assert SPEC.snapshot_bytes(32) <= memory.budget_bytes * 0.25
    memory.rows.publish(0, 32)
    memory.store.pool.allocate("the rest", (memory.store.pool.available, 0))

    assert memory.rows.snapshot(0, 32) is None, "there is no room that nobody uses"
    memory.store.budget_bytes = 100
    assert memory.rows.snapshot(0, 32) is None, "one snapshot alone is too much"


def test_a_chain_longer_than_pins_may_take_is_pinned_from_its_beginning() -> None:
    memory = Memory(SPEC, 16 * 1024, chunk_tokens=16)
    run, agent = memory.run(tuple(range(100))), memory.get_or_create("a")
    memory.rows.open(0, run, agent, memory.match(run))
    memory.rows.publish(0, 50)
    memory.rows.remember(0, run)
    memory.rows.close(0, 50)
    memory.pin(agent)
    monster = memory.run(tuple(range(100)) * 25)
    memory.rows.open(1, monster, agent, memory.match(monster))
    memory.rows.publish(1, 2500)
    memory.rows.remember(1, monster)

    memory.rows.close(1, 2500)

    assert 0 < memory.pins.bytes <= memory.budget_bytes // 2
    assert [block.stop for block in agent.pinned] == [
        16 * (at + 1) for at in range(len(agent.pinned))
    ]
    memory.audit()


def test_what_a_failed_pass_wrote_is_doubted_once() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=64)
    run = memory.run(tuple(range(100)))
    memory.rows.open(0, run, memory.get_or_create("a"), memory.match(run))
    memory.rows.publish(0, 64)
    snapshot = memory.rows.snapshot(0, 64)
    assert snapshot is not None
    memory.rows.publish(0, 100)

    saves = memory.rows.close_all({0: 40}, {snapshot.key, b"gone already"})

    assert [(save.start, save.stop) for save in saves] == [(0, 16), (16, 32)], (
        "whole blocks of what passes known to be done have read"
    )
    assert snapshots(memory) == []
    memory.audit()
