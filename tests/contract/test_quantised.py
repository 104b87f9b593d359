"""Quantised keys and values: what they are off by, and that every way to them computes the same.

Two errors have bounds here. That of the numbers: by how much a model with few bits differs from the
same model with all of them. That of the paths: by how much rows in a batch, restored rows and rows
read back from disk differ from a row that reads everything alone with the same bits. The second is
more than rounding: a number that lies between two codes may get the one or the other.
"""

import functools
from collections.abc import Callable, Sequence

from tests.device import on_device  # first: it loads the BLAS

import mlx.core as mx  # isort: skip
import pytest

from semantic_trio.adapters.mlx import choosing, passes
from semantic_trio.adapters.mlx.blocks import WarmStore
from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.decoding import DecodingLayout
from semantic_trio.adapters.mlx.geometry import leaves
from semantic_trio.adapters.mlx.kv import InTurnLayout, Layout, RaggedLayout, RowSpan
from semantic_trio.adapters.mlx.paged import PagedLayout
from semantic_trio.adapters.mlx.paged_attention import PagedAttention
from semantic_trio.adapters.mlx.quantised import (
    AsComputed,
    Quantised,
    QuantisedCache,
    QuantisedRotatingCache,
    quantise_caches,
)
from semantic_trio.adapters.mlx.runner import DeviceRows
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.quantisation import head_bytes
from semantic_trio.domain.step import (
    Chunk,
    Decode,
    PassSizes,
    Piece,
    RowClose,
    RowStart,
    SaveSnapshot,
    StepPlan,
)
from tests.contract.architectures import tiny_model
from tests.contract.memory import (
    FORCED,
    RESTORED,
    Memory,
    block_key,
    blocks,
    snapshot_key,
    zero_block,
)
from tests.contract.models import QUANTISED, random_model, random_runner
from tests.contract.script import GREEDY, logprobs, prompt
from tests.contract.test_pages import gap, logits
from tests.search import sample

# The most by which logits differ, as a part of their range.
NUMBERS_ERROR = {8: 0.03, 4: 0.3}
PATHS_ERROR = {8: 0.003, 4: 0.01}
# The most by which log-probabilities of forced tokens differ: 25 times of what was seen, and a
# tenth of what a block of zeros does.
SCORES_ERROR = 0.1
RESTORED_FROM = [
    "llama_wide_8bits",
    "gemma3_wide_4bits",
    "falcon_h1_wide_8bits",
    "llama_wide_paged_8bits",
    "gemma3_wide_paged_4bits",
    "deepseek_v3_wide_paged_8bits",
]
LATENT = "deepseek_v3_wide"
# Both numbers of bits go with every kind of layer; a model has the other one in the nightly run.
OTHER_BITS = (
    "gemma3_wide_8bits",
    "gpt_oss_wide_4bits",
    "qwen3_next_wide_8bits",
    "falcon_h1_wide_4bits",
    "deepseek_v3_wide_8bits",
    "llama4_wide_4bits",
    "gemma3_wide_paged_8bits",
    "gpt_oss_wide_paged_4bits",
    "deepseek_v3_wide_paged_4bits",
)


def near(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= SCORES_ERROR for a, b in zip(one, other, strict=True)
    )


