"""Pages: how they are counted, what a pass over them computes, and what it takes."""

import random
from collections.abc import Callable, Sequence

import mlx.core as mx
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from semantic_trio.adapters.mlx import choosing, paged, passes
from semantic_trio.adapters.mlx.kv import InTurnLayout, Layout, RowSpan
from semantic_trio.adapters.mlx.page_store import PageStore
from semantic_trio.adapters.mlx.paged import PagedLayout, row_of
from semantic_trio.adapters.mlx.pages import FIRST_PAGES, SCRATCH, LayerShape, PagePool
from semantic_trio.adapters.mlx.runner import DeviceRows
from semantic_trio.domain.geometry import BLOCK_TOKENS
from semantic_trio.domain.step import (
    Chunk,
    Decode,
    PassSizes,
    Piece,
    Restore,
    RowClose,
    RowStart,
    SaveBlock,
    StepPlan,
)
from tests.contract.models import random_model
from tests.contract.script import GREEDY, prompt
from tests.device import on_device

# Tokens of three rows in each pass: prompts without a past and with one, next to rows that decode.
PASSES = [(40, 3, 1), (1, 30, 1), (5, 1, 700), (1, 1, 1), (300, 20, 1), (1, 1, 1)]
SMALL = (LayerShape(1, 4, 4, mx.float32),)


class Pages(RuleBasedStateMachine):
    """Readers of pages, against a model that lists them."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = on_device(lambda: PagePool(SMALL))
        self.readers: list[int] = []  # a page for each reader it has

    @rule(count=st.integers(0, 20))
    def allocate(self, count: int) -> None:
        taken = on_device(lambda: self.pool.allocate(count))
        assert len(set(taken)) == count
        assert not {SCRATCH, *self.readers} & set(taken)
        self.readers += taken

    @precondition(lambda self: self.readers)
    @rule(chance=st.randoms(use_true_random=False))
    def share(self, chance: random.Random) -> None:
        page = chance.choice(self.readers)
        self.pool.share([page])
        self.readers.append(page)

    @precondition(lambda self: self.readers)
    @rule(chance=st.randoms(use_true_random=False))
    def release(self, chance: random.Random) -> None:
        page = self.readers.pop(chance.randrange(len(self.readers)))
        self.pool.release([page])

    @invariant()
    def pages_are_used_exactly_while_they_have_readers(self) -> None:
        assert self.pool.used == len(set(self.readers))
        assert all(
            self.pool.is_exclusive(page) is (self.readers.count(page) == 1)
            for page in set(self.readers)
        )

    @invariant()
    def the_arrays_hold_all_pages(self) -> None:
        assert {array.shape[1] for array in self.pool.layers.arrays} == {
            self.pool.pages * BLOCK_TOKENS
        }


TestPages = Pages.TestCase


def logits(layout: Layout, passes: Sequence[tuple[int, ...]] = PASSES) -> list[mx.array]:
    rows = [layout.open() for _ in range(3)]
    found = []
    for number, counts in enumerate(passes):
        tokens = (mx.arange(sum(counts)) * 31 + number) % 300
        now = layout.forward(
            tokens,
            [
                RowSpan(row, count, wants_logits=True)
                for row, count in zip(rows, counts, strict=True)
            ],
        )
        assert now is not None
        found.append(now)
    mx.eval(found)
    return found


def gap(one: list[mx.array], other: list[mx.array]) -> float:
    """The largest difference, as a part of the logits' range."""
    return max(
        float((mx.abs(a - b).max() / (b.max() - b.min())).item())
        for a, b in zip(one, other, strict=True)
    )


def gap_to_the_model_alone(
    family: str, *, pads: bool = True, page_tokens: int = BLOCK_TOKENS
) -> float:
    def compare() -> float:
        model = random_model(family)
        return gap(
            logits(PagedLayout(model, kernel=None, pads=pads, page_tokens=page_tokens)),
            logits(InTurnLayout(model)),
        )

    return on_device(compare)


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "gemma3_text", "gpt_oss_128", "deepseek_v3"]
)
def test_rows_in_pages_compute_what_the_model_computes_alone(family: str, pads: bool) -> None:
    assert gap_to_the_model_alone(family, pads=pads) < 1e-5


