"""Published configurations: what their caches consist of, and how many agents fit."""

import json
from pathlib import Path

import attrs
import pytest

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.families import EXTRACTORS, published_spec
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.quantisation import AS_COMPUTED, head_bytes

CONFIGS = Path(__file__).parent / "configs"
KIB, MIB, GIB = 2**10, 2**20, 2**30


def published(name: str) -> dict[str, object]:
    config: dict[str, object] = json.loads((CONFIGS / f"{name}.json").read_text())
    return config


def spec(name: str, kv_bits: int = AS_COMPUTED) -> ModelCacheSpec:
    found = published_spec(published(name), "f", kv_bits=kv_bits)
    assert found is not None
    return found


def shape(group: LayerGroup) -> tuple[LayerKind, int, int, float]:
    """Its kind, layers and window, and the MiB that 256 tokens of one layer take."""
    return group.kind, group.layers, group.window, group.token_bytes * 256 / group.layers / MIB


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("gemma-3-12b", {(LayerKind.GLOBAL, 8, 0, 2.0), (LayerKind.SLIDING, 40, 1024, 2.0)}),
        ("gpt-oss-20b", {(LayerKind.GLOBAL, 12, 0, 0.5), (LayerKind.SLIDING, 12, 128, 0.5)}),
        ("qwen-2.5-14b", {(LayerKind.GLOBAL, 48, 0, 1.0)}),
        ("llama-3.1-8b", {(LayerKind.GLOBAL, 32, 0, 1.0)}),
    ],
)
def test_a_published_configuration_says_which_layers_remember_what(
    name: str, groups: set[tuple[LayerKind, int, int, float]]
) -> None:
    assert {shape(group) for group in spec(name).groups} == groups


@pytest.mark.parametrize(
    ("name", "kv_bits", "mib", "agents"),
    [
        # 8 global layers x 8,192 tokens x 8 KiB = 512 MiB, 40 sliding ones x 1,024 x 8 KiB = 320
        # MiB; 4,096 / 832 = 4.9
        ("gemma-3-12b", 16, 832, 4),
        # 64 numbers of 8 bits and two of 16 take 8.5 bits each, 17/32 of 16; 64 of 4 bits 9/32
        ("gemma-3-12b", 8, 442, 9),
        ("gemma-3-12b", 4, 234, 17),
        # 12 x 8,192 x 2 KiB = 192 MiB, 12 x 128 x 2 KiB = 3 MiB; 4,096 / 195 = 21.005
        ("gpt-oss-20b", 16, 195, 21),
        ("gpt-oss-20b", 8, 103.59375, 39),
        ("gpt-oss-20b", 4, 54.84375, 74),
        # 48 x 8,192 x 4 KiB = 1,536 MiB; 4,096 / 1,536 = 2.7
        ("qwen-2.5-14b", 16, 1536, 2),
        ("qwen-2.5-14b", 8, 816, 5),
        ("qwen-2.5-14b", 4, 432, 9),
        # 32 x 8,192 x 4 KiB = 1,024 MiB: exactly four
        ("llama-3.1-8b", 16, 1024, 4),
        ("llama-3.1-8b", 8, 544, 7),
        ("llama-3.1-8b", 4, 288, 14),
    ],
)
def test_agents_of_8k_tokens_that_fit_4_gib(
    name: str, kv_bits: int, mib: float, agents: int
) -> None:
    geometry = spec(name, kv_bits)

    assert geometry.context_bytes(8192) == mib * MIB
    assert geometry.agents_that_fit(4 * GIB, 8192) == agents


@pytest.mark.parametrize(
    ("size", "kv_bits", "held"),
    [(128, 16, 256), (128, 8, 136), (128, 4, 72), (96, 8, 108), (80, 16, 160)],
)
def test_a_head_takes_its_codes_and_two_numbers_for_each_group(
    size: int, kv_bits: int, held: int
) -> None:
    assert head_bytes(size, kv_bits, 16) == held


@pytest.mark.parametrize("size", [0, 16, 80])
def test_heads_that_no_group_divides_cannot_be_quantised(size: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"this model's have {size}: set kv_bits = 16"):
        head_bytes(size, 8, 16)


def test_a_window_holds_no_more_than_its_tokens() -> None:
    """Gemma 3 12B: 64 KiB a token in global layers; in sliding ones 320 KiB a token, up to 1,024 of
    them.
    """
    geometry = spec("gemma-3-12b")

    assert [geometry.context_bytes(tokens) for tokens in (0, 1, 1024, 1025)] == [
        0,
        384 * KIB,
        384 * MIB,
        384 * MIB + 64 * KIB,
    ]
    assert geometry.block_bytes() == 16 * MIB
    assert geometry.snapshot_bytes(5000) == 320 * MIB
    assert geometry.arrays_per_block == 16


def test_what_a_chunked_layer_remembers_starts_anew_with_each_chunk() -> None:
    chunked = LayerGroup(LayerKind.CHUNKED, layers=1, token_bytes=10, window=8)

    assert [chunked.bytes_at(position) for position in (0, 7, 8, 9)] == [0, 70, 0, 10]


def test_a_recurrent_state_counts_the_same_at_any_length() -> None:
    """Mamba 2: 3 rows of 128 + 2 x 16 channels through the convolution in half precision, and 128 x
    16 sums in float32, in each layer.
    """
    shape = {
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 16,
        "conv_kernel": 4,
        "n_groups": 1,
        "num_hidden_layers": 3,
    }
    geometry = published_spec({"model_type": "mamba2", **shape}, "f")

    assert geometry is not None
    assert (
        geometry.context_bytes(1)
        == geometry.context_bytes(100_000)
        == 3 * (3 * 160 * 2 + 128 * 16 * 4)
    )
    assert (geometry.block_bytes(), geometry.arrays_per_block) == (0, 1)


def test_equal_layers_make_one_group_and_different_ones_do_not() -> None:
    one, other = (
        LayerGroup(LayerKind.GLOBAL, 1, token_bytes=4),
        LayerGroup(LayerKind.GLOBAL, 1, token_bytes=6),
    )
    geometry = ModelCacheSpec.of("f", [one, other, one])

    assert geometry.groups == (attrs.evolve(one, layers=2, token_bytes=8), other)
    assert geometry.arrays_per_block == 6


@pytest.mark.parametrize("config", [{}, {"model_type": "unheard-of"}, {"model_type": None}])
def test_an_unknown_family_is_left_to_measurement(config: dict[str, object]) -> None:
    assert published_spec(config, "f") is None


@pytest.mark.parametrize("family", EXTRACTORS)
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": "64"},
        {"text_config": {}},
    ],
)
def test_a_configuration_that_lacks_numbers_is_no_error(
    family: str, config: dict[str, object]
) -> None:
    """The families with defaults for all of them have a spec even so, as they have in mlx-lm."""
    found = published_spec({"model_type": family, **config}, "f")

    assert (found is not None) == (
        family in {"gemma3", "gemma3_text", "gpt_oss", "deepseek_v3", "kimi_k2", "falcon_h1"}
    )


def test_sliding_layers_of_a_llama_are_those_it_lists() -> None:
    """As Ministral publishes them."""
    config = published("llama-3.1-8b") | {
        "model_type": "mistral",
        "num_hidden_layers": 3,
        "sliding_window": 64,
    }
    listed = config | {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
    geometries = [published_spec(each, "f") for each in (config, listed)]

    assert [[(g.kind, g.layers) for g in geometry.groups] for geometry in geometries] == [
        [(LayerKind.GLOBAL, 3)],
        [(LayerKind.GLOBAL, 1), (LayerKind.SLIDING, 2)],
    ]