def some(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    mx.random.seed(3)
    return (mx.random.normal(shape) * 3).astype(dtype)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("size", [32, 64, 96, 128, 256])
def test_a_number_comes_back_within_one_step_of_its_group(
    size: int, bits: int, dtype: mx.Dtype
) -> None:
    def worst() -> float:
        form, numbers = Quantised(size, bits, dtype), some(1, 2, 50, size, dtype=dtype)
        found = form.unpack(form.pack(numbers))
        assert found.dtype == dtype
        groups = numbers.reshape(1, 2, 50, -1, form.group).astype(mx.float32)
        step = (groups.max(axis=-1, keepdims=True) - groups.min(axis=-1, keepdims=True)) / (
            2**bits - 1
        )
        return float(
            (mx.abs(found.astype(mx.float32).reshape(groups.shape) - groups) / step).max().item()
        )

    # scales of 16 bits are off by themselves
    assert on_device(worst) < (1.01 if dtype == mx.float32 else 1.3)


def test_positions_are_quantised_by_themselves() -> None:
    """So they can be cut out of blocks, copied between rows and stored anywhere."""

    def differences() -> list[bool]:
        form, numbers = Quantised(64, 4, mx.float32), some(2, 3, 9, 64)
        whole = form.pack(numbers)
        return [
            bool(
                mx.array_equal(
                    form.pack(numbers[:, :, at : at + 1]), whole[:, :, at : at + 1]
                ).item()
            )
            for at in range(9)
        ]

    assert all(on_device(differences))


def chosen(family: str) -> Layout:
    return choose_layout(random_model(family))


def layout_of(family: str) -> Layout:
    model = random_model(family)
    return PagedLayout(model, pads=True) if QUANTISED[family][2] else choose_layout(model)


@pytest.mark.parametrize("family", sample(QUANTISED, OTHER_BITS))
def test_every_layout_computes_what_the_model_computes_alone_with_the_same_bits(
    family: str,
) -> None:
    base, bits, _ = QUANTISED[family]

    def gaps() -> tuple[float, float]:
        found, alone = logits(layout_of(family)), logits(InTurnLayout(random_model(family)))
        return gap(found, alone), gap(found, logits(InTurnLayout(random_model(base))))

    of_path, of_numbers = on_device(gaps)

    assert of_path < PATHS_ERROR[bits]
    assert 1e-5 < of_numbers < NUMBERS_ERROR[bits]


@pytest.mark.parametrize("family", ["llama_wide_8bits", "llama_wide_paged_8bits"])
def test_numbers_that_come_back_wrong_show(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = on_device(lambda: logits(InTurnLayout(random_model(family))))
    unpack = Quantised.unpack
    monkeypatch.setattr(Quantised, "unpack", lambda self, kept: unpack(self, kept)[..., ::-1])

    assert on_device(lambda: gap(logits(layout_of(family)), honest)) > NUMBERS_ERROR[8]


def test_a_pass_that_reads_its_own_tokens_before_they_are_quantised_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then what a token sees would depend on where its prompt was cut into passes."""
    honest = on_device(lambda: logits(InTurnLayout(random_model("llama_wide_paged_4bits"))))
    update = passes.PagedCache.update_and_fetch
    monkeypatch.setattr(
        passes.PagedCache,
        "update_and_fetch",
        lambda self, keys, values: (update(self, keys, values), (keys, values))[1],
    )

    assert (
        on_device(lambda: gap(logits(layout_of("llama_wide_paged_4bits")), honest)) > PATHS_ERROR[4]
    )


class PlainKernel(PagedAttention):
    """The kernels of a GPU, spelled out in MLX's operations."""

    def __init__(self) -> None:
        """Nothing is compiled."""

    def pack(self, keys: mx.array, values: mx.array, form: Quantised) -> tuple[mx.array, mx.array]:
        packed = [form.pack(numbers[:, :, 0].transpose(1, 0, 2)) for numbers in (keys, values)]
        return packed[0], packed[1]

    def __call__(  # noqa: PLR0913  # as the kernel it stands in for
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        table: mx.array,
        lengths: mx.array,
        scale: float,
        *,
        page_tokens: int,
        window: int | None = None,
        soft_cap: float = 0.0,
        sinks: mx.array | None = None,
        quantised: Quantised | None = None,
    ) -> mx.array:
        positions = (table[:, :, None] * page_tokens + mx.arange(page_tokens)).reshape(
            len(table), -1
        )
        form = quantised or AsComputed()
        held = [form.unpack(layer[:, positions]).transpose(1, 0, 2, 3) for layer in (keys, values)]
        at, stop = mx.arange(positions.shape[1]), lengths[:, None]
        mask = (at < stop) & (at >= stop - (window or positions.shape[1]))
        held[1] = mx.where((at < stop)[:, None, :, None], held[1], 0)
        return mx.fast.scaled_dot_product_attention(
            queries, *held, scale=scale, mask=mask[:, None, None], sinks=sinks
        )


@pytest.mark.parametrize(
    "family",
    sample(
        # latents are gathered, and have no kernel
        [name for name, (base, _, is_paged) in QUANTISED.items() if is_paged and base != LATENT],
        OTHER_BITS,
    ),
)
def test_decoding_rows_write_and_read_few_bits_by_the_kernels(family: str) -> None:
    def compare() -> float:
        model = random_model(family)
        layout = PagedLayout(model, kernel=PlainKernel(), pads=True)
        assert layout.name == "pages, attention kernel"
        return gap(logits(layout), logits(InTurnLayout(model)))

    assert on_device(compare) < PATHS_ERROR[QUANTISED[family][1]]


class KernelLayout(PagedLayout):
    """Pages as on a GPU, with few shapes to warm up."""

    def __attrs_post_init__(self) -> None:
        self.kernel, self.sizes = PlainKernel(), PassSizes(2, 16)
        super().__attrs_post_init__()


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "candidates_for", lambda caches: [KernelLayout, RaggedLayout])


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_layout_is_chosen_on_numbers_and_has_few_bits_afterwards() -> None:
    layout = on_device(lambda: choose_layout(random_model("llama_wide"), 4))

    assert isinstance(layout, KernelLayout)
    assert [shape.formats.keys for pool in layout.pools for shape in pool.shapes] == 4 * [
        Quantised(32, 4, mx.float32)
    ]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_wrong_layout_is_not_chosen_for_few_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes.PagedCache, "offset", property(lambda self: self.of.offset * 2))

    assert isinstance(on_device(lambda: choose_layout(random_model("llama_wide"), 4)), RaggedLayout)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_kernel_that_fails_with_few_bits_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(
        self: PlainKernel, keys: mx.array, values: mx.array, form: Quantised
    ) -> tuple[mx.array, mx.array]:
        raise RuntimeError("it does not compile")

    monkeypatch.setattr(PlainKernel, "pack", fail)

    layout = on_device(lambda: choose_layout(random_model("llama_wide"), 8))

    assert isinstance(layout, RaggedLayout)
    assert all(isinstance(cache, QuantisedCache) for cache in on_device(layout.open))


