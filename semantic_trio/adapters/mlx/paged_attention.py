"""Attention of query tokens over the pages of a pool: one kernel body for Metal and CUDA, a prelude for each language.

Several tokens of one row are several rows with the same pages and lengths of their own. Every page of every row is looked at by one thread group per
head of keys, for all heads of queries that share it; a second kernel merges the pages.
The softmax over parts is merged by its maxima and sums. Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
"""

from collections.abc import Callable
from typing import cast

import attrs
import mlx.core as mx

from semantic_trio.adapters.mlx.pages import PAGE

Kernel = Callable[..., list[mx.array]]
MakeKernel = Callable[..., object]  # `mx.fast.metal_kernel` or `mx.fast.cuda_kernel`

# Sizes of a head that threads of a SIMD group can share out evenly.
HEAD_SIZES = (64, 96, 128, 160, 192, 224, 256)
# Bytes of threadgroup memory that Metal has; CUDA has more.
SHARED_BYTES = 28 * 1024
SIMD = 32

CUDA_HEADER = """
#define LANES 32
#define SHARED __shared__
#define BARRIER() __syncthreads()
#define EXP(x) __expf(x)
#define TANH(x) tanhf(x)
__device__ inline float simd_total(float x) { for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(0xffffffff, x, o); return x; }
"""
CUDA_PRELUDE = """
  const int group_x = blockIdx.x, group_y = blockIdx.y, group_z = blockIdx.z;
  const int thread_at = threadIdx.x, lane = threadIdx.x % 32, simd_at = threadIdx.x / 32;
"""
METAL_HEADER = """
#define LANES 32
#define SHARED threadgroup
#define BARRIER() threadgroup_barrier(metal::mem_flags::mem_threadgroup)
#define EXP(x) metal::exp(x)
#define TANH(x) metal::precise::tanh(x)
inline float simd_total(float x) { return metal::simd_sum(x); }
"""
METAL_PRELUDE = """
  const int group_x = threadgroup_position_in_grid.x, group_y = threadgroup_position_in_grid.y, group_z = threadgroup_position_in_grid.z;
  const int thread_at = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup, simd_at = simdgroup_index_in_threadgroup;
"""
# One page of one row for one head of keys: the maximum, the sum and the weighted values of each head of queries.
PART = """
  SHARED float tops[W][G]; SHARED float sums[W][G]; SHARED float outs[W][G][D];
  constexpr int VEC = D / LANES;
  const int row = group_z, head = group_y, part = group_x;
  const int length = lengths[row], parts = table_shape[1], first = part * PAGE;
  const int count = length - first < PAGE ? length - first : PAGE;
  const int skipped = WINDOW && length - WINDOW > first ? length - WINDOW - first : 0;
  if (count <= skipped) return;
  float query[G][VEC], out[G][VEC], top[G], sum[G];
  for (int g = 0; g < G; g++) {
    top[g] = -1e30f; sum[g] = 0.f;
    for (int i = 0; i < VEC; i++) {
      out[g][i] = 0.f;
      query[g][i] = float(queries[((size_t)(row * HEADS + head) * G + g) * D + lane * VEC + i]) * limits[0];
    }
  }
  const size_t base = ((size_t)head * keys_shape[1] + (size_t)table[row * parts + part] * PAGE) * D + lane * VEC;
  for (int t = skipped + simd_at; t < count; t += W) {
    float key[VEC], value[VEC];
    for (int i = 0; i < VEC; i++) { key[i] = float(keys[base + (size_t)t * D + i]); value[i] = float(values[base + (size_t)t * D + i]); }
    for (int g = 0; g < G; g++) {
      float score = 0.f;
      for (int i = 0; i < VEC; i++) score += query[g][i] * key[i];
      score = simd_total(score);
      if (CAP) score = limits[1] * TANH(score / limits[1]);
      const float higher = score > top[g] ? score : top[g], keep = EXP(top[g] - higher), weight = EXP(score - higher);
      sum[g] = sum[g] * keep + weight; top[g] = higher;
      for (int i = 0; i < VEC; i++) out[g][i] = out[g][i] * keep + weight * value[i];
    }
  }
  for (int g = 0; g < G; g++) {
    if (lane == 0) { tops[simd_at][g] = top[g]; sums[simd_at][g] = sum[g]; }
    for (int i = 0; i < VEC; i++) outs[simd_at][g][lane * VEC + i] = out[g][i];
  }
  BARRIER();
  for (int j = thread_at; j < G * D; j += W * LANES) {
    const int g = j / D, d = j % D;
    float highest = -1e30f, total = 0.f, mixed = 0.f;
    for (int w = 0; w < W; w++) highest = tops[w][g] > highest ? tops[w][g] : highest;
    for (int w = 0; w < W; w++) { const float keep = EXP(tops[w][g] - highest); total += sums[w][g] * keep; mixed += outs[w][g][d] * keep; }
    const size_t place = ((size_t)(row * HEADS + head) * G + g) * parts + part;
    part_outs[place * D + d] = mixed;
    if (d == 0) { part_tops[place] = highest; part_sums[place] = total; }
  }
"""
# One head of queries of one row: its pages merged.
MERGE = """
  const int place = group_x, d = thread_at, parts = part_tops_shape[2], row = place / (HEADS * G);
  const int used = (lengths[row] + PAGE - 1) / PAGE, begin = WINDOW && lengths[row] > WINDOW ? (lengths[row] - WINDOW) / PAGE : 0;
  float highest = -1e30f, total = 0.f, mixed = 0.f;
  if (SINKS) highest = float(sinks[place % (HEADS * G)]);
  for (int p = begin; p < used; p++) { const float top = part_tops[(size_t)place * parts + p]; highest = top > highest ? top : highest; }
  if (SINKS) total = EXP(float(sinks[place % (HEADS * G)]) - highest);
  for (int p = begin; p < used; p++) {
    const size_t at = (size_t)place * parts + p;
    const float keep = EXP(part_tops[at] - highest);
    total += part_sums[at] * keep; mixed += part_outs[at * D + d] * keep;
  }
  out[(size_t)place * D + d] = T(mixed / total);
"""


