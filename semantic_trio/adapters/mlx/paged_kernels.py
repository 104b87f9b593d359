"""Texts of the kernels of `PagedAttention`: one body for Metal and CUDA, and a prelude for each
language.

Knows no arrays. Sizes are template arguments, and capitals here: D numbers of a head, G heads of
queries for each head of keys, W SIMD groups of a thread group.
"""

CUDA_HEADER = """
#define LANES 32
#define GLOBAL
#define SHARED __shared__
#define BARRIER() __syncthreads()
#define EXP(x) __expf(x)
#define TANH(x) tanhf(x)
#define ROUND(x) rintf(x)
struct alignas(8) Two { uint32_t words[2]; };
struct alignas(16) Four { uint32_t words[4]; };
#define EXCHANGED(x, distance) __shfl_xor_sync(0xffffffff, x, distance)
#define LOCAL
"""
CUDA_PRELUDE = """
  const int group_x = blockIdx.x, group_y = blockIdx.y, group_z = blockIdx.z;
  const int thread_at = threadIdx.x, lane = threadIdx.x % 32, simd_at = threadIdx.x / 32;
"""
METAL_HEADER = """
#define LANES 32
#define GLOBAL device
#define SHARED threadgroup
#define BARRIER() threadgroup_barrier(metal::mem_flags::mem_threadgroup)
#define EXP(x) metal::exp(x)
#define TANH(x) metal::precise::tanh(x)
#define ROUND(x) metal::rint(x)
struct alignas(8) Two { uint32_t words[2]; };
struct alignas(16) Four { uint32_t words[4]; };
#define EXCHANGED(x, distance) metal::simd_shuffle_xor(x, ushort(distance))
#define LOCAL thread
"""
METAL_PRELUDE = """
  const int group_x = threadgroup_position_in_grid.x, group_y = threadgroup_position_in_grid.y;
  const int group_z = threadgroup_position_in_grid.z, thread_at = thread_position_in_threadgroup.x;
  const int lane = thread_index_in_simdgroup, simd_at = simdgroup_index_in_threadgroup;
"""
# The numbers of one lane at one position, in loads as wide as their place allows. With bits they
# are dequantised: `Quantised` has the order of codes, scales and biases.
READ = """
      {
        const GLOBAL uint32_t* words = (const GLOBAL uint32_t*)NAMEs + place * ROW;
        const GLOBAL N* scales = (const GLOBAL N*)(words + D * BITS / 32);
        uint32_t raw[WORDS];
        if (VEC * WIDTH % 32 == 0) {
          for (int i = 0; i < WORDS; i += STEP) {
            const GLOBAL uint32_t* from = words + first * WIDTH / 32 + i;
            if (STEP == 4) *(LOCAL Four*)(raw + i) = *(const GLOBAL Four*)from;
            else if (STEP == 2) *(LOCAL Two*)(raw + i) = *(const GLOBAL Two*)from;
            else raw[i] = *from;
          }
        }
        for (unsigned i = 0; i < VEC; i++) {
          const unsigned at = first + i, bit = at * BITS, here = i * BITS, group = at / GROUP;
          if (BITS) {
            const uint32_t word =
                VEC * WIDTH % 32 ? words[bit / 32] >> bit % 32 : raw[here / 32] >> here % 32;
            const float code = float(word & ((1u << BITS) - 1));
            NAME[i] = float(scales[group]) * code + float(scales[D / GROUP + group]);
          } else {
            NAME[i] =
                float(VEC * WIDTH % 32 ? ((const GLOBAL N*)words)[at] : ((LOCAL const N*)raw)[i]);
          }
        }
      }
"""
# One page of one row for one head of keys: the maximum, the sum and the weighted values of each
# head of queries. A team of lanes looks at one position, so that a SIMD group looks at several and
# a score is summed over few lanes.
PART = (
    """
  constexpr int VEC = D / TEAM, TEAMS = LANES / TEAM, WIDTH = BITS ? BITS : 8 * sizeof(N);
  constexpr int WORDS = VEC * WIDTH < 32 ? 1 : VEC * WIDTH / 32;
  constexpr int ROW = BITS ? STRIDE : STRIDE * sizeof(N) / 4;
  constexpr int STEP = WORDS % 4 + ROW % 4 == 0 ? 4 : WORDS % 2 + ROW % 2 == 0 ? 2 : 1;
  SHARED float tops[W][G]; SHARED float sums[W][G]; SHARED float outs[W][G][D];
  const int row = group_z, head = group_y, part = group_x, team = lane / TEAM;
  const unsigned first = lane % TEAM * VEC;
  const int length = lengths[row], parts = table_shape[1], begin = part * PAGE;
  const int count = length - begin < PAGE ? length - begin : PAGE;
  const int skipped = WINDOW && length - WINDOW > begin ? length - WINDOW - begin : 0;
  if (count <= skipped) return;
  float query[G][VEC], out[G][VEC], top[G], sum[G];
  for (int g = 0; g < G; g++) {
    const size_t from = ((size_t)(row * HEADS + head) * G + g) * D + first;
    top[g] = -1e30f; sum[g] = 0.f;
    for (int i = 0; i < VEC; i++) {
      out[g][i] = 0.f;
      query[g][i] = float(queries[from + i]) * limits[0];
    }
  }
  const size_t base = (size_t)head * keys_shape[1] + (size_t)table[row * parts + part] * PAGE;
  for (int t0 = skipped + simd_at * TEAMS * RUNS; t0 < count; t0 += W * TEAMS * RUNS) {
    float score[RUNS][G], values_of[RUNS][VEC];
    for (int run = 0; run < RUNS; run++) {
      const int t = t0 + run * TEAMS + team;
      const size_t place = base + (t < count ? t : count - 1);
      float key[VEC], value[VEC];
"""
    + READ.replace("NAME", "key")
    + READ.replace("NAME", "value")
    + """
      for (int g = 0; g < G; g++) {
        score[run][g] = 0.f;
        for (int i = 0; i < VEC; i++) score[run][g] += query[g][i] * key[i];
      }
      for (int i = 0; i < VEC; i++) values_of[run][i] = value[i];
    }
    for (int o = TEAM / 2; o; o >>= 1)
      for (int run = 0; run < RUNS; run++)
        for (int g = 0; g < G; g++) score[run][g] += EXCHANGED(score[run][g], o);
    for (int g = 0; g < G; g++) {
      float higher = top[g];
      for (int run = 0; run < RUNS; run++) {
        if (CAP) score[run][g] = limits[1] * TANH(score[run][g] / limits[1]);
        if (t0 + run * TEAMS + team < count && score[run][g] > higher) higher = score[run][g];
      }
      const float keep = EXP(top[g] - higher);
      sum[g] *= keep; top[g] = higher;
      for (int i = 0; i < VEC; i++) out[g][i] *= keep;
      for (int run = 0; run < RUNS; run++) {
        const float weight = t0 + run * TEAMS + team < count ? EXP(score[run][g] - higher) : 0.f;
        sum[g] += weight;
        for (int i = 0; i < VEC; i++) out[g][i] += weight * values_of[run][i];
      }
    }
  }
  for (int g = 0; g < G; g++) {
    for (int o = TEAM; o < LANES; o <<= 1) {
      const float other = EXCHANGED(top[g], o), higher = other > top[g] ? other : top[g];
      const float keep = EXP(top[g] - higher);
      top[g] = higher; sum[g] *= keep; sum[g] += EXCHANGED(sum[g], o);
      for (int i = 0; i < VEC; i++) { out[g][i] *= keep; out[g][i] += EXCHANGED(out[g][i], o); }
    }
    if (lane == 0) { tops[simd_at][g] = top[g]; sums[simd_at][g] = sum[g]; }
    if (team == 0) for (int i = 0; i < VEC; i++) outs[simd_at][g][first + i] = out[g][i];
  }
  BARRIER();
  for (int j = thread_at; j < G * D; j += W * LANES) {
    const int g = j / D, d = j % D;
    float highest = -1e30f, total = 0.f, mixed = 0.f;
    for (int w = 0; w < W; w++) highest = tops[w][g] > highest ? tops[w][g] : highest;
    for (int w = 0; w < W; w++) {
      const float keep = EXP(tops[w][g] - highest);
      total += sums[w][g] * keep; mixed += outs[w][g][d] * keep;
    }
    const size_t place = ((size_t)(row * HEADS + head) * G + g) * parts + part;
    part_outs[place * D + d] = mixed;
    if (d == 0) { part_tops[place] = highest; part_sums[place] = total; }
  }
"""
)
# One head of queries of one row: its pages merged.
MERGE = """
  const int place = group_x, d = thread_at, parts = part_tops_shape[2], row = place / (HEADS * G);
  const int used = (lengths[row] + PAGE - 1) / PAGE;
  const int begin = WINDOW && lengths[row] > WINDOW ? (lengths[row] - WINDOW) / PAGE : 0;
  float highest = -1e30f, total = 0.f, mixed = 0.f;
  if (SINKS) highest = float(sinks[place % (HEADS * G)]);
  for (int p = begin; p < used; p++) {
    const float top = part_tops[(size_t)place * parts + p];
    highest = top > highest ? top : highest;
  }
  if (SINKS) total = EXP(float(sinks[place % (HEADS * G)]) - highest);
  for (int p = begin; p < used; p++) {
    const size_t at = (size_t)place * parts + p;
    const float keep = EXP(part_tops[at] - highest);
    total += part_sums[at] * keep; mixed += part_outs[at * D + d] * keep;
  }
  out[(size_t)place * D + d] = T(mixed / total);
"""
# One group of numbers of one token, quantised as `mx.quantize` does it: the edge that is farther
# from zero is met exactly, and zero is a code.
PACK = """
  constexpr int GROUPS = D / GROUP, BINS = (1 << BITS) - 1;
  const int rows = keys_shape[0], at = group_x * THREADS + thread_at;
  const int group = at % GROUPS, head = at / GROUPS % HEADS;
  const int row = at / (GROUPS * HEADS) % rows, is_value = at / (GROUPS * HEADS * rows);
  if (is_value > 1) return;
  const GLOBAL N* numbers = is_value ? values : keys;
  numbers += ((size_t)row * HEADS + head) * D + group * GROUP;
  GLOBAL uint32_t* words = is_value ? value_words : key_words;
  words += ((size_t)head * rows + row) * STRIDE;
  float low = float(numbers[0]), high = low;
  for (int i = 1; i < GROUP; i++) {
    const float x = float(numbers[i]);
    low = x < low ? x : low; high = x > high ? x : high;
  }
  const bool is_low = -low > high;
  const float edge = is_low ? low : high;
  const float step = (high - low) / BINS > 1e-7f ? (high - low) / BINS : 1e-7f;
  const float signed_step = is_low ? step : -step, codes = ROUND(edge / signed_step);
  const float scale = codes == 0.f ? signed_step : edge / codes, bias = codes == 0.f ? 0.f : edge;
  for (int word = 0; word < GROUP * BITS / 32; word++) {
    uint32_t packed = 0;
    for (int i = 0; i < 32 / BITS; i++) {
      const float code = ROUND((float(numbers[word * (32 / BITS) + i]) - bias) / scale);
      packed |= uint32_t(code < 0.f ? 0.f : code > BINS ? BINS : code) << (i * BITS);
    }
    words[group * GROUP * BITS / 32 + word] = packed;
  }
  GLOBAL N* scales = (GLOBAL N*)(words + D * BITS / 32);
  scales[group] = N(scale); scales[GROUPS + group] = N(bias);
"""
PACK_THREADS = 128