@pytest.mark.parametrize("family", ["llama_wide_8bits", "llama_wide_paged_4bits"])
def test_a_row_that_was_rewound_reads_on_as_if_it_had_never_read_further(family: str) -> None:
    def rewound() -> float:
        layout = layout_of(family)
        assert layout.sizes.decode_tokens > 1
        rows, tokens = [layout.open(), layout.open()], mx.arange(40) * 7 % 300
        layout.forward(
            mx.concatenate([tokens, tokens]), [RowSpan(row, 40, wants_logits=False) for row in rows]
        )
        layout.forward(tokens[:4], [RowSpan(rows[0], 4, wants_logits=True, verifies=True)])
        layout.rewind(rows[0], 4)
        found = layout.forward(
            mx.array([9, 9]), [RowSpan(row, 1, wants_logits=True) for row in rows]
        )
        assert found is not None
        return gap([found[:1]], [found[1:]])

    assert on_device(rewound) < PATHS_ERROR[4]


@pytest.mark.timeout(1200)  # on a CPU the kernels of a compiled pass are compiled by g++
def test_compiled_passes_read_quantised_pages() -> None:
    counts = [(40, 3, 9), (1, 1, 1), (1, 30, 1), (1, 1, 1)]

    def compare() -> float:
        model = random_model("llama_wide_paged_8bits")
        return gap(
            logits(PagedLayout(model, pads=True, compiles=True), counts),
            logits(InTurnLayout(model), counts),
        )

    assert on_device(compare) < PATHS_ERROR[8]


def test_a_step_over_quantised_pages_takes_no_second_pool() -> None:
    def measure() -> tuple[int, int]:
        layout = PagedLayout(random_model("llama_wide_paged_8bits"))
        batch = DeviceRows(layout)
        layout.pools[0].allocate(400)
        batch.step(StepPlan(open=(RowStart(0, 0, GREEDY),), prefill=(Chunk(0, prompt(20), 0, 0),)))
        for index in range(1, 4):
            batch.step(StepPlan(decode=(Decode(0, index),)))
        mx.synchronize()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        for index in range(4, 9):
            batch.step(StepPlan(decode=(Decode(0, index),)))
        mx.synchronize()
        return mx.get_peak_memory() - before, sum(array.nbytes for array in layout.arrays)

    taken, pool = on_device(measure)

    assert taken < pool / 8  # of the arrays, eight in number, none was copied


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama_wide", RaggedLayout),
        ("gpt_oss_wide", RaggedLayout),
        ("qwen3_next_wide", DecodingLayout),
    ],
)
def test_few_bits_leave_a_family_the_layout_that_it_has(family: str, kind: type) -> None:
    assert [
        type(on_device(functools.partial(chosen, f"{family}_{bits}bits"))) for bits in (8, 4)
    ] == [kind, kind]


