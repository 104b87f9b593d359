"""What is kept within a budget, and what goes first."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from semantic_trio.domain import blocks
from semantic_trio.domain.blocks import BlockPool
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.residency import Rank, Residency

GROUPS = (LayerGroup(LayerKind.GLOBAL, layers=2, token_bytes=4), LayerGroup(LayerKind.SLIDING, layers=1, token_bytes=2, window=32))
SPEC = ModelCacheSpec("pool", GROUPS, block_tokens=16)
TOTAL = 1000


class PoolMachine(RuleBasedStateMachine):
    """Names are held, held again, resized and freed in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(SPEC, TOTAL)
        self.held: dict[int, tuple[tuple[int, int], int]] = {}  # amount and references
        self.names = 0

    @rule(first=st.integers(0, 400), second=st.integers(0, 400))
    def allocate(self, first: int, second: int) -> None:
        """All of it, or nothing and the numbers."""
        self.names += 1
        before = (self.pool.used, self.pool.used_by_group)
        if first + second <= self.pool.available:
            self.pool.allocate(self.names, (first, second))
            self.held[self.names] = ((first, second), 1)
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
        amount, references = self.held[name]
        if sum(amount) + self.pool.available >= size:
            self.pool.resize(name, (size, 0))
            self.held[name] = ((size, 0), references)
        else:
            with pytest.raises(PoolExhaustedError):
                self.pool.resize(name, (size, 0))

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data(), again=st.booleans())
    def share_or_free(self, data: st.DataObject, again: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        amount, references = self.held[name]
        if again:
            self.pool.share(name)
            self.held[name] = (amount, references + 1)
        else:
            assert self.pool.free(name) == (references == 1), "freed with the last hold, and not before"
            self.held[name] = (amount, references - 1)
            if references == 1:
                del self.held[name]

    @invariant()
    def the_books_agree(self) -> None:
        assert self.pool.used + self.pool.available == TOTAL
        assert self.pool.used_by_group == tuple(sum(amount[group] for amount, _ in self.held.values()) for group in (0, 1))
        assert self.pool.pressure == self.pool.used / TOTAL
        assert all(self.pool.references(name) == references for name, (_, references) in self.held.items())


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=1000, deadline=None)


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
    residency, ranks, last = Residency[int](), dict[int, Rank](), dict[int, int]()
    for at, (name, rank) in enumerate(touches):
        residency.touch(name, 10, rank)
        ranks[name], last[name] = max(rank, ranks.get(name, rank)), at

    assert list(residency.victims()) == sorted(ranks, key=lambda name: (ranks[name], last[name]))
    assert (len(residency), residency.bytes) == (len(ranks), 10 * len(ranks))


def test_a_store_that_is_full_of_pins_keeps_no_more_marks() -> None:
    memory = Memory(SPEC, 16 * 1024, chunk_tokens=16)
    run = memory.run(tuple(range(100)))
    agent = memory.agents.named("a")
    memory.open(0, run, agent, memory.match(run))
    positions = [memory.mark(0, position) for position in range(1, 100) if memory.publish(0, position) is None]

    assert None not in positions
    assert memory.store.marks_bytes <= memory.budget_bytes * 0.25
    assert memory.mark(0, 99) is None, "it is there already"
    memory.audit()


def test_a_row_that_closes_keeps_what_the_bound_on_buffers_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_BUFFERS", 5)
    memory = Memory(SPEC, 16 * 1024, chunk_tokens=16)
    run = memory.run(tuple(range(100)))
    memory.open(0, run, memory.agents.named("a"), memory.match(run))
    memory.publish(0, 100)

    saves = memory.close(0, 100).blocks

    assert [(save.start, save.stop) for save in saves] == [(0, 16), (16, 32)], "from the beginning on, and without gaps"
    assert memory.match(run).known == 32
    memory.audit()


def test_a_mark_larger_than_the_share_of_marks_is_not_taken() -> None:
    memory = Memory(SPEC, 3 * 64 + 48 * 8 * 3, chunk_tokens=1)
    run = memory.run(tuple(range(32)))
    memory.open(0, run, memory.agents.named("a"), memory.match(run))
    assert SPEC.mark_bytes(32) <= memory.budget_bytes * 0.25
    memory.publish(0, 32)
    memory.store.pool.allocate("the rest", (memory.store.pool.available, 0))

    assert memory.mark(0, 32) is None, "there is no room that nobody uses"
    memory.store.budget_bytes = 100
    assert memory.mark(0, 32) is None, "one mark alone is too much"


def test_a_chain_longer_than_pins_may_take_is_pinned_from_its_beginning() -> None:
    memory = Memory(SPEC, 16 * 1024, chunk_tokens=16)
    run, agent = memory.run(tuple(range(100))), memory.agents.named("a")
    memory.open(0, run, agent, memory.match(run))
    memory.publish(0, 50)
    memory.remember(0, run)
    memory.close(0, 50)
    memory.pin(agent)
    monster = memory.run(tuple(range(100)) * 25)
    memory.open(1, monster, agent, memory.match(monster))
    memory.publish(1, 2500)
    memory.remember(1, monster)

    memory.close(1, 2500)

    assert 0 < memory.pinned_bytes <= memory.budget_bytes // 2
    assert [block.stop for block in agent.pinned] == [16 * (at + 1) for at in range(len(agent.pinned))]
    memory.audit()


def test_what_a_failed_pass_wrote_is_doubted_once() -> None:
    memory = Memory(SPEC, 64 * 1024, chunk_tokens=64)
    run = memory.run(tuple(range(100)))
    memory.open(0, run, memory.agents.named("a"), memory.match(run))
    memory.publish(0, 64)
    mark = memory.mark(0, 64)
    assert mark is not None
    memory.publish(0, 100)

    saves = memory.close_all({0: 40}, {mark.key, b"gone already"})

    assert [(save.start, save.stop) for save in saves] == [(0, 16), (16, 32)], "whole blocks of what passes known to be done have read"
    assert memory.store.marks == {}
    memory.audit()
