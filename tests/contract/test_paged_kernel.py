"""The attention kernel over pages, its body compiled for this machine's processor and run one thread after the other."""

import ctypes
import subprocess
from pathlib import Path

import attrs
import numpy as np
import pytest

from semantic_trio.adapters.mlx import paged_attention
from semantic_trio.adapters.mlx.pages import PAGE

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

HEADER = """
#include <cmath>
#include <cstddef>
#define LANES 1
#define SHARED
#define BARRIER()
#define EXP(x) std::exp(x)
#define TANH(x) std::tanh(x)
typedef float T;
static inline float simd_total(float x) { return x; }
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


@attrs.frozen
class Case:
    """Sizes of a kernel, and what a model asks of it."""

    size: int = 64
    grouped: int = 1
    window: int = 0
    soft_cap: float = 0.0
    has_sinks: bool = False


@attrs.frozen
class Inputs:
    """Three tokens over pages, two of them of one row."""

    queries: Array  # (rows, heads, size)
    keys: Array  # (heads of keys, positions, size)
    values: Array
    table: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    lengths: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    sinks: Array


def inputs(case: Case) -> Inputs:
    numbers, shared = np.random.default_rng(3), 2
    heads = shared * case.grouped

    def some(*shape: int) -> Array:
        return numbers.standard_normal(shape, dtype=np.float32)

    table = np.array([[4, 2, 1], [4, 2, 1], [3, 0, 0]], np.int32)
    lengths = np.array([2 * PAGE + 9, 2 * PAGE + 10, 5], np.int32)
    keys, values = some(shared, 5 * PAGE, case.size), some(shared, 5 * PAGE, case.size)
    return Inputs(some(3, heads, case.size), keys, values, table, lengths, some(heads))


def kernel(case: Case, folder: Path, *, part: str = paged_attention.PART, merge: str = paged_attention.MERGE) -> ctypes.CDLL:
    """The two functions, compiled."""
    sizes = {"D": case.size, "G": case.grouped, "HEADS": 2, "PAGE": PAGE, "WINDOW": case.window, "W": 1}
    flags = {"CAP": case.soft_cap > 0, "SINKS": case.has_sinks}
    constants = "".join(f"#define {name} {int(value)}\n" for name, value in (sizes | flags).items())
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(HEADER + constants + PART % part + MERGE % merge)
    subprocess.run(["c++", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def attended(case: Case, given: Inputs, functions: ctypes.CDLL) -> Array:
    rows, heads, size = given.queries.shape
    parts = given.table.shape[1]
    outs, tops, sums = (np.full(shape, np.nan, np.float32) for shape in ((rows, heads, parts, size), (rows, heads, parts), (rows, heads, parts)))
    limits, out = np.array([size**-0.5, case.soft_cap], np.float32), np.full_like(given.queries, np.nan)
    shapes = [np.array(shape, np.int32) for shape in (given.keys.shape, given.table.shape, tops.shape)]

    def call(function: object, *arrays: object) -> None:
        function(*(ctypes.c_void_p(array.ctypes.data) for array in arrays))  # type: ignore[operator, attr-defined]

    call(functions.part, given.queries, given.keys, given.values, given.table, given.lengths, limits, *shapes[:2], outs, tops, sums)
    call(functions.merge, outs, tops, sums, given.lengths, given.sinks, shapes[2], out)
    return out


def expected(case: Case, given: Inputs) -> Array:
    """The same, spelled out row by row."""
    out = np.empty_like(given.queries)
    for row, (pages, length) in enumerate(zip(given.table, given.lengths, strict=True)):
        places = [pages[at // PAGE] * PAGE + at % PAGE for at in range(max(0, length - case.window) if case.window else 0, length)]
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
    Case(window=PAGE + 9),
    Case(soft_cap=2.0),
    Case(has_sinks=True),
    Case(size=64, grouped=4, window=128, soft_cap=3.0, has_sinks=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernel_attends_to_the_pages_of_a_row(case: Case, tmp_path: Path) -> None:
    given = inputs(case)

    assert np.abs(attended(case, given, kernel(case, tmp_path)) - expected(case, given)).max() < 1e-5


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("length - WINDOW - first : 0", "length - WINDOW - first + 1 : 0"),
        ("table[row * parts + part]", "table[part]"),
        ("if (CAP)", "if (!CAP)"),
        ("t < count", "t < count - 1"),
        ("const int row = group_z", "const int row = 0"),
    ],
)
def test_a_wrong_kernel_shows(right: str, wrong: str, tmp_path: Path) -> None:
    case = CASES[-1]
    given = inputs(case)
    assert right in paged_attention.PART

    spoilt = attended(case, given, kernel(case, tmp_path, part=paged_attention.PART.replace(right, wrong)))

    assert not np.abs(spoilt - expected(case, given)).max() < 1e-3


@pytest.mark.parametrize(
    ("right", "wrong"), [("(lengths[row] - WINDOW) / PAGE : 0", "0 : 0"), ("if (SINKS) total", "if (!SINKS) total"), ("p < used", "p < used - 1")]
)
def test_a_wrong_merge_shows(right: str, wrong: str, tmp_path: Path) -> None:
    case = CASES[-1]
    given = inputs(case)
    assert right in paged_attention.MERGE

    spoilt = attended(case, given, kernel(case, tmp_path, merge=paged_attention.MERGE.replace(right, wrong)))

    assert not np.abs(spoilt - expected(case, given)).max() < 1e-3
