"""Which layout each family gets, and that it was proven on the model itself."""

from typing import cast

import mlx.core as mx
import pytest

from semantic_trio.adapters.mlx import attention
from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.decoding import DecodingLayout
from semantic_trio.adapters.mlx.kv import InTurnLayout, RaggedLayout, RowSpan
from tests.contract.models import random_model
from tests.device import on_device

RAGGED, DECODING, IN_TURN = (
    ["llama", "qwen3", "gemma3_text", "gpt_oss"],
    ["mamba2", "deepseek_v3", "qwen3_next", "falcon_h1"],
    ["llama4"],
)
KINDS = [
    *((f, RaggedLayout) for f in RAGGED),
    *((f, DecodingLayout) for f in DECODING),
    *((f, InTurnLayout) for f in IN_TURN),
]


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_a_family_gets_the_layout_it_can_have(family: str, kind: type) -> None:
    assert type(on_device(lambda: choose_layout(random_model(family)))) is kind


@pytest.mark.parametrize("family", RAGGED)
def test_rows_of_different_lengths_in_one_pass_compute_what_the_model_computes_alone(
    family: str,
) -> None:
    def compare() -> float:
        model = random_model(family)
        passes = [(40, 3, 1), (1, 30, 1), (5, 1, 70), (1, 1, 1)]
        results = []
        for layout in (RaggedLayout(model), InTurnLayout(model)):
            rows = [layout.open() for _ in range(3)]
            for number, counts in enumerate(passes):
                tokens = (mx.arange(sum(counts)) * 31 + number) % 300
                spans = [
                    RowSpan(row, n, wants_logits=True) for row, n in zip(rows, counts, strict=True)
                ]
                logits = layout.forward(tokens, spans)
                assert logits is not None
                results.append(logits)
        half = len(results) // 2
        gaps = [
            mx.abs(a - b).max() / (b.max() - b.min())
            for a, b in zip(results[:half], results[half:], strict=True)
        ]
        return max(cast(list[float], mx.stack(gaps).tolist()))

    assert on_device(compare) < 1e-4


@pytest.mark.parametrize("broken", ["masks", "positions"])
def test_a_layout_that_computes_something_else_is_not_taken(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "masks":
        monkeypatch.setattr(attention.RaggedCache, "make_mask", lambda *_, **__: None)
    else:
        plain = attention.RaggedCache.__init__
        monkeypatch.setattr(
            attention.RaggedCache,
            "__init__",
            lambda self, caches, counts, offset: plain(self, caches, counts, offset * 2),
        )

    assert not isinstance(on_device(lambda: choose_layout(random_model("llama"))), RaggedLayout)