@pytest.mark.timeout(1200)  # on a CPU the kernels of a compiled pass are compiled by g++
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "deepseek_v3"])
def test_compiled_passes_compute_what_the_model_computes_alone(family: str) -> None:
    def compare() -> float:
        model = random_model(family)
        compiled = logits(
            PagedLayout(model, kernel=None, pads=True, compiles=True),
            [(40, 3, 9), (1, 1, 1), (1, 30, 1), (1, 1, 1)],
        )
        return gap(
            compiled, logits(InTurnLayout(model), [(40, 3, 9), (1, 1, 1), (1, 30, 1), (1, 1, 1)])
        )

    assert on_device(compare) < 1e-5


def warmed_up() -> tuple[int, list[PagePool]]:
    layout = PagedLayout(random_model("gemma3_text"), sizes=PassSizes(8, 600), kernel=None)
    return layout.warm_up(), layout.pools


def test_warming_up_leaves_no_page_in_use() -> None:
    done, pools = on_device(warmed_up)

    assert done > 4
    assert [pool.used for pool in pools] == [0, 0]


def test_warming_up_takes_no_more_memory_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    _, free = on_device(warmed_up)
    monkeypatch.setattr(paged, "WARM_UP_BYTES", 2 * sum(pool.page_bytes for pool in free))

    done, pools = on_device(warmed_up)

    assert done > 4
    assert [pool.pages for pool in pools] == [FIRST_PAGES, FIRST_PAGES]
    assert free[0].pages > FIRST_PAGES


def test_a_full_pool_grows_by_a_quarter() -> None:
    pool = on_device(lambda: PagePool(SMALL))
    on_device(lambda: pool.allocate(100))
    before = pool.pages

    on_device(lambda: pool.allocate(before - pool.used))

    assert pool.pages == before + before // 4


@pytest.mark.parametrize(
    ("limit", "value"), [("MOST_MASKED_SCORES_OF_A_ROW", 0), ("MOST_MASKED_SCORES", 1)]
)
def test_long_prompts_are_read_exactly_and_masked_passes_are_cut(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged, limit, value)

    assert gap_to_the_model_alone("llama") < 1e-5


def shifted(
    table: passes.Index, positions: passes.Index, counts: passes.Index, page_tokens: int
) -> passes.Index:
    return SLOTS(table, positions + 1, counts, page_tokens)


def scratched(
    table: passes.Index, positions: passes.Index, counts: passes.Index, page_tokens: int
) -> passes.Index:
    return SLOTS(table * 0, positions, counts, page_tokens)


SLOTS = passes._slots