@pytest.mark.parametrize("family", sample(QUANTISED, OTHER_BITS))
def test_a_position_takes_its_codes_and_scales(family: str) -> None:
    def bytes_by_layer() -> list[tuple[int, int]]:
        model = random_model(family)
        row = InTurnLayout(model).open()
        mx.eval(model(mx.zeros((1, 300), mx.int32), cache=row))
        found = []
        for leaf in leaves(row):
            if isinstance(leaf, QuantisedCache | QuantisedRotatingCache):
                sizes = [
                    form.size
                    for form in (leaf.formats.keys, leaf.formats.values)
                    if isinstance(form, Quantised)
                ]
                heads, positions = leaf.keys.shape[1:3]
                found.append(
                    (
                        leaf.nbytes // positions,
                        heads * sum(head_bytes(size, QUANTISED[family][1], 32) for size in sizes),
                    )
                )
        return found

    found = on_device(bytes_by_layer)

    assert found
    assert all(held == counted for held, counted in found)


@pytest.mark.parametrize("family", RESTORED_FROM)
async def test_restored_rows_score_as_rows_that_read_everything(family: str) -> None:
    memory = Memory(random_runner(family))
    history, lengths = prompt(620), [(1, 1), (63, 5), (65, 1), (255, 1), (257, 5), (600, 5)]
    await memory.keep(history[:600], stops=[length for length, _ in lengths])

    scores = await memory.scores(
        [(history[: length + further], memory.restore(length)) for length, further in lengths]
    )

    for (length, further), found in zip(lengths, scores, strict=True):
        assert near(found, await memory.expected(history[: length + further])), (
            f"restored at {length}, then {further} tokens"
        )


@pytest.mark.parametrize(
    "family",
    [
        "llama_wide_4bits",
        "gpt_oss_wide_8bits",
        "llama_wide_paged_4bits",
        "gpt_oss_wide_paged_8bits",
    ],
)
async def test_rows_made_of_a_live_one_and_rows_that_closed_while_they_decoded_go_on(
    family: str,
) -> None:
    memory, history = Memory(random_runner(family)), prompt(300)
    live = await memory.read(history, stops=(200,))
    pieces = (Piece(0, 150, row=live), Piece(150, 200, row=live))
    [forked] = await memory.scores(
        [(history[:210], memory.of(200, pieces, snapshot_key(200)))], beside=(live,)
    )
    assert near(forked, await memory.expected(history[:210]))

    row = await memory.read(prompt(120), name="b")
    await memory.decode(row, count=30)
    closing = RowClose(row, blocks(row, 150, "b"), SaveSnapshot(snapshot_key(150, "b"), row, 150))
    scores = await memory.score(
        prompt(120) + FORCED[:31], memory.restore(150, "b", is_last_use=True), close=(closing,)
    )

    assert near(scores, await memory.expected(prompt(120) + FORCED[:31]))
    assert logprobs(memory.drawn[live])


@pytest.mark.parametrize(
    "family", ["llama_wide_4bits", "llama_wide_paged_4bits", "gemma3_wide_8bits"]
)
async def test_a_block_of_zeros_shows(family: str) -> None:
    memory = Memory(random_runner(family))
    await memory.keep(prompt(RESTORED))
    zero_block(memory.runner, block_key(256))

    found = await memory.score(prompt(RESTORED + 5), memory.restore(RESTORED))

    assert not near(found, await memory.expected(prompt(RESTORED + 5)))


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(InvalidRequestError) as refused:
        on_device(make)
    return str(refused.value)


def test_models_that_cannot_have_few_bits_are_refused_in_one_line() -> None:
    heads = refusal(lambda: quantise_caches(random_model("llama"), 8))
    states = refusal(lambda: quantise_caches(random_model("mamba2"), 4))
    unknown = refusal(lambda: quantise_caches(tiny_model("deepseek_v41"), 8))

    assert heads == (
        "kv_bits: 8 bits are for models whose heads have a multiple of 32 numbers; this "
        "model's have 16: set kv_bits = 16"
    )
    assert states == (
        "kv_bits: 4 bits cannot be had: none of this model's layers keeps keys and values of "
        "that kind: set kv_bits = 16"
    )
    assert unknown.startswith("kv_bits: 8 bits cannot be had: this model keeps a ")


def test_sixteen_bits_change_nothing() -> None:
    model = on_device(lambda: random_model("llama_wide"))

    on_device(lambda: quantise_caches(model, 16))

    assert "make_cache" not in vars(model)
    assert isinstance(on_device(lambda: DeviceRows(choose_layout(model))).store, WarmStore)
