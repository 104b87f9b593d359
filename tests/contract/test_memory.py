"""What is kept of rows and restored to others computes what was never interrupted, in the fake and
in models of every family.

Log-probabilities of forced positions are compared: tiny random models repeat a few tokens whatever
they remember.
"""

import pytest

from semantic_trio.domain.errors import StepFailedError
from semantic_trio.domain.geometry import LayerKind
from semantic_trio.domain.step import (
    Chunk,
    Decode,
    Piece,
    RowClose,
    SaveBlock,
    SaveSnapshot,
    StepPlan,
)
from tests.contract.memory import (
    BLOCK,
    FORCED,
    Memory,
    block_key,
    blocks,
    break_device,
    lengths_of,
    snapshot_key,
)
from tests.contract.script import close, logprobs, prompt


async def test_a_row_restored_at_any_length_scores_as_one_that_read_everything(
    memory: Memory,
) -> None:
    """Cut out of whole blocks, with snapshots taken while the prompt was read in pieces."""
    history, lengths = prompt(620), lengths_of(memory)
    await memory.keep(history[:600], stops=[length for length, _ in lengths])

    scores = await memory.scores(
        [(history[: length + further], memory.restore(length)) for length, further in lengths]
    )

    for (length, further), found in zip(lengths, scores, strict=True):
        assert close(found, await memory.expected(history[: length + further])), (
            f"restored at {length}, then {further} tokens"
        )


@pytest.mark.parametrize("length", [20, 120])
async def test_a_row_closed_while_it_decodes_goes_on_where_it_was(
    memory: Memory, length: int
) -> None:
    """Closed with a pass in flight, restored by the plan that closes it; its ring buffers have
    turned.
    """
    row = await memory.read(prompt(length))
    await memory.decode(row, count=30)
    position = length + 30
    history = prompt(length) + FORCED[:31]

    closing = RowClose(
        row, blocks(row, position), SaveSnapshot(snapshot_key(position), row, position)
    )
    scores = await memory.score(
        history, memory.restore(position, is_last_use=True), close=(closing,)
    )

    assert close(scores, await memory.expected(history))


async def test_a_snapshot_taken_while_decoding_serves_when_the_row_is_long_gone(
    memory: Memory,
) -> None:
    row = await memory.read(prompt(120))
    await memory.decode(row, count=14)
    await memory.step(
        StepPlan(decode=(Decode(row, 15),), snapshots=(SaveSnapshot(snapshot_key(135), row, 135),))
    )
    await memory.decode(row, count=40, first=16)
    await memory.close(row, length=175)
    history = prompt(120) + FORCED[:17]

    assert close(await memory.score(history, memory.restore(135)), await memory.expected(history))


async def test_a_row_made_of_a_live_one_and_the_live_one_both_stay_exact(memory: Memory) -> None:
    history = prompt(300)
    live = await memory.read(history, stops=(200,))
    pieces = (Piece(0, 150, row=live), Piece(150, 200, row=live))

    [found] = await memory.scores(
        [(history[:210], memory.of(200, pieces, snapshot_key(200)))], beside=(live,)
    )
    await memory.land()

    assert close(found, await memory.expected(history[:210]))
    neighbour = logprobs(memory.drawn[live])
    assert close(neighbour[:2], (await memory.expected(history))[:2])


async def test_pieces_of_blocks_and_of_live_rows_join(memory: Memory) -> None:
    history = prompt(400)
    await memory.keep(history[:300], stops=(300,))
    live = await memory.read(history, stops=(350,))
    pieces = (
        Piece(0, 256, block_key(0)),
        Piece(256, 280, block_key(256)),
        Piece(280, 350, row=live),
    )

    assert close(
        await memory.score(history[:360], memory.of(350, pieces, snapshot_key(350))),
        await memory.expected(history[:360]),
    )


async def test_rows_made_of_the_same_blocks_do_not_write_into_each_other_or_into_the_blocks(
    memory: Memory,
) -> None:
    history = prompt(300)
    await memory.keep(history[:BLOCK])
    others = [history[:BLOCK] + prompt(9, salt=salt) for salt in range(1, 4)]

    at_once = await memory.scores([(other, memory.restore(BLOCK)) for other in others])
    later = await memory.score(history[: BLOCK + 3], memory.restore(BLOCK))

    assert all(
        [
            close(found, await memory.expected(other))
            for found, other in zip(at_once, others, strict=True)
        ]
    )
    assert close(later, await memory.expected(history[: BLOCK + 3]))


