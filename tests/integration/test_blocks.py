"""Keeping and restoring takes little memory beside what it moves.

Measured, with what it would take if it were done at once.
"""

from collections.abc import Callable

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache

from semantic_trio.adapters.mlx import blocks, snapshot
from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.runner import DeviceRows
from semantic_trio.domain.step import (
    Chunk,
    Decode,
    Piece,
    Restore,
    RowClose,
    RowStart,
    SaveBlock,
    SaveSnapshot,
    StepPlan,
)
from tests.contract.models import FAMILIES, VARIANTS, random_model
from tests.contract.script import GREEDY, prompt
from tests.device import on_device

BLOCK, LONG = 256, 8192
LIVE = 0
MIB = 2**20


def batch_with_a_long_row(family: str) -> DeviceRows:
    """A row of as many positions as a block repeated gives; what is in them does not matter
    here.
    """
    batch = DeviceRows(choose_layout(random_model(family)))
    save, snapshot = SaveBlock(b"block", 1, 0, BLOCK), SaveSnapshot(b"snapshot", 1, BLOCK)
    batch.step(StepPlan(open=(RowStart(1, 0, GREEDY),), prefill=(Chunk(1, prompt(BLOCK), 0),)))
    batch.step(StepPlan(close=(RowClose(1, (save,), snapshot),)))
    pieces = tuple(Piece(at, at + BLOCK, b"block") for at in range(0, LONG, BLOCK))
    assert isinstance(batch.store, blocks.WarmStore)
    batch.store._snapshots[b"snapshot"] = blocks._StoredSnapshot(
        LONG, [state | {"offset": LONG} for state in batch.store._snapshots[b"snapshot"].layers]
    )
    start = RowStart(LIVE, 0, GREEDY, restore=Restore(LONG, pieces, b"snapshot"))
    batch.step(StepPlan(open=(start,), prefill=(Chunk(LIVE, (1,), LONG, 0),)))
    decode(batch, 1)
    decode(batch, 2)
    return batch


def decode(batch: DeviceRows, index: int, *, land: bool = True) -> None:
    batch.step(StepPlan(decode=(Decode(LIVE, index),)))
    if land:
        batch.step(StepPlan())


def row_bytes(batch: DeviceRows) -> int:
    return sum(
        cache.keys.nbytes + cache.values.nbytes
        for cache in batch._rows[LIVE].caches
        if cache.keys.shape[2] > LONG
    )


def bytes_of(kept: list[snapshot.State] | list[snapshot.Rows | None]) -> int:
    return sum(array.nbytes for array in snapshot.arrays_in(kept))


def peak_of(act: Callable[[], object]) -> int:
    """Bytes in use at most while something was done, above those before."""
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    act()
    mx.synchronize()
    return mx.get_peak_memory() - before


def test_a_row_others_were_made_from_goes_on_without_being_copied() -> None:
    def measure() -> tuple[int, int]:
        batch = batch_with_a_long_row("llama")
        restore = Restore(512, (Piece(0, 512, row=LIVE),))
        open_and_go_on = StepPlan(
            open=(RowStart(2, 0, GREEDY, restore=restore),),
            decode=(Decode(LIVE, 3),),
            prefill=(Chunk(2, (1, 2), 512, 0),),
        )
        decode(batch, 3, land=False)  # a pass is in flight
        return peak_of(lambda: (batch.step(open_and_go_on), batch.step(StepPlan()))), row_bytes(
            batch
        )

    peak, row = on_device(measure)

    assert peak < row / 4  # of which the new row is a tenth


def test_a_row_goes_on_without_being_copied_after_a_snapshot_was_taken_of_it() -> None:
    def measure() -> tuple[int, int]:
        batch = batch_with_a_long_row("gemma3_text")
        snapshots = (SaveSnapshot(b"taken", LIVE, LONG + 4),)
        decoding = StepPlan(decode=(Decode(LIVE, 3),), snapshots=snapshots)
        return peak_of(
            lambda: (batch.step(decoding), decode(batch, 4), decode(batch, 5))
        ), row_bytes(batch)

    peak, row = on_device(measure)

    assert peak < row / 4


