"""The comparisons of test_memory see what is wrong: every way of restoring badly that we could
think of is noticed.
"""

import pytest
from mlx_lm.models.cache import KVCache

from semantic_trio.adapters.mlx import snapshot
from semantic_trio.adapters.scripted.token_runner import TokenRunner
from semantic_trio.domain.step import Piece, RowClose, SaveBlock, SaveSnapshot, StepPlan
from tests.contract.conftest import (
    ALIKE,
    FAULTY_ALIKE,
    blocks_alone,
    with_blocks,
    with_snapshots,
)
from tests.contract.memory import (
    BLOCK,
    RESTORED,
    Memory,
    block_key,
    blocks,
    is_noticed,
    refuses,
    snapshot_key,
    zero_block,
)
from tests.contract.models import FAMILIES, VARIANTS
from tests.contract.script import close, prompt
from tests.search import sample

pytestmark = pytest.mark.exhaustive


def pieces(*keys: bytes) -> list[Piece]:
    ends = [min(at + BLOCK, RESTORED) for at in range(0, RESTORED, BLOCK)]
    return [
        Piece(at, end, key)
        for at, end, key in zip(range(0, RESTORED, BLOCK), ends, keys, strict=True)
    ]


@with_blocks
@pytest.mark.parametrize("zeroed", [0, 256, 512])
async def test_a_block_of_zeros(memory: Memory, zeroed: int) -> None:
    await memory.keep(prompt(RESTORED))
    zero_block(memory.runner, block_key(zeroed))

    assert await is_noticed(memory, memory.restore(RESTORED))


@with_blocks
@pytest.mark.parametrize("keys", [(0, 0, 512), (256, 256, 512), (0, 256, 0)])
async def test_a_block_in_the_place_of_another(memory: Memory, keys: tuple[int, ...]) -> None:
    await memory.keep(prompt(RESTORED))

    assert await is_noticed(
        memory, memory.of(RESTORED, pieces(*map(block_key, keys)), snapshot_key(RESTORED))
    )


@with_blocks
async def test_blocks_swapped_with_those_of_another_row(memory: Memory) -> None:
    await memory.keep(prompt(RESTORED))
    await memory.keep(prompt(RESTORED, salt=1), name="other")
    swapped = pieces(block_key(0, "other"), block_key(256), block_key(512))
    others = pieces(block_key(0), block_key(256, "other"), block_key(512, "other"))

    assert await is_noticed(memory, memory.of(RESTORED, swapped, snapshot_key(RESTORED)))
    assert await is_noticed(
        memory,
        memory.of(RESTORED, others, snapshot_key(RESTORED, "other")),
        prompt(RESTORED, salt=1) + prompt(5),
    )


@with_blocks
async def test_blocks_of_one_row_swapped_show_in_the_fake_alone(memory: Memory) -> None:
    """Attention is a sum over positions, and keys carry theirs: the order they lie in is nothing to
    a model.

    It is to the books.
    """
    await memory.keep(prompt(RESTORED))
    swapped = memory.of(
        RESTORED, pieces(block_key(256), block_key(0), block_key(512)), snapshot_key(RESTORED)
    )

    assert await is_noticed(memory, swapped) is isinstance(memory.runner, TokenRunner)


@with_blocks
@pytest.mark.parametrize("shifted", [0, 256])
async def test_a_block_shifted_by_one_position(memory: Memory, shifted: int) -> None:
    row = await memory.read(prompt(RESTORED))
    honest = [block for block in blocks(row, RESTORED) if block.start != shifted]
    wrong = SaveBlock(block_key(shifted), row, shifted + 1, shifted + 1 + BLOCK)
    await memory.step(StepPlan(close=(RowClose(row, (*honest, wrong)),)))

    assert await is_noticed(memory, memory.restore(RESTORED))


