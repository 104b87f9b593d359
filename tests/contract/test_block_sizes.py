"""Blocks of fewer and of more tokens: every way through the memory computes what a run that
remembers nothing computes.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from tests.device import on_device  # first: it loads the BLAS

import attrs  # isort: skip
import pytest

from semantic_trio.adapters.mlx import choosing, passes
from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.paged import PagedLayout
from semantic_trio.domain.content import Content, Item, Kind, Tensor, tokens_in
from semantic_trio.domain.errors import CacheCorruptionError
from semantic_trio.domain.reuse import ReuseSource
from semantic_trio.domain.step import PassSizes
from tests.contract.models import SIZED, random_model, random_runner
from tests.contract.test_engine_disk import HISTORY, NEXT, cold, server, zeroed
from tests.contract.test_engine_memory import (
    FORCED,
    close,
    compare_joined_and_forked,
    prompt,
)
from tests.contract.test_pages import gap_to_the_model_alone, scratched, shifted
from tests.contract.test_quantised import near

pytestmark = pytest.mark.exhaustive

SIZES = (64, 1024)


def alike(family: str, one: Sequence[float], other: Sequence[float]) -> bool:
    """True if scores are those of the same history, up to rounding."""
    return near(one, other) if "bits" in family else close(one, other)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_oss_128"])
def test_rows_in_pages_of_any_size_compute_what_the_model_computes_alone(
    family: str, size: int
) -> None:
    assert gap_to_the_model_alone(family, page_tokens=size) < 1e-5


@pytest.mark.parametrize("wrong", [shifted, scratched])
def test_tokens_written_to_wrong_positions_of_small_pages_show(
    wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "_slots", wrong)

    assert gap_to_the_model_alone("llama", page_tokens=64) > 1e-3


class SmallWarmUp(PagedLayout):
    """Pages as on a GPU, gathered, with few shapes to warm up."""

    def __attrs_post_init__(self) -> None:
        self.sizes = PassSizes(2, 16)
        super().__attrs_post_init__()


@pytest.mark.parametrize("size", SIZES)
def test_the_layout_that_is_chosen_has_pages_of_that_size(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "candidates_for", lambda caches: [SmallWarmUp])

    layout = on_device(lambda: choose_layout(random_model("gemma3_text"), block_tokens=size))

    assert isinstance(layout, PagedLayout)
    assert [pool.page_tokens for pool in layout.pools] == [size, size]
    assert {array.shape[1] % size for array in layout.arrays} == {0}


@pytest.mark.parametrize("family", SIZED)
async def test_turns_that_join_fork_and_leave_score_as_if_nothing_was_remembered(
    family: str,
) -> None:
    await compare_joined_and_forked(family, functools.partial(alike, family))


@pytest.mark.parametrize("family", SIZED)
async def test_a_turn_after_a_restart_scores_as_if_nothing_was_remembered_and_zeros_on_disk_show(
    family: str, tmp_path: Path
) -> None:
    expected = await cold(family, NEXT, tmp_path)
    async with server(family, tmp_path) as first:
        await first.turn(prompt(HISTORY), "a")
        await first.settle()
        files = first.persistence.files
        sizes = {
            count
            for item in files.index()
            if item.kind is Kind.BLOCK
            for count in tokens_in(files.read(item))
        }
    assert max(sizes, default=0) == min(SIZED[family][1], HISTORY + len(FORCED) - 1)

    async with server(family, tmp_path) as second:
        scores, reuse = await second.turn(NEXT, "a")
        assert (reuse.source, reuse.tokens >= HISTORY + len(FORCED) - 1) == (ReuseSource.DISK, True)
        assert alike(family, scores, expected)
        await second.settle()
        files = second.persistence.files
        for item in [item for item in files.index() if item.kind is Kind.BLOCK]:
            files.write(item, zeroed(files.read(item)))

    async with server(family, tmp_path) as third:
        spoilt, _ = await third.turn(NEXT, "a")
    assert not alike(family, spoilt, expected)


def longer(content: Content, count: int) -> dict[str, Tensor]:
    """A block with so many positions, all zeros."""

    def of(tensor: Tensor) -> Tensor:
        shape = (*tensor.shape[:2], count, *tensor.shape[3:])
        size = tensor.data.nbytes // tensor.shape[2] * count
        return attrs.evolve(tensor, shape=shape, data=memoryview(bytes(size)))

    return {name: of(tensor) for name, tensor in content.items()}


@pytest.mark.parametrize("family", ["llama_blocks_of_64", "llama_wide_paged_8bits_blocks_of_64"])
async def test_a_block_of_more_tokens_than_a_block_has_is_refused(
    family: str, tmp_path: Path
) -> None:
    """A page has no place for the rest: it would be written over the next one."""
    async with server(family, tmp_path) as first:
        await first.turn(prompt(HISTORY), "a")
        await first.settle()
        files = first.persistence.files
        item = next(item for item in files.index() if item.kind is Kind.BLOCK)
        content = files.read(item)
        runner = random_runner(family)
        await runner.load({Item(Kind.BLOCK, b"whole"): longer(content, 64)})
        with pytest.raises(CacheCorruptionError, match="a block of \\[65\\] positions"):
            await runner.load({Item(Kind.BLOCK, b"longer"): longer(content, 65)})
