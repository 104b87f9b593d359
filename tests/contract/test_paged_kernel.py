"""The attention kernel over pages, its body compiled for this machine's processor and run one
thread after the other.
"""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

from tests.device import on_device  # first: it loads the BLAS

import mlx.core as mx  # isort: skip
import attrs
import numpy as np
import pytest

from semantic_trio.adapters.mlx import paged_kernels
from semantic_trio.adapters.mlx.quantised import Quantised
from semantic_trio.domain.geometry import BLOCK_TOKENS

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Kept = np.ndarray[tuple[int, ...], np.dtype[Any]]  # numbers, or words of a `Quantised`

HEADER = """
#include <cmath>
#include <cstddef>
#include <cstdint>
#define LANES 1
#define GLOBAL
#define SHARED
#define BARRIER()
#define EXP(x) std::exp(x)
#define TANH(x) std::tanh(x)
#define ROUND(x) std::rint(x)
typedef float T;
typedef float N;
#define LOCAL
struct alignas(8) Two { uint32_t words[2]; };
struct alignas(16) Four { uint32_t words[4]; };
#define EXCHANGED(x, distance) (x)
"""
PART = """
extern "C" void part(const float* queries, const float* keys, const float* values, const int* table, const int* lengths, const float* limits,
                     const int* keys_shape, const int* table_shape, float* part_outs, float* part_tops, float* part_sums) {
  for (int group_z = 0; group_z < table_shape[0]; group_z++) for (int group_y = 0; group_y < HEADS; group_y++)
    for (int group_x = 0; group_x < table_shape[1]; group_x++) [&] { const int thread_at = 0, lane = 0, simd_at = 0; %s }();
}
"""
MERGE = """
extern "C" void merge(const float* part_outs, const float* part_tops, const float* part_sums, const int* lengths, const float* sinks,
                      const int* part_tops_shape, float* out) {
  for (int group_x = 0; group_x < part_tops_shape[0] * HEADS * G; group_x++) for (int thread_at = 0; thread_at < D; thread_at++) [&] { %s }();
}
"""
PACK = """
extern "C" void pack(const float* keys, const float* values, const int* keys_shape, uint32_t* key_words, uint32_t* value_words) {
  for (int group_x = 0; group_x <= 2 * keys_shape[0] * HEADS * D / GROUP / THREADS; group_x++)
    for (int thread_at = 0; thread_at < THREADS; thread_at++) [&] { %s }();
}
"""


@attrs.frozen
class Case:
    """Sizes of a kernel, and what a model asks of it."""

    size: int = 64
    grouped: int = 1
    window: int = 0
    soft_cap: float = 0.0
    has_sinks: bool = False
    bits: int = 0  # of keys and values; 0: numbers
    page: int = BLOCK_TOKENS  # positions of a page

    @property
    def quantised(self) -> Quantised | None:
        """The format of keys and values; None for numbers."""
        return Quantised(self.size, self.bits, mx.float32) if self.bits else None


@attrs.frozen
class Inputs:
    """Three tokens over pages, two of them of one row."""

    queries: Array  # (rows, heads, size)
    keys: Array  # (heads of keys, positions, size)
    values: Array
    table: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    lengths: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    sinks: Array
    kept_keys: Kept  # as they are in the pool
    kept_values: Kept


def inputs(case: Case) -> Inputs:
    numbers, shared = np.random.default_rng(3), 2
    heads = shared * case.grouped

    def some(*shape: int) -> Array:
        return numbers.standard_normal(shape, dtype=np.float32)

    table = np.array([[4, 2, 1], [4, 2, 1], [3, 0, 0]], np.int32)
    lengths = np.array([2 * case.page + 9, 2 * case.page + 10, 5], np.int32)
    keys, kept_keys = kept(some(shared, 5 * case.page, case.size), case.quantised)
    values, kept_values = kept(some(shared, 5 * case.page, case.size), case.quantised)
    return Inputs(
        some(3, heads, case.size), keys, values, table, lengths, some(heads), kept_keys, kept_values
    )


def kept(numbers: Array, form: Quantised | None) -> tuple[Array, Kept]:
    """Numbers as they are read, and as they are in the pool."""
    if form is None:
        return numbers, numbers

    def pack() -> tuple[Array, Kept]:
        words = form.pack(mx.array(numbers))
        return np.array(form.unpack(words)), np.array(words)

    return on_device(pack)