@blocks_alone
async def test_a_block_left_out(memory: Memory) -> None:
    """With the length that is left: the plan is in order, and only the content is not."""
    await memory.keep(prompt(RESTORED))
    row = memory.start(
        memory.of(344, [Piece(0, 256, block_key(0)), Piece(256, 344, block_key(512))])
    )
    history = prompt(RESTORED + 5)
    found = await memory.score(history[:256] + history[512:], row.restore)

    assert not close(found, await memory.expected(history))


@blocks_alone
async def test_one_position_less(memory: Memory) -> None:
    await memory.keep(prompt(RESTORED))
    history = prompt(RESTORED + 5)
    short = memory.restore(RESTORED - 1)
    found = await memory.score(history[: RESTORED - 1] + history[RESTORED:], short)

    assert not close(found, await memory.expected(history))


@with_snapshots
async def test_the_snapshot_of_another_row(memory: Memory) -> None:
    await memory.keep(prompt(RESTORED))
    await memory.keep(prompt(RESTORED, salt=1), name="other")
    restore = memory.of(RESTORED, memory.restore(RESTORED).pieces, snapshot_key(RESTORED, "other"))

    assert await is_noticed(memory, restore)


@with_snapshots
async def test_the_snapshot_of_a_row_that_is_one_token_off(memory: Memory) -> None:
    await memory.keep(prompt(RESTORED))
    await memory.keep(prompt(RESTORED + 1)[1:], name="later")
    restore = memory.of(RESTORED, memory.restore(RESTORED).pieces, snapshot_key(RESTORED, "later"))

    assert await is_noticed(memory, restore)


@pytest.mark.parametrize(
    "memory",
    sample([name for name in [*FAMILIES, *VARIANTS] if name != "mamba2"], (*ALIKE, *FAULTY_ALIKE)),
    indirect=True,
)
async def test_an_offset_that_is_one_off(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only a fault in the restoring code could do.

    Where no cache has an offset there is none to be wrong.
    """
    join, restore_layer = snapshot.join, snapshot.restore_layer

    def join_wrongly(cache: KVCache, pieces: list[snapshot.Rows | None], room: int) -> None:
        join(cache, pieces, room)
        cache.offset += 1

    def restore_wrongly(cache: KVCache, state: snapshot.State, position: int, length: int) -> None:
        restore_layer(cache, state, position, length)
        if hasattr(cache, "offset"):
            cache.offset += 1

    await memory.keep(prompt(RESTORED))
    monkeypatch.setattr(snapshot, "join", join_wrongly)
    monkeypatch.setattr(snapshot, "restore_layer", restore_wrongly)

    assert await is_noticed(memory, memory.restore(RESTORED))


async def test_positions_a_row_has_not_read_are_not_kept(memory: Memory) -> None:
    for wrong in (99, 101):
        row = await memory.read(prompt(100))
        assert await refuses(
            memory, StepPlan(close=(RowClose(row, (), SaveSnapshot(b"snapshot", row, wrong)),))
        )


@with_blocks
async def test_more_than_was_kept_is_not_restored(memory: Memory) -> None:
    await memory.keep(prompt(100), stops=(100,))
    wrongs = [
        [Piece(0, 101, block_key(0))],
        [Piece(0, 50, block_key(0)), Piece(51, 100, block_key(0))],
        [Piece(0, 99, block_key(0))],
        [Piece(0, 100, b"unknown")],
    ]
    for wrong in wrongs:
        await memory.keep(prompt(100))
        assert await refuses(
            memory, StepPlan(open=(memory.start(memory.of(100, wrong, snapshot_key(100))),))
        )


@with_snapshots
async def test_a_snapshot_of_another_position_is_not_taken(memory: Memory) -> None:
    for position in (599, 601, None):
        await memory.keep(prompt(610), stops=(599, 601))
        snapshot = snapshot_key(position) if position else None
        assert await refuses(
            memory,
            StepPlan(open=(memory.start(memory.of(600, memory.restore(600).pieces, snapshot)),)),
        )