@pytest.mark.parametrize("wrong", [shifted, scratched])
def test_tokens_written_to_wrong_positions_show(
    wrong: Callable[..., passes.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "_slots", wrong)

    assert gap_to_the_model_alone("llama") > 1e-3


def test_pages_of_another_row_in_the_table_show() -> None:
    def compare() -> float:
        model = random_model("llama")
        layout = PagedLayout(model, kernel=None)
        rows = [layout.open() for _ in range(2)]
        tokens = mx.array(prompt(300) + prompt(300, salt=1))
        layout.forward(tokens, [RowSpan(row, 300, wants_logits=False) for row in rows])
        decoding = [RowSpan(row, 1, wants_logits=True) for row in rows]
        honest = layout.forward(tokens[:2], decoding)
        for row in rows:
            row_of(row).length -= 1
        first, second = (row_of(row).tables[0].pages for row in rows)
        first[0], second[0] = second[0], first[0]
        swapped = layout.forward(tokens[:2], decoding)
        assert honest is not None
        assert swapped is not None
        return gap([swapped], [honest])

    assert on_device(compare) > 1e-3


@pytest.mark.parametrize("kind", ["llama", "deepseek_v3"])
def test_old_contents_of_a_page_do_not_change_a_pass_even_nan(kind: str) -> None:
    def compare() -> float:
        model = random_model(kind)
        layout = PagedLayout(model, kernel=None)
        for pool in layout.pools:
            pool.layers.keys = [mx.full(array.shape, mx.nan) for array in pool.layers.keys]
            pool.layers.values = [mx.full(array.shape, mx.nan) for array in pool.layers.values]
        return gap(logits(layout), logits(InTurnLayout(model)))

    assert on_device(compare) < 1e-5


def start(row: int, restore: Restore | None = None) -> RowStart:
    return RowStart(row, 0, GREEDY, restore=restore)


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_a_step_takes_no_second_pool(family: str) -> None:
    def measure() -> tuple[int, int]:
        batch = DeviceRows(PagedLayout(random_model(family), kernel=None))
        batch.layout.pools[0].allocate(200)  # type: ignore[attr-defined]
        batch.step(StepPlan(open=(start(0),), prefill=(Chunk(0, prompt(20), 0, 0),)))
        for index in range(1, 4):
            batch.step(StepPlan(decode=(Decode(0, index),)))
        mx.synchronize()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        for index in range(4, 9):
            batch.step(StepPlan(decode=(Decode(0, index),)))
        mx.synchronize()
        return mx.get_peak_memory() - before, sum(array.nbytes for array in batch.layout.arrays)  # type: ignore[attr-defined]

    taken, pool = on_device(measure)

    assert taken < pool / 8  # of the arrays, eight in number, none was copied


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_agents_with_one_prompt_have_its_pages_once(family: str) -> None:
    length, agents = 2048, 32

    def measure() -> tuple[int, int]:
        batch = DeviceRows(PagedLayout(random_model(family), kernel=None))
        blocks = tuple(
            SaveBlock(f"{at}".encode(), 0, at, at + BLOCK_TOKENS)
            for at in range(0, length, BLOCK_TOKENS)
        )
        batch.step(StepPlan(open=(start(0),), prefill=(Chunk(0, prompt(length), 0),)))
        batch.step(StepPlan(close=(RowClose(0, blocks),)))
        restore = Restore(
            length, tuple(Piece(block.start, block.stop, block.key) for block in blocks)
        )
        rows = range(1, agents + 1)
        chunks = tuple(Chunk(row, (row,), length, 0) for row in rows)
        batch.step(StepPlan(open=tuple(start(row, restore) for row in rows), prefill=chunks))
        store = batch.store
        assert isinstance(store, PageStore)
        shared = store.pool.used
        batch.step(
            StepPlan(
                close=tuple(RowClose(row) for row in rows),
                drop_blocks=tuple(block.key for block in blocks),
            )
        )
        return shared, store.pool.used

    shared, left = on_device(measure)

    assert shared == length // BLOCK_TOKENS + agents
    assert left == 0


def test_pages_are_proved_on_the_model_before_they_serve_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def proof(family: str) -> choosing.Proof:
        model = random_model(family)
        in_turn = InTurnLayout(model)
        lengths = choosing.probe_lengths(in_turn.open())
        return choosing.prove(PagedLayout, model, choosing.probe(in_turn, lengths), lengths)[1]

    assert on_device(lambda: proof("llama")).holds
    assert on_device(lambda: proof("gemma3_text")).holds
    assert on_device(lambda: proof("mamba2")).error
    with monkeypatch.context() as patch:
        patch.setattr(passes.GroupPass, "window", property(lambda _: None, lambda *_: None))
        assert not on_device(lambda: proof("gemma3_text")).holds
    monkeypatch.setattr(passes.PagedCache, "offset", property(lambda self: self.of.offset * 2))
    assert not on_device(lambda: proof("llama")).holds
