"""Attention of query tokens over the pages of a pool, by kernels for Metal and CUDA.

Several tokens of one row are several rows with the same pages and lengths of their own. Every page
of every row is looked at by one thread group per head of keys, for all heads of queries that share
it; a second kernel merges the pages. Quantised keys and values are dequantised as they are read, in
registers: nothing is copied. A third kernel quantises what decoding rows write: MLX's own
operations for it are eight launches a layer. The softmax over parts is merged by its maxima and
sums. Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
"""

from collections.abc import Callable
from typing import cast

import attrs
import mlx.core as mx

from semantic_trio.adapters.mlx.paged_kernels import (
    CUDA_HEADER,
    CUDA_PRELUDE,
    MERGE,
    METAL_HEADER,
    METAL_PRELUDE,
    PACK,
    PACK_THREADS,
    PART,
)
from semantic_trio.adapters.mlx.quantised import Quantised

Kernel = Callable[..., list[mx.array]]
# sizes, types and switches that a kernel is compiled for
Template = list[tuple[str, object]]
MakeKernel = Callable[..., object]  # `mx.fast.metal_kernel` or `mx.fast.cuda_kernel`

# Sizes of a head that threads of a SIMD group can share out evenly.
HEAD_SIZES = (64, 96, 128, 160, 192, 224, 256)
# Bytes of threadgroup memory that Metal has; CUDA has more.
SHARED_BYTES = 28 * 1024
SIMD = 32
# Lanes that look at one position together, the fewest of which none holds more sums than it has
# registers for.
TEAMS, MOST_PER_LANE = (8, 16, 32), 32
# Positions that a team looks at before it adds them up: their loads and sums do not wait for each
# other.
RUNS = 2