def test_a_view_that_is_kept_would_have_the_row_copied() -> None:
    """What the two tests above would see."""

    def measure() -> tuple[int, int]:
        batch = batch_with_a_long_row("llama")
        views = [cache.keys[..., :BLOCK, :] for cache in batch._rows[LIVE].caches]
        mx.eval(views)
        return peak_of(lambda: decode(batch, 3)), row_bytes(batch)

    peak, row = on_device(measure)

    assert peak > row / 3


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_what_is_kept_is_of_the_size_the_spec_says(family: str) -> None:
    """A snapshot after a chunk, one after decoding, a block and a tail."""

    def measure() -> tuple[list[int], list[int]]:
        model = random_model(family)
        batch, spec = DeviceRows(choose_layout(model)), measure_spec(model, family)
        chunk = Chunk(LIVE, prompt(300), 0, 0)
        batch.step(
            StepPlan(
                open=(RowStart(LIVE, 0, GREEDY),),
                prefill=(chunk,),
                snapshots=(SaveSnapshot(b"300", LIVE, 300),),
            )
        )
        for index in range(1, 46):
            decode(batch, index, land=False)
        saves = SaveBlock(b"block", LIVE, 0, BLOCK), SaveBlock(b"tail", LIVE, BLOCK, 345)
        batch.step(StepPlan(close=(RowClose(LIVE, saves, SaveSnapshot(b"345", LIVE, 345)),)))
        snapshots = [batch.store._snapshots[key].layers for key in (b"300", b"345")]
        kept = [batch.store._blocks[key] for key in (b"block", b"tail")]
        expected = [
            spec.snapshot_bytes(300),
            spec.snapshot_bytes(345),
            spec.block_bytes(),
            spec.block_bytes(345 - BLOCK),
        ]
        return [bytes_of(what) for what in (*snapshots, *kept)], expected

    found, expected = on_device(measure)

    assert found == expected


def test_what_is_kept_holds_on_to_nothing_else() -> None:
    """MLX lets a copy be a view where that wastes at most 16 KB; a chunk of these sliding layers is
    four times that.
    """
    arrays_waste = 2 * 4 * 16 * 1024

    def measure() -> tuple[int, int]:
        batch = DeviceRows(choose_layout(random_model("gemma3_text")))
        mx.synchronize()
        before = mx.get_active_memory()
        batch.step(
            StepPlan(
                open=(RowStart(LIVE, 0, GREEDY),),
                prefill=(Chunk(LIVE, prompt(1024), 0, 0),),
                snapshots=(SaveSnapshot(b"snapshot", LIVE, 1024),),
            )
        )
        batch.step(StepPlan())
        batch.step(StepPlan(close=(RowClose(LIVE, (SaveBlock(b"tail", LIVE, 1000, 1024),)),)))
        mx.synchronize()
        kept = bytes_of(batch.store._snapshots[b"snapshot"].layers) + bytes_of(
            batch.store._blocks[b"tail"]
        )
        return mx.get_active_memory() - before, kept

    held, kept = on_device(measure)

    assert held <= kept + arrays_waste


def test_closing_and_restoring_a_large_row_takes_a_portion_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here a portion is one layer of four."""
    monkeypatch.setattr(blocks, "PORTION_BYTES", MIB)
    names = [(f"{at}".encode(), at) for at in range(0, LONG, BLOCK)]
    saves = tuple(SaveBlock(name, LIVE, at, at + BLOCK) for name, at in names)
    pieces = tuple(Piece(at, at + BLOCK, name, is_last_use=True) for name, at in names)
    restored = RowStart(LIVE, 0, GREEDY, restore=Restore(LONG, pieces))

    def measure() -> tuple[int, int, int]:
        batch = batch_with_a_long_row("llama")
        row = row_bytes(batch)
        closing = peak_of(lambda: batch.step(StepPlan(close=(RowClose(LIVE, saves),))))
        return row, closing, peak_of(lambda: batch.step(StepPlan(open=(restored,))))

    row, closing, restoring = on_device(measure)

    assert closing < 0.3 * row
    assert restoring < 0.3 * row


@pytest.mark.parametrize("length", [1, 255, 256, 512])
def test_a_restored_row_has_room_for_what_it_reads_first(length: int) -> None:
    def measure() -> tuple[int, int]:
        cache, piece = KVCache(), mx.ones((1, 2, length, 16))
        snapshot.join(cache, [(piece, piece)], room=301)
        capacity = cache.keys.shape[2]
        cache.update_and_fetch(mx.ones((1, 2, 300, 16)), mx.ones((1, 2, 300, 16)))
        cache.update_and_fetch(mx.ones((1, 2, 1, 16)), mx.ones((1, 2, 1, 16)))
        return capacity, cache.keys.shape[2]

    before, after = on_device(measure)

    assert before == after
    assert before % KVCache.step == 0