def kernel(
    case: Case,
    folder: Path,
    *,
    part: str = paged_kernels.PART,
    merge: str = paged_kernels.MERGE,
    pack: str = paged_kernels.PACK,
) -> ctypes.CDLL:
    """The functions of the kernels, compiled."""
    sizes = {
        "D": case.size,
        "G": case.grouped,
        "HEADS": 2,
        "PAGE": case.page,
        "WINDOW": case.window,
        "W": 1,
        "TEAM": 1,
        "RUNS": 4,
        "THREADS": 32,
    }
    form = case.quantised
    sizes |= {
        "BITS": case.bits,
        "GROUP": form.group if form else case.size,
        "STRIDE": form.words if form else case.size,
    }
    flags = {"CAP": case.soft_cap > 0, "SINKS": case.has_sinks}
    constants = "".join(f"#define {name} {int(value)}\n" for name, value in (sizes | flags).items())
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    quantising = PACK % pack if case.bits else ""
    source.write_text(HEADER + constants + PART.replace("%s", part) + MERGE % merge + quantising)
    subprocess.run(["c++", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def attended(case: Case, given: Inputs, functions: ctypes.CDLL) -> Array:
    rows, heads, size = given.queries.shape
    parts = given.table.shape[1]
    outs, tops, sums = (
        np.full(shape, np.nan, np.float32)
        for shape in ((rows, heads, parts, size), (rows, heads, parts), (rows, heads, parts))
    )
    limits, out = (
        np.array([size**-0.5, case.soft_cap], np.float32),
        np.full_like(given.queries, np.nan),
    )
    shapes = [
        np.array(shape, np.int32) for shape in (given.keys.shape, given.table.shape, tops.shape)
    ]

    def call(function: object, *arrays: object) -> None:
        function(*(ctypes.c_void_p(array.ctypes.data) for array in arrays))  # type: ignore[operator, attr-defined]

    call(
        functions.part,
        given.queries,
        given.kept_keys,
        given.kept_values,
        given.table,
        given.lengths,
        limits,
        *shapes[:2],
        outs,
        tops,
        sums,
    )
    call(functions.merge, outs, tops, sums, given.lengths, given.sinks, shapes[2], out)
    return out


def expected(case: Case, given: Inputs) -> Array:
    """The same, spelled out row by row."""
    out = np.empty_like(given.queries)
    for row, (pages, length) in enumerate(zip(given.table, given.lengths, strict=True)):
        places = [
            pages[at // case.page] * case.page + at % case.page
            for at in range(max(0, length - case.window) if case.window else 0, length)
        ]
        for head in range(given.queries.shape[1]):
            shared = head // case.grouped
            scores = given.keys[shared, places] @ given.queries[row, head] * case.size**-0.5
            scores = case.soft_cap * np.tanh(scores / case.soft_cap) if case.soft_cap else scores
            total = np.exp(scores).sum() + (np.exp(given.sinks[head]) if case.has_sinks else 0)
            out[row, head] = np.exp(scores) @ given.values[shared, places] / total
    return out


CASES = [
    Case(),
    Case(size=96, grouped=3),
    Case(size=256, grouped=2),
    Case(window=128),
    Case(window=300),
    Case(window=BLOCK_TOKENS + 9),
    Case(soft_cap=2.0),
    Case(has_sinks=True),
    Case(bits=8),
    Case(bits=4, size=96, grouped=3),
    Case(bits=4, size=256),
    Case(page=64, window=128),
    Case(page=1024, bits=8),
    Case(size=64, grouped=4, window=128, soft_cap=3.0, has_sinks=True),
]
QUANTISED = Case(bits=4, size=128, grouped=2, window=300)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernel_attends_to_the_pages_of_a_row(case: Case, tmp_path: Path) -> None:
    given = inputs(case)

    assert (
        np.abs(attended(case, given, kernel(case, tmp_path)) - expected(case, given)).max() < 1e-5
    )


@pytest.mark.parametrize("page", [64, 1024])
def test_a_kernel_for_pages_of_another_size_shows(page: int, tmp_path: Path) -> None:
    case = Case(page=page)
    given = inputs(case)

    spoilt = attended(case, given, kernel(attrs.evolve(case, page=page // 2), tmp_path))

    assert not np.abs(spoilt - expected(case, given)).max() < 1e-3


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("length - WINDOW - begin : 0", "length - WINDOW - begin + 1 : 0"),
        ("table[row * parts + part]", "table[part]"),
        ("if (CAP)", "if (!CAP)"),
        ("? length - begin : PAGE", "? length - begin - 1 : PAGE"),
        ("const int row = group_z", "const int row = 0"),
    ],
)
def test_a_wrong_kernel_shows(right: str, wrong: str, tmp_path: Path) -> None:
    case = CASES[-1]
    given = inputs(case)
    assert right in paged_kernels.PART

    spoilt = attended(
        case, given, kernel(case, tmp_path, part=paged_kernels.PART.replace(right, wrong))
    )

    assert not np.abs(spoilt - expected(case, given)).max() < 1e-3


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("raw[here / 32] >> here % 32", "raw[here / 32]"),
        ("raw[here / 32]", "raw[0]"),
        ("first * WIDTH / 32 + i", "first * WIDTH / 32"),
        ("scales[D / GROUP + group]", "scales[group]"),
        ("at / GROUP", "0"),
        ("D * BITS / 32", "D * BITS / 32 + 1"),
        ("(1u << BITS) - 1", "255u"),
    ],
)
def test_a_wrong_way_of_dequantising_shows(right: str, wrong: str, tmp_path: Path) -> None:
    given = inputs(QUANTISED)
    assert right in paged_kernels.PART

    spoilt = attended(
        QUANTISED,
        given,
        kernel(QUANTISED, tmp_path, part=paged_kernels.PART.replace(right, wrong)),
    )

    assert not np.abs(spoilt - expected(QUANTISED, given)).max() < 1e-3


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(lengths[row] - WINDOW) / PAGE : 0", "0 : 0"),
        ("if (SINKS) total", "if (!SINKS) total"),
        ("p < used", "p < used - 1"),
    ],
)
def test_a_wrong_merge_shows(right: str, wrong: str, tmp_path: Path) -> None:
    case = CASES[-1]
    given = inputs(case)
    assert right in paged_kernels.MERGE

    spoilt = attended(
        case, given, kernel(case, tmp_path, merge=paged_kernels.MERGE.replace(right, wrong))
    )

    assert not np.abs(spoilt - expected(case, given)).max() < 1e-3


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("size", [64, 96, 256])
def test_the_kernel_quantises_as_mlx_does(size: int, bits: int, tmp_path: Path) -> None:
    case, tokens = Case(size=size, bits=bits), 5
    given = numbers_of(case, tokens)
    given[0][0, 0] = 0
    given[1][1] = np.abs(given[1][1]) + 1  # no number of a group is below zero
    given[1][2] = -np.abs(given[1][2]) - 1

    for found, numbers in zip(quantised(case, given, kernel(case, tmp_path)), given, strict=True):
        assert np.abs(found - expected_numbers(case, numbers)).max() < 1e-5


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("-low > high", "low > high"),
        ("<< (i * BITS)", "<< (i * BITS / 2)"),
        ("head * rows + row) * STRIDE", "row * HEADS + head) * STRIDE"),
        ("is_value ? values : keys", "is_value ? keys : values"),
        ("scales[GROUPS + group]", "scales[group]"),
    ],
)
def test_a_wrong_way_of_quantising_shows(right: str, wrong: str, tmp_path: Path) -> None:
    case = Case(size=128, bits=4)
    given = numbers_of(case, 5)
    assert right in paged_kernels.PACK

    spoilt = quantised(
        case, given, kernel(case, tmp_path, pack=paged_kernels.PACK.replace(right, wrong))
    )

    assert not all(
        np.abs(found - expected_numbers(case, numbers)).max() < 1e-2
        for found, numbers in zip(spoilt, given, strict=True)
    )


def numbers_of(case: Case, tokens: int) -> tuple[Array, Array]:
    """Keys and values of tokens (tokens, heads, 1, size)."""
    keys, values = np.random.default_rng(5).standard_normal(
        (2, tokens, 2, 1, case.size), dtype=np.float32
    )
    return keys, values


def quantised(case: Case, given: tuple[Array, Array], functions: ctypes.CDLL) -> list[Array]:
    """The numbers (heads, tokens, size) that the words of the kernel stand for."""
    form, tokens = case.quantised, len(given[0])
    assert form is not None
    words = [np.zeros((2, tokens, form.words), np.uint32) for _ in given]
    shape = np.array(given[0].shape, np.int32)
    functions.pack(*(ctypes.c_void_p(array.ctypes.data) for array in (*given, shape, *words)))
    return on_device(lambda: [np.array(form.unpack(mx.array(word))) for word in words])


def expected_numbers(case: Case, numbers: Array) -> Array:
    """What MLX makes of them."""
    form = case.quantised
    assert form is not None
    return on_device(
        lambda: np.array(form.unpack(form.pack(mx.array(numbers[:, :, 0].transpose(1, 0, 2)))))
    )