async def test_a_restored_row_a_decoding_one_and_a_reading_one_share_a_pass(memory: Memory) -> None:
    kept, decoding, reading = prompt(280), prompt(40, salt=1), prompt(70, salt=2)
    await memory.keep(kept[:270])
    old = await memory.read(decoding)
    restored, fresh = memory.start(memory.restore(270)), memory.start()

    chunks = (Chunk(restored.row, kept[270:], 270, 0), Chunk(fresh.row, reading[:35], 0))
    await memory.step(StepPlan(open=(restored, fresh), decode=(Decode(old, 1),), prefill=chunks))
    await memory.step(
        StepPlan(
            decode=(Decode(old, 2), Decode(restored.row, 1)),
            prefill=(Chunk(fresh.row, reading[35:], 35, 0),),
        )
    )
    await memory.step(
        StepPlan(decode=(Decode(restored.row, 2), Decode(old, 3), Decode(fresh.row, 1)))
    )
    await memory.decode(fresh.row, count=1, first=2)
    await memory.decode(restored.row, fresh.row, count=17, first=3)
    await memory.land()

    for row, history in ((restored.row, kept), (fresh.row, reading)):
        assert close(logprobs(memory.drawn[row]), await memory.expected(history))


async def test_what_was_saved_last_under_a_key_counts(memory: Memory) -> None:
    await memory.keep(prompt(100, salt=1))
    await memory.keep(prompt(100))

    assert close(
        await memory.score(prompt(104), memory.restore(100)), await memory.expected(prompt(104))
    )


async def test_a_snapshot_within_the_window_serves_shorter_rows_too(memory: Memory) -> None:
    if any(
        group.kind in {LayerKind.RECURRENT, LayerKind.CHUNKED}
        for group in memory.runner.spec.groups
    ):
        return  # these layers know their last position only
    await memory.keep(prompt(30))
    restore = memory.of(21, (Piece(0, 21, block_key(0)),), snapshot_key(30))

    assert close(await memory.score(prompt(25), restore), await memory.expected(prompt(25)))


async def test_the_inventory_is_what_is_held(memory: Memory) -> None:
    await memory.keep(prompt(300), stops=(100,))
    row = await memory.read(prompt(10), name="other")
    await memory.step(StepPlan(drop_blocks=(block_key(0),), drop_snapshots=(snapshot_key(100),)))
    held = await memory.runner.inventory()

    assert held.rows == {row}
    assert held.blocks == {block_key(256)}
    assert held.snapshots == {snapshot_key(300), snapshot_key(10, "other")}


async def test_a_block_in_its_last_use_goes_and_the_others_stay(memory: Memory) -> None:
    await memory.keep(prompt(300))
    pieces = (Piece(0, 256, block_key(0)), Piece(256, 300, block_key(256), is_last_use=True))
    await memory.step(StepPlan(open=(memory.start(memory.of(300, pieces, snapshot_key(300))),)))
    held = (await memory.runner.inventory()).blocks

    assert held == (
        {block_key(0)} if memory.runner.spec.has_blocks else {block_key(0), block_key(256)}
    )


async def test_a_reset_keeps_what_is_stored_and_what_it_was_told_to(memory: Memory) -> None:
    history = prompt(300)
    await memory.keep(history[:256])
    row = await memory.read(history, stops=(290,))
    await memory.decode(row, count=2)

    tail, beyond, nobodys = (
        SaveBlock(block_key(256), row, 256, 290),
        SaveBlock(b"beyond", row, 256, 400),
        SaveBlock(b"nobody's", 10**6, 0, 10),
    )
    kept = await memory.runner.reset((tail, beyond, nobodys))

    assert kept == {block_key(256)}
    assert (await memory.runner.inventory()).rows == frozenset()
    assert close(
        await memory.score(history[:295], memory.restore(290)), await memory.expected(history[:295])
    )


async def test_what_a_failed_pass_was_to_add_to_can_still_be_kept(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = prompt(300)
    row = await memory.read(history, stops=(290,))
    await memory.decode(row, count=2)
    with monkeypatch.context() as patch:
        break_device(memory.runner, patch)
        with pytest.raises(StepFailedError):
            await memory.step(StepPlan(decode=(Decode(row, 3),)))

    kept = await memory.runner.reset(blocks(row, 290))

    assert kept == {block_key(0), block_key(256)}
    assert close(
        await memory.score(history[:295], memory.restore(290)), await memory.expected(history[:295])
    )
