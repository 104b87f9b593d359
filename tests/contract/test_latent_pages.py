"""Pages of models with latent attention: what a pass over them computes, and which models have
them.
"""

import itertools
from collections.abc import Callable

import mlx.core as mx
import pytest

from semantic_trio.adapters.mlx import choosing, paged, passes
from semantic_trio.adapters.mlx.choosing import candidates_for, choose_layout
from semantic_trio.adapters.mlx.decoding import DecodingLayout
from semantic_trio.adapters.mlx.kv import InTurnLayout, Layout, RaggedLayout, RowSpan
from semantic_trio.adapters.mlx.paged import GATHERED_PAGES, LATENT_PROMPT_TOKENS, PagedLayout
from semantic_trio.adapters.mlx.passes import AttentionReading, PagedCache
from semantic_trio.domain.step import PassSizes
from tests.contract.architectures import forced_logits, largest_difference, tiny_model
from tests.contract.models import random_model
from tests.contract.test_pages import gap_to_the_model_alone
from tests.contract.test_quantised import PlainKernel
from tests.device import on_device
from tests.search import sample

# Mistral 4 reads prompts by MLX's attention, and LongCat has two caches in a layer; the others are
# what deepseek_v3 is.
LATENT = ["deepseek_v3", "glm4_moe_lite", "kimi_k25", "kimi_vl", "mistral4", "longcat_flash"]
ALIKE = ("glm4_moe_lite", "kimi_k25", "kimi_vl")


class SmallPages(PagedLayout):
    """Pages as on a GPU, with few shapes to warm up."""

    def __attrs_post_init__(self) -> None:
        self.kernel, self.pads, self.sizes = PlainKernel(), True, PassSizes(2, 16)
        super().__attrs_post_init__()


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "candidates_for", lambda caches: [SmallPages, DecodingLayout])


def difference(name: str, layout_of: Callable[[mx.array], Layout]) -> float:
    model = tiny_model(name)
    return largest_difference(forced_logits(layout_of(model)), forced_logits(InTurnLayout(model)))


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("name", sample(LATENT, ALIKE))
def test_rows_in_pages_compute_what_the_model_computes_alone(name: str, pads: bool) -> None:
    assert (
        on_device(lambda: difference(name, lambda m: PagedLayout(m, kernel=None, pads=pads))) < 1e-4
    )


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", sample(LATENT, ALIKE))
def test_a_gpu_has_pages_without_a_kernel_for_them(name: str) -> None:
    layout = on_device(lambda: choose_layout(tiny_model(name)))

    assert (type(layout), layout.name) == (SmallPages, "pages, gathered")


@pytest.mark.parametrize(
    ("limit", "value"), [("MOST_MASKED_SCORES_OF_A_ROW", 0), ("MOST_MASKED_SCORES", 1)]
)
@pytest.mark.parametrize("name", ["deepseek_v3", "mistral4"])
def test_long_prompts_are_read_exactly_and_masked_passes_are_cut(
    name: str, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged, limit, value)

    assert (
        on_device(lambda: difference(name, lambda m: PagedLayout(m, kernel=None, pads=True))) < 1e-4
    )


def test_prompts_are_read_in_passes_whose_scores_fit() -> None:
    layout = on_device(lambda: PagedLayout(random_model("deepseek_v3")))

    assert layout.sizes.prompt_tokens == LATENT_PROMPT_TOKENS
    assert layout.sizes.decode_tokens > 1  # drafts are verified: each is a row of its pass


def test_tables_that_are_gathered_are_padded_by_a_quarter_at_most() -> None:
    assert list(GATHERED_PAGES) == sorted(set(GATHERED_PAGES))
    assert all(size * 4 <= before * 5 for before, size in itertools.pairwise(GATHERED_PAGES[3:]))


def test_pieces_of_prompts_do_not_join_the_pass_of_the_decoding_rows() -> None:
    """Each of their tokens would gather the whole row."""

    def readings() -> list[AttentionReading]:
        layout = PagedLayout(random_model("deepseek_v3"), pads=True)
        row = layout.open()
        layout.forward(mx.zeros(20, mx.int32), [RowSpan(row, 20, wants_logits=True)])
        return layout._readings([RowSpan(row, count, wants_logits=True) for count in (1, 20)])

    assert on_device(readings) == [AttentionReading.TOKENS, AttentionReading.MASKED]


def test_a_model_with_two_caches_in_a_layer_has_pages_for_both() -> None:
    layout = on_device(lambda: PagedLayout(tiny_model("longcat_flash")))

    assert [len(pool.shapes) for pool in layout.pools] == [8]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("deepseek_v3", [PagedLayout, RaggedLayout, DecodingLayout]),
        ("longcat_flash", [PagedLayout, DecodingLayout]),
        ("longcat_flash_ngram", [DecodingLayout]),
        ("kimi_linear", [DecodingLayout]),
        ("bailing_hybrid", [DecodingLayout]),
    ],
)
def test_a_gpu_tries_pages_for_models_without_states(
    name: str, kinds: list[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = on_device(lambda: InTurnLayout(tiny_model(name)).open())
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))

    assert candidates_for(caches) == kinds


@pytest.mark.parametrize("name", ["deepseek_v32", "glm_moe_dsa", "minimax_m3_vl"])
def test_models_that_choose_keys_by_an_index_are_not_served_from_pages(name: str) -> None:
    """Such models read the cache of the index outside of attention."""

    def error() -> str:
        model = tiny_model(name)
        return choosing.prove(PagedLayout, model, choosing.probe(InTurnLayout(model)))[1].error

    assert on_device(error)


# Faults that could be made, each of which the comparisons have to see.


def no_mask(self: PagedCache, *_: object, **__: object) -> None:
    return None


def double(self: PagedCache) -> mx.array:
    return self.of.offset * 2


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("name", "fault"), [("make_mask", no_mask), ("offset", property(double))])
def test_a_pass_that_computes_something_else_is_noticed_at_load(
    name: str, fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PagedCache, name, fault)

    assert isinstance(on_device(lambda: choose_layout(random_model("deepseek_v3"))), DecodingLayout)


GATHERED = passes._gathered


def of_the_row_beside(layer: mx.array, table: mx.array, page_tokens: int) -> mx.array:
    return GATHERED(layer, table[::-1], page_tokens)


def a_position_late(layer: mx.array, table: mx.array, page_tokens: int) -> mx.array:
    found = GATHERED(layer, table, page_tokens)
    return mx.concatenate([found[:, :, -1:], found[:, :, :-1]], axis=2)


def without_rotary(layer: mx.array, table: mx.array, page_tokens: int) -> mx.array:
    found = GATHERED(layer, table, page_tokens)
    return mx.zeros_like(found) if layer.shape[-1] == 8 else found


@pytest.mark.parametrize("fault", [of_the_row_beside, a_position_late, without_rotary])
def test_wrong_latents_show(fault: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "_gathered", fault)

    assert gap_to_the_model_alone("deepseek_v3") > 1e-3
