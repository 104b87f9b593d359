"""Engines with quantised keys and values: turns score as if nothing was remembered, but for the
bounds of the paths.
"""

from pathlib import Path

import pytest

from semantic_trio.domain.content import Kind
from semantic_trio.domain.reuse import MissCause, ReuseSource
from tests.contract.script import prompt
from tests.contract.test_engine_disk import HISTORY, NEXT, cold, server, zeroed
from tests.contract.test_engine_memory import FORCED as ANSWER
from tests.contract.test_engine_memory import compare_joined_and_forked, compare_preempted
from tests.contract.test_quantised import near
from tests.search import sample

pytestmark = pytest.mark.exhaustive

IN_ENGINES = [
    "llama_wide_8bits",
    "gemma3_wide_8bits",
    "qwen3_next_wide_4bits",
    "llama_wide_paged_4bits",
    "gpt_oss_wide_paged_8bits",
    "deepseek_v3_wide_paged_8bits",
]


@pytest.mark.parametrize("family", IN_ENGINES)
async def test_turns_that_join_fork_and_leave_score_as_if_nothing_was_remembered(
    family: str,
) -> None:
    await compare_joined_and_forked(family, near)


@pytest.mark.parametrize(
    "family", sample(["llama_wide_8bits", "gpt_oss_wide_paged_8bits"], ("llama_wide_8bits",))
)
async def test_preempted_turns_end_with_the_same_scores(family: str) -> None:
    await compare_preempted(family, near)


@pytest.mark.parametrize("family", IN_ENGINES)
async def test_a_turn_after_a_restart_scores_as_if_nothing_was_remembered_and_zeros_on_disk_show(
    family: str, tmp_path: Path
) -> None:
    expected = await cold(family, NEXT, tmp_path)
    async with server(family, tmp_path) as first:
        await first.turn(prompt(HISTORY), "a")

    async with server(family, tmp_path) as second:
        scores, reuse = await second.turn(NEXT, "a")
        assert (reuse.source, reuse.tokens >= HISTORY + len(ANSWER) - 1) == (ReuseSource.DISK, True)
        assert near(scores, expected)
        await second.settle()
        files = second.persistence.files
        for item in [item for item in files.index() if item.kind is Kind.BLOCK]:
            files.write(item, zeroed(files.read(item)))

    async with server(family, tmp_path) as third:
        spoilt, _ = await third.turn(NEXT, "a")
    assert not near(spoilt, expected)


async def test_what_was_written_with_other_bits_is_not_read(tmp_path: Path) -> None:
    async with server("llama_wide_8bits", tmp_path) as first:
        await first.turn(prompt(HISTORY), "a")
    async with server("llama_wide_4bits", tmp_path) as other:
        _, reuse = await other.turn(NEXT, "a")

    assert (reuse.tokens, reuse.cause) == (0, MissCause.OTHER_MODEL)
