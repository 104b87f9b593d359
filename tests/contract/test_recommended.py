"""The page of recommended models is computed: weights by mlx-lm's layers, caches by the geometry of
the published configurations.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from semantic_trio.adapters.catalogue.suggested import GIB, SUGGESTED, Suggestion
from semantic_trio.domain.families import published_spec
from semantic_trio.domain.geometry import LayerKind, ModelCacheSpec
from semantic_trio.entrypoints.printing import human

ROOT = Path(__file__).parents[2]
PAGE, TYPES, FORMATS = (ROOT / "docs" / f"{name}.md" for name in ("recommended", "types", "models"))
CONFIGS = {
    "mlx-community/Qwen3-4B-Instruct-2507-4bit": "qwen3-4b",
    "mlx-community/gpt-oss-20b-MXFP4-Q8": "gpt-oss-20b",
    "mlx-community/Qwen3-Coder-30B-A3B-Instruct-4bit": "qwen3-coder-30b",
    "mlx-community/Qwen3-Coder-30B-A3B-Instruct-8bit": "qwen3-coder-30b",
    "mlx-community/gpt-oss-120b-MXFP4-Q8": "gpt-oss-120b",
}
MXFP4: dict[str, object] = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
EIGHT_BITS: dict[str, object] = {"group_size": 64, "bits": 8}

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs a checkout")
every_suggestion = pytest.mark.parametrize(
    "suggestion", SUGGESTED, ids=lambda one: f"{one.machine_gib} GB"
)


@attrs.frozen
class Row:
    """A row of the page."""

    memory: str
    model: str
    weights: str
    agent: str
    context: str
    total: str
    format: str
    rows: str


def rows() -> Iterator[Row]:
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if re.fullmatch(r"\d+ GB", cells[0]):
            yield Row(*cells)


def config(suggestion: Suggestion) -> dict[str, object]:
    name = CONFIGS[suggestion.name]
    found: dict[str, object] = json.loads(
        (ROOT / "tests" / "unit" / "configs" / f"{name}.json").read_text()
    )
    return found


def spec(suggestion: Suggestion) -> ModelCacheSpec:
    found = published_spec(config(suggestion), "f")
    assert found is not None
    return found


def weights_gib(suggestion: Suggestion) -> float:
    """Weights as they are published. Nothing is computed: arrays know their sizes before they have
    values.
    """
    kind, arguments = _get_classes(config(suggestion))
    model = kind(arguments.from_dict(config(suggestion)))
    model.set_dtype(mx.bfloat16)

    def of_gpt_oss(path: str, layer: Module) -> dict[str, object] | bool:
        if not hasattr(layer, "to_quantized") or "router" in path:
            return False
        return MXFP4 if "experts" in path else EIGHT_BITS

    if "MXFP4" in suggestion.name:
        nn.quantize(model, class_predicate=of_gpt_oss)
    else:
        nn.quantize(model, group_size=64, bits=8 if "8bit" in suggestion.name else 4)
    return sum(array.nbytes for _, array in tree_flatten(model.parameters())) / GIB


def test_the_page_has_the_suggestions_and_no_others() -> None:
    assert [(row.memory, row.model) for row in rows()] == [
        (f"{one.machine_gib} GB", one.name) for one in SUGGESTED
    ]
    assert [one.machine_gib for one in SUGGESTED] == [8, 16, 24, 32, 64, 128]


@every_suggestion
def test_its_numbers_are_computed(suggestion: Suggestion) -> None:
    [row] = [row for row in rows() if row.memory == f"{suggestion.machine_gib} GB"]

    assert (row.weights, row.agent, row.context, row.total) == (
        f"{weights_gib(suggestion):.1f} GiB",
        human(spec(suggestion).context_bytes(8192)),
        f"{suggestion.context_length:,}",
        f"{suggestion.total_gib:.0f} GiB",
    )


@every_suggestion
def test_a_suggestion_is_of_the_published_configuration(suggestion: Suggestion) -> None:
    per_token = sum(
        group.token_bytes for group in spec(suggestion).groups if group.kind is LayerKind.GLOBAL
    )

    assert suggestion.kv_bytes_per_token == per_token
    assert suggestion.weights_gib == pytest.approx(weights_gib(suggestion), abs=0.05)


@every_suggestion
def test_what_it_says_of_calls_and_rows_is_what_the_other_pages_say(
    suggestion: Suggestion,
) -> None:
    [row] = [row for row in rows() if row.memory == f"{suggestion.machine_gib} GB"]

    assert f"| `{config(suggestion)['model_type']}` | {row.rows} |" in TYPES.read_text()
    assert f"| `{row.format}`" in FORMATS.read_text()
