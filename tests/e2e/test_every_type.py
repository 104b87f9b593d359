"""Every type of model that mlx-lm has, tiny: rows at once compute what the model computes alone,
and what is kept of them is restored exactly.
"""

import pytest

from semantic_trio.adapters.mlx.kv import InTurnLayout
from semantic_trio.adapters.mlx.runner import MlxRunner
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.step import RowClose, SaveSnapshot
from tests.contract.architectures import (
    TYPES,
    UNBUILT,
    forced_logits,
    largest_difference,
    rows_of_the_manual,
    tiny_runner,
)
from tests.contract.memory import FORCED, Memory, blocks, snapshot_key
from tests.contract.script import close, prompt
from tests.device import on_device

BUILT = [name for name in TYPES if name not in UNBUILT]
# The manual's words for what is kept of layers, in its order.
KEPT_AS = {
    "blocks": LayerKind.GLOBAL,
    "states": LayerKind.RECURRENT,
    "last positions": LayerKind.SLIDING,
    "whole": None,
}


def difference(runner: MlxRunner) -> float:
    layout = runner.batch.layout
    return largest_difference(forced_logits(layout), forced_logits(InTurnLayout(layout.model)))


def kept_as(spec: ModelCacheSpec) -> str:
    kinds = {_kind(group) for group in spec.groups}
    return ", ".join(word for word, kind in KEPT_AS.items() if kind in kinds)


def _kind(group: LayerGroup) -> LayerKind | None:
    if group.kind is LayerKind.RECURRENT and group.token_bytes:
        return None  # it grows with the history
    return LayerKind.SLIDING if group.kind is LayerKind.CHUNKED else group.kind


@pytest.mark.parametrize("name", BUILT)
async def test_a_type_is_served_exactly_and_as_the_manual_says(name: str) -> None:
    runner = tiny_runner(name)
    memory = Memory(runner)
    exact = on_device(lambda: difference(runner)) < 1e-4

    one, other = (
        await memory.read(prompt(40), stops=(30,)),
        await memory.read(prompt(33, salt=1), name="other"),
    )
    await memory.decode(one, other, count=10)
    ends = ((one, 50, ""), (other, 43, "other"))
    closing = [
        RowClose(
            row, blocks(row, length, key), SaveSnapshot(snapshot_key(length, key), row, length)
        )
        for row, length, key in ends
    ]
    history = prompt(40) + FORCED[:11]
    rows = [(history[:31], memory.restore(30)), (history, memory.restore(50))]
    found = await memory.scores(rows, close=tuple(closing))
    restored = [
        close(scores, await memory.expected(tokens))
        for (tokens, _), scores in zip(rows, found, strict=True)
    ]

    assert (
        runner.layout,
        "yes" if exact else "no",
        "yes" if all(restored) else "no",
        kept_as(runner.spec),
    ) == rows_of_the_manual()[name]


def test_the_manual_has_every_type() -> None:
    assert sorted(rows_of_the_manual()) == sorted(TYPES)