@attrs.frozen(eq=False)
class PagedAttention:
    """The kernels, made for this device."""

    _part: Kernel
    _merge: Kernel
    _pack: Kernel
    # kernels take arrays only, and making one costs a launch
    _limits: dict[tuple[float, float], mx.array] = attrs.field(init=False, factory=dict)

    @classmethod
    def for_device(cls) -> "PagedAttention | None":
        """The kernels in the language of the default device; None on a CPU, which has no such
        kernels.
        """
        if mx.default_device() == mx.cpu:
            return None
        if mx.metal.is_available():
            return cls._made(mx.fast.metal_kernel, METAL_HEADER, METAL_PRELUDE)
        return cls._made(mx.fast.cuda_kernel, CUDA_HEADER, CUDA_PRELUDE)

    @classmethod
    def _made(cls, make: MakeKernel, header: str, prelude: str) -> "PagedAttention":
        part = make(
            name="paged_attention_part",
            input_names=["queries", "keys", "values", "table", "lengths", "limits"],
            output_names=["part_outs", "part_tops", "part_sums"],
            source=prelude + PART,
            header=header,
        )
        merge = make(
            name="paged_attention_merge",
            input_names=["part_outs", "part_tops", "part_sums", "lengths", "sinks"],
            output_names=["out"],
            source=prelude + MERGE,
            header=header,
        )
        pack = make(
            name="quantise_tokens",
            input_names=["keys", "values"],
            output_names=["key_words", "value_words"],
            source=prelude + PACK,
            header=header,
        )
        return cls(cast(Kernel, part), cast(Kernel, merge), cast(Kernel, pack))

    def pack(self, keys: mx.array, values: mx.array, form: Quantised) -> tuple[mx.array, mx.array]:
        """Return keys and values (tokens, heads, 1, size) as the pool holds them, (heads, tokens,
        words).
        """
        tokens, heads, _, size = keys.shape
        template = [
            ("N", keys.dtype),
            ("D", size),
            ("HEADS", heads),
            ("BITS", form.bits),
            ("GROUP", form.group),
            ("STRIDE", form.words),
        ]
        groups = 2 * tokens * heads * size // form.group
        packed_keys, packed_values = self._pack(
            inputs=[keys, values],
            template=[*template, ("THREADS", PACK_THREADS)],
            grid=(-(-groups // PACK_THREADS) * PACK_THREADS, 1, 1),
            threadgroup=(PACK_THREADS, 1, 1),
            output_shapes=[(heads, tokens, form.words)] * 2,
            output_dtypes=[mx.uint32] * 2,
        )
        return packed_keys, packed_values

    def __call__(  # noqa: PLR0913  # what attention reads
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
        """Return the attention of `queries` (rows, heads, 1, size) over the first `lengths` (rows,)
        positions of the pages in `table` (rows, pages).

        A page has `page_tokens` positions. `keys` and `values` are a layer of the pool: (heads of
        keys, positions, size), or (heads of keys, positions, words) in the format `quantised`. With
        a `window` only so many last positions are looked at, with a `soft_cap` scores are bent
        below it, and `sinks` (heads,) are scores that take part of the weight and have no values.
        Returns (rows, heads, 1, size). Raises `ValueError` for sizes of heads that the kernels do
        not have.
        """
        _refuse_sizes(queries.shape[-1], keys, values, quantised)
        limits = self._limits_of(scale, soft_cap)
        template = _template(queries, keys, page_tokens, window or 0)
        stored = _storage(queries, keys, quantised)
        parts = self._parts_of(
            [queries, keys, values, table, lengths, limits],
            [*template, ("CAP", soft_cap > 0), *stored],
        )
        return self._merged(
            [*parts, lengths, limits if sinks is None else sinks],
            [*template, ("SINKS", sinks is not None)],
            queries,
        )

    def _parts_of(self, inputs: list[mx.array], template: Template) -> list[mx.array]:
        """Return the weighted values, the maximum and the sum of each page for each head of
        queries: float32 of (rows, heads, pages, size), (rows, heads, pages) and the same again.
        """
        queries, keys, _, table, *_ = inputs
        rows, heads, _, size = queries.shape
        shared, parts = keys.shape[0], table.shape[1]
        grouped = heads // shared
        simds = next(w for w in (8, 4, 2, 1) if w * grouped * (size + 2) * 4 <= SHARED_BYTES)
        team = next((team for team in TEAMS if grouped * size <= team * MOST_PER_LANE), SIMD)
        return self._part(
            inputs=inputs,
            template=[*template, ("W", simds), ("TEAM", team), ("RUNS", RUNS)],
            grid=(parts * simds * SIMD, shared, rows),
            threadgroup=(simds * SIMD, 1, 1),
            output_shapes=[(rows, heads, parts, size), (rows, heads, parts), (rows, heads, parts)],
            output_dtypes=[mx.float32] * 3,
        )

    def _merged(self, inputs: list[mx.array], template: Template, queries: mx.array) -> mx.array:
        """Return the attention of `queries`, merged from what `_parts_of` has returned."""
        rows, heads, _, size = queries.shape
        [out] = self._merge(
            inputs=inputs,
            template=template,
            grid=(rows * heads * size, 1, 1),
            threadgroup=(size, 1, 1),
            output_shapes=[(rows, heads, 1, size)],
            output_dtypes=[queries.dtype],
        )
        return out

    def _limits_of(self, scale: float, soft_cap: float) -> mx.array:
        if (scale, soft_cap) not in self._limits:
            self._limits[scale, soft_cap] = mx.array([scale, soft_cap], dtype=mx.float32)
        return self._limits[scale, soft_cap]


def _refuse_sizes(size: int, keys: mx.array, values: mx.array, quantised: Quantised | None) -> None:
    stride = keys.shape[-1]
    if (
        size not in HEAD_SIZES
        or values.shape[-1] != stride
        or stride != (quantised.words if quantised else size)
    ):
        raise ValueError(f"no kernel for heads of {size}, kept in {stride} and {values.shape[-1]}")


def _template(queries: mx.array, keys: mx.array, page_tokens: int, window: int) -> Template:
    """Return the sizes that both kernels are compiled for; window 0: all positions."""
    _, heads, _, size = queries.shape
    shared = keys.shape[0]
    return [
        ("T", queries.dtype),
        ("D", size),
        ("G", heads // shared),
        ("HEADS", shared),
        ("PAGE", page_tokens),
        ("WINDOW", window),
    ]


def _storage(queries: mx.array, keys: mx.array, quantised: Quantised | None) -> Template:
    """Return the format in which the pool holds the keys; 0 bits: not quantised."""
    bits, group, numbers = (
        (quantised.bits, quantised.group, quantised.dtype)
        if quantised
        else (0, queries.shape[-1], queries.dtype)
    )
    return [("N", numbers), ("BITS", bits), ("GROUP", group), ("STRIDE", keys.shape[-1])]