@attrs.frozen(eq=False)
class PagedAttention:
    """The two kernels, made for this device."""

    _part: Kernel
    _merge: Kernel
    _limits: dict[tuple[float, float], mx.array] = attrs.field(init=False, factory=dict)  # kernels take arrays only, and making one costs a launch

    @classmethod
    def for_device(cls) -> "PagedAttention | None":
        """The kernels in the language of the default device; None on a CPU, which has no such kernels."""
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
        return cls(cast(Kernel, part), cast(Kernel, merge))

    def __call__(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        table: mx.array,
        lengths: mx.array,
        scale: float,
        *,
        window: int | None = None,
        soft_cap: float = 0.0,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """Attention of `queries` (rows, heads, 1, size) over the first `lengths` (rows,) positions of the pages in `table` (rows, pages).

        `keys` and `values` are a layer of the pool, (heads of keys, positions, size). With a `window` only so many last positions are looked at,
        with a `soft_cap` scores are bent below it, and `sinks` (heads,) are scores that take part of the weight and have no values.
        Returns (rows, heads, 1, size). Raises `ValueError` for sizes of heads that the kernels do not have.
        """
        rows, heads, _, size = queries.shape
        shared, parts = keys.shape[0], table.shape[1]
        if size not in HEAD_SIZES or values.shape[-1] != size:
            raise ValueError(f"no kernel for heads of {size} and {values.shape[-1]}")
        grouped = heads // shared
        simds = next(w for w in (8, 4, 2, 1) if w * grouped * (size + 2) * 4 <= SHARED_BYTES)
        template = [("T", queries.dtype), ("D", size), ("G", grouped), ("HEADS", shared), ("PAGE", PAGE), ("WINDOW", window or 0)]
        limits = self._limits_of(scale, soft_cap)
        parts_of = self._part(
            inputs=[queries, keys, values, table, lengths, limits],
            template=[*template, ("W", simds), ("CAP", soft_cap > 0)],
            grid=(parts * simds * SIMD, shared, rows),
            threadgroup=(simds * SIMD, 1, 1),
            output_shapes=[(rows, heads, parts, size), (rows, heads, parts), (rows, heads, parts)],
            output_dtypes=[mx.float32] * 3,
        )
        [out] = self._merge(
            inputs=[*parts_of, lengths, limits if sinks is None else sinks],
            template=[*template, ("SINKS", sinks is not None)],
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
