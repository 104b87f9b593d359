"""Cost of a decode step under five layouts of the live KV cache, and of a row that joins or leaves.

Knows mlx-lm's Llama and its caches; weights, keys and values are random. Knows nothing of the server: it measures what the
decision in docs/decisions/0004-live-kv-layout.md rests on, and checks first that the layouts compute the same logits.

  rows    one KVCache per row, everything but attention batched, attention looped over the rows
  pairs   the same with keys and values of a row in one array per layer: one write instead of two
  padded  mlx-lm's BatchKVCache: one left-padded array per layer
  groups  rows of like length share a BatchKVCache, attention looped over the groups
  slots   one preallocated array per layer, rows right-padded in numbered slots, a length mask

    python benchmarks/kv_layout.py --shape smollm2 --json kv_layout.json
"""

import argparse
import ctypes
import gc
import glob
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Protocol, TypedDict, cast

# Without it the Linux CPU build multiplies with reference BLAS, 50 times slower. Must come before mlx.core.
for _library in glob.glob("/usr/lib/*/openblas-pthread/libblas.so.3"):
    ctypes.CDLL(_library, mode=ctypes.RTLD_GLOBAL)
# TF32 would hide in rounding what the float32 comparison of the layouts is there to see.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm.models import llama  # noqa: E402
from mlx_lm.models.cache import BatchKVCache, KVCache  # noqa: E402


class Shape(TypedDict):
    """Arguments of mlx-lm's `ModelArgs`."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rope_theta: float
    tie_word_embeddings: bool


SHAPES = {
    "tiny": Shape(
        num_hidden_layers=3,
        hidden_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=256,
        vocab_size=512,
        rope_theta=1e5,
        tie_word_embeddings=True,
    ),
    "smollm2": Shape(
        num_hidden_layers=30,
        hidden_size=576,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        intermediate_size=1536,
        vocab_size=49152,
        rope_theta=1e5,
        tie_word_embeddings=True,
    ),
    "llama8b": Shape(
        num_hidden_layers=32,
        hidden_size=4096,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=14336,
        vocab_size=128256,
        rope_theta=5e5,
        tie_word_embeddings=False,
    ),
}
MIX = [4000] + [200] * 7
LONG_MIX = [32000] + [2000] * 7  # an agent with a full history beside seven fresh ones; needs the memory of a GPU host
GROWTH_TOKENS = 256  # the step by which mlx-lm's caches grow
SLOT_GROWTH_TOKENS = 1024  # slots are all as long as the longest row: growing copies them all, so it grows rarely
TOLERANCE = 1e-4  # of the range of the logits, in float32
SEED = 11

type_by_name = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
Row = list[KVCache]  # one cache per layer
Record = dict[str, str | float]  # one line of a table


# --- the layouts -------------------------------------------------------------------------------------------------------


class Layout(Protocol):
    """The live rows of a batch. `ids` names them in batch order; `caches()` is called once before every step."""

    @property
    def ids(self) -> list[int]: ...
    def caches(self) -> Sequence[object]: ...
    def join(self, row: Row, name: int) -> None: ...
    def leave(self, name: int) -> None: ...
    def arrays(self) -> list[mx.array]: ...


@dataclass
class PartedCache:
    """One layer of a batch whose rows lie in several caches. Made anew for each step; the parts keep the state."""

    parts: list[KVCache | BatchKVCache]  # of one row or of several, in batch order
    counts: list[int]  # rows per part
    offset: mx.array  # (batch,) int32, shared by all layers: what the rotary embedding reads
    masks: Sequence[mx.array | None]  # per part, shared by all layers

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Sequence[mx.array], Sequence[mx.array]]:
        start, fetched = 0, []
        for part, count in zip(self.parts, self.counts, strict=True):
            fetched.append(part.update_and_fetch(keys[start : start + count], values[start : start + count]))
            start += count
        all_keys, all_values = zip(*fetched, strict=True)
        return all_keys, all_values

    def make_mask(self, n: int, **_: object) -> None:
        assert n == 1, "a live batch decodes one token per row"


def attend(
    queries: mx.array,
    keys: mx.array | Sequence[mx.array],
    values: mx.array | Sequence[mx.array],
    cache: object,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
    *,
    whole: Callable[..., mx.array] = llama.scaled_dot_product_attention,
) -> mx.array:
    """Takes the place of `scaled_dot_product_attention` in the model's module."""
    if not isinstance(cache, PartedCache):
        return whole(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)
    start, outputs = 0, []
    for k, v, count, part_mask in zip(keys, values, cache.counts, cache.masks, strict=True):
        q = queries[start : start + count]
        outputs.append(mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=part_mask, sinks=sinks))
        start += count
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)


llama.scaled_dot_product_attention = attend


class Rows:
    layer_type = PartedCache

    def __init__(self, rows: list[Row], ids: list[int]) -> None:
        self.rows, self.ids = list(rows), list(ids)

    def caches(self) -> list[PartedCache]:
        ones, nones = [1] * len(self.rows), [None] * len(self.rows)
        offset = mx.array([row[0].offset for row in self.rows])
        return [self.layer_type(list(layer), ones, offset, nones) for layer in zip(*self.rows, strict=True)]

    def join(self, row: Row, name: int) -> None:
        self.rows.append(row)
        self.ids.append(name)

    def leave(self, name: int) -> None:
        at = self.ids.index(name)
        del self.rows[at], self.ids[at]

    def arrays(self) -> list[mx.array]:
        return [a for row in self.rows for c in row for a in (c.keys, c.values)]


@dataclass
class Pair:
    """One row's keys and values of one layer."""

    both: mx.array  # (2, heads, capacity, dim); so keys and values must be of one width
    offset: int

    @classmethod
    def of(cls, cache: KVCache) -> "Pair":
        return cls(mx.concatenate([cache.keys, cache.values]), cache.offset)

    def append(self, new: mx.array) -> None:
        """`new`: (2, heads, 1, dim)."""
        if self.offset == self.both.shape[2]:
            self.both = mx.pad(self.both, [(0, 0), (0, 0), (0, GROWTH_TOKENS), (0, 0)])
        self.both[:, :, self.offset : self.offset + 1] = new
        self.offset += 1


@dataclass
class PairedCache(PartedCache):
    """One layer of a batch of `Pair`s."""

    parts: list[Pair]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[list[mx.array], list[mx.array]]:
        for pair, new in zip(self.parts, mx.stack([keys, values], axis=1), strict=True):
            pair.append(new)
        return [p.both[:1, :, : p.offset] for p in self.parts], [p.both[1:, :, : p.offset] for p in self.parts]


class Pairs(Rows):
    """Copies a row that joins; a server would prefill into pairs and copy nothing."""

    layer_type = PairedCache

    def __init__(self, rows: list[Row], ids: list[int]) -> None:
        super().__init__([], [])
        for row, name in zip(rows, ids, strict=True):
            self.join(row, name)

    def join(self, row: Row, name: int) -> None:
        super().join([Pair.of(cache) for cache in row], name)

    def arrays(self) -> list[mx.array]:
        return [pair.both for row in self.rows for pair in row]


class Padded:
    def __init__(self, rows: list[Row], ids: list[int]) -> None:
        self.layers = [BatchKVCache.merge(list(layer)) for layer in zip(*rows, strict=True)]
        self.ids = list(ids)

    def caches(self) -> list[BatchKVCache]:
        return self.layers

    def join(self, row: Row, name: int) -> None:
        for layer, cache in zip(self.layers, row, strict=True):
            layer.extend(BatchKVCache.merge([cache]))
        self.ids.append(name)

    def leave(self, name: int) -> None:
        at = self.ids.index(name)
        del self.ids[at]
        keep = mx.array([i for i in range(len(self.ids) + 1) if i != at])
        for layer in self.layers:
            layer.filter(keep)

    def arrays(self) -> list[mx.array]:
        return [a for c in self.layers for a in (c.keys, c.values, c.offset, c.left_padding)]


class Groups:
    """Membership is decided when a row joins; a row that outgrows its bucket stays where it is."""

    def __init__(self, rows: list[Row], ids: list[int]) -> None:
        members: dict[int, list[tuple[Row, int]]] = {}
        for row, name in zip(rows, ids, strict=True):
            members.setdefault(self.bucket(row), []).append((row, name))
        self.groups = {b: Padded(*map(list, zip(*pairs, strict=True))) for b, pairs in members.items()}
        self._settle()

    @staticmethod
    def bucket(row: Row) -> int:
        tokens: int = row[0].offset
        return (-(-tokens // GROWTH_TOKENS) - 1).bit_length()

    def _settle(self) -> None:
        self.padding = {b: g.layers[0].left_padding.tolist() for b, g in self.groups.items()}

    @property
    def ids(self) -> list[int]:
        return [name for group in self.groups.values() for name in group.ids]

    def caches(self) -> list[PartedCache]:
        counts, masks, lengths = [], [], []
        for bucket, group in self.groups.items():
            first, padding = group.layers[0], self.padding[bucket]
            counts.append(len(padding))
            masks.append(first.make_mask(1) if any(padding) else None)
            lengths.append([first._idx - p for p in padding])
            own = mx.array(lengths[-1])
            for layer in group.layers:
                layer.offset = own  # nobody evaluates its own count: left alone, it would grow a graph without end
        offset = mx.array([n for group in lengths for n in group])
        layers = zip(*(group.layers for group in self.groups.values()), strict=True)
        return [PartedCache(list(layer), counts, offset, masks) for layer in layers]

    def join(self, row: Row, name: int) -> None:
        bucket = self.bucket(row)
        if bucket in self.groups:
            self.groups[bucket].join(row, name)
        else:
            self.groups[bucket] = Padded([row], [name])
        self._settle()

    def leave(self, name: int) -> None:
        bucket = next(b for b, group in self.groups.items() if name in group.ids)
        if len(self.groups[bucket].ids) == 1:
            del self.groups[bucket]
        else:
            self.groups[bucket].leave(name)
        self._settle()

    def arrays(self) -> list[mx.array]:
        return [a for group in self.groups.values() for a in group.arrays()]


@dataclass
class SlotCache:
    """One layer of slots; the first `rows` of them are in use."""

    keys: mx.array  # (slots, heads, capacity, dim)
    values: mx.array
    rows: int = 0
    bound: int = 0  # tokens of the longest row, this step's included: attention reads that far
    offset: mx.array | None = None
    places: mx.array | None = None  # (rows, 1, 1, 1): where each row writes
    mask: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys = self._written(self.keys, keys)
        self.values = self._written(self.values, values)
        return self.keys[: self.rows, :, : self.bound], self.values[: self.rows, :, : self.bound]

    def _written(self, slots: mx.array, new: mx.array) -> mx.array:
        slots[mx.arange(self.rows), :, self.offset] = new[:, :, 0]
        return slots

    def make_mask(self, n: int, **_: object) -> mx.array | None:
        assert n == 1, "a live batch decodes one token per row"
        return self.mask


class Slots:
    """Preallocated for one row more than it starts with; a leaving row's slot is filled by the last row."""

    def __init__(self, rows: list[Row], ids: list[int]) -> None:
        self.ids, self.lengths = list(ids), [row[0].offset for row in rows]
        capacity = self._rounded(max(self.lengths) + 1, SLOT_GROWTH_TOKENS)
        self.layers = []
        for layer in zip(*rows, strict=True):
            _, heads, _, dim = layer[0].keys.shape
            shape = (len(rows) + 1, heads, capacity, dim)
            slots = SlotCache(mx.zeros(shape, layer[0].keys.dtype), mx.zeros(shape, layer[0].values.dtype))
            for at, cache in enumerate(layer):
                self._fill(slots, at, cache)
            mx.eval(slots.keys, slots.values)
            self.layers.append(slots)

    @staticmethod
    def _rounded(tokens: int, unit: int) -> int:
        return -(-tokens // unit) * unit

    @staticmethod
    def _fill(slots: SlotCache, at: int, cache: KVCache) -> None:
        slots.keys[at : at + 1, :, : cache.offset] = cache.keys[..., : cache.offset, :]
        slots.values[at : at + 1, :, : cache.offset] = cache.values[..., : cache.offset, :]

    def caches(self) -> list[SlotCache]:
        self._make_room(max(self.lengths) + 1)
        offset = mx.array(self.lengths)
        bound = max(self.lengths) + 1
        mask = (mx.arange(bound)[None] <= offset[:, None])[:, None, None]
        for layer in self.layers:
            layer.rows, layer.bound, layer.offset, layer.mask = len(self.ids), bound, offset, mask
        self.lengths = [n + 1 for n in self.lengths]
        return self.layers

    def _make_room(self, tokens: int) -> None:
        have = self.layers[0].keys.shape[2]
        if tokens > have:
            pad = [(0, 0), (0, 0), (0, self._rounded(tokens, SLOT_GROWTH_TOKENS) - have), (0, 0)]
            for layer in self.layers:
                layer.keys, layer.values = mx.pad(layer.keys, pad), mx.pad(layer.values, pad)

    def join(self, row: Row, name: int) -> None:
        assert len(self.ids) < self.layers[0].keys.shape[0], "no slot is free"
        self._make_room(row[0].offset + 1)
        for layer, cache in zip(self.layers, row, strict=True):
            self._fill(layer, len(self.ids), cache)
        self.ids.append(name)
        self.lengths.append(row[0].offset)

    def leave(self, name: int) -> None:
        at, last = self.ids.index(name), len(self.ids) - 1
        if at != last:
            n = self.lengths[last]
            for layer in self.layers:
                # A copy first: a slice of the same array would keep it shared, and the write would copy all of it.
                keys, values = mx.contiguous(layer.keys[last, :, :n]), mx.contiguous(layer.values[last, :, :n])
                mx.eval(keys, values)
                layer.keys[at, :, :n], layer.values[at, :, :n] = keys, values
            self.ids[at], self.lengths[at] = self.ids[last], n
        del self.ids[last], self.lengths[last]

    def arrays(self) -> list[mx.array]:
        return [a for c in self.layers for a in (c.keys, c.values)]


MakeLayout = Callable[[list[Row], list[int]], Layout]
LAYOUTS: dict[str, MakeLayout] = {"rows": Rows, "pairs": Pairs, "padded": Padded, "groups": Groups, "slots": Slots}


# --- what is fed to them -----------------------------------------------------------------------------------------------


def model_of(shape: str, dtype: mx.Dtype) -> llama.Model:
    model = llama.Model(llama.ModelArgs(model_type="llama", rms_norm_eps=1e-5, **SHAPES[shape]))
    model.set_dtype(dtype)
    for weight in weights_of(model):  # one by one: the float32 draft of only one weight exists at a time
        mx.eval(weight)
    return model


def weights_of(model: llama.Model) -> list[mx.array]:
    return [weight for _, weight in cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))]


def random_row(shape: str, length: int, dtype: mx.Dtype) -> Row:
    args, row = SHAPES[shape], []
    size = (1, args["num_key_value_heads"], -(-length // GROWTH_TOKENS) * GROWTH_TOKENS, args["head_dim"])
    for _ in range(args["num_hidden_layers"]):
        cache = KVCache()
        cache.keys, cache.values = mx.random.normal(size, dtype), mx.random.normal(size, dtype)
        cache.offset = length
        mx.eval(cache.keys, cache.values)
        row.append(cache)
    return row


def filled(layout: MakeLayout, shape: str, lengths: list[int], dtype: mx.Dtype) -> Layout:
    mx.random.seed(SEED)
    made = layout([random_row(shape, n, dtype) for n in lengths], list(range(len(lengths))))
    mx.eval(made.arrays())
    return made


def decoded(model: llama.Model, layout: Layout, tokens: mx.array) -> mx.array:
    logits = model(tokens[:, None], cache=layout.caches())
    return mx.argmax(logits[:, -1], axis=-1)


def release() -> None:
    gc.collect()
    mx.clear_cache()


# --- measurements ------------------------------------------------------------------------------------------------------


@dataclass
class Samples:
    grow: list[float] = field(default_factory=list)  # seconds of the first step, in which caches of this length grow
    step: list[float] = field(default_factory=list)
    build: list[float] = field(default_factory=list)  # the share of a step spent in Python, before anything is evaluated
    ahead: list[float] = field(default_factory=list)  # seconds per step when the next is enqueued before this one is read
    peak: int = 0  # bytes above the weights


def time_steps(model: llama.Model, layout: Layout, steps: int, weights: int, into: Samples) -> None:
    """One warm-up with its growth, then `steps` steps read one by one, then `steps` with one step of look-ahead."""
    tokens = mx.arange(len(layout.ids))
    mx.reset_peak_memory()
    for count in range(steps + 2):
        start = time.perf_counter()
        tokens = decoded(model, layout, tokens)
        built = time.perf_counter() - start
        mx.eval(tokens)
        tokens.tolist()
        took = time.perf_counter() - start
        if count > 1:
            into.step.append(took)
            into.build.append(built)
        elif count == 0:
            into.grow.append(took)
    start = time.perf_counter()
    for _ in range(steps):
        following = decoded(model, layout, tokens)
        mx.async_eval(following)
        tokens.tolist()
        tokens = following
    mx.eval(tokens)
    into.ahead.append((time.perf_counter() - start) / steps)
    into.peak = max(into.peak, mx.get_peak_memory() - weights)


def time_cases(model: llama.Model, shape: str, dtype: mx.Dtype, cases: dict[str, list[int]], steps: int, rounds: int) -> list[Record]:
    """Layouts take turns within each round, so that a busy moment of the machine hits them all."""
    weights = sum(weight.nbytes for weight in weights_of(model))
    results: list[Record] = []
    for case, lengths in cases.items():
        samples = {name: Samples() for name in LAYOUTS}
        for _ in range(rounds):
            for name, layout in LAYOUTS.items():
                time_steps(model, filled(layout, shape, lengths, dtype), steps, weights, samples[name])
                release()
        for name, s in samples.items():
            median = statistics.median(s.step)
            results.append(
                dict(
                    case=case,
                    layout=name,
                    rows=len(lengths),
                    step_ms=1e3 * median,
                    tokens_per_s=len(lengths) / median,
                    build_ms=1e3 * statistics.median(s.build),
                    ahead_ms=1e3 * statistics.median(s.ahead),
                    grow_ms=1e3 * statistics.median(s.grow),
                    peak_mb=s.peak / 1e6,
                )
            )
            print(json.dumps(results[-1]), flush=True)
    return results


def timed_change(layout: Layout, change: Callable[[], None]) -> tuple[float, float]:
    """Seconds until the change is in memory, and the bytes it needed for the while beyond what was there."""
    mx.reset_peak_memory()
    before, start = mx.get_active_memory(), time.perf_counter()
    change()
    mx.eval(layout.arrays())
    mx.synchronize()
    took = time.perf_counter() - start
    return took, max(0, mx.get_peak_memory() - before)  # the peak moves on allocation only: it stays low without one


def time_changes(model: llama.Model, shape: str, dtype: mx.Dtype, cases: dict[str, tuple[list[int], int]], rounds: int) -> list[Record]:
    """A row joins, another leaves, a third joins in the memory that is free by then; a step after each."""
    results = []
    for case, (lengths, joiner) in cases.items():
        samples: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in LAYOUTS}
        for _ in range(rounds):
            for name, kind in LAYOUTS.items():
                layout = filled(kind, shape, lengths, dtype)
                for _ in range(2):
                    step(model, layout)
                samples[name].append(
                    [
                        timed_join(model, layout, random_row(shape, joiner, dtype), 100),
                        timed_leave(model, layout, 1),
                        timed_join(model, layout, random_row(shape, joiner, dtype), 101),
                    ]
                )
                del layout
                release()
        for name, taken in samples.items():
            record: Record = dict(case=case, layout=name)
            for what, changes in zip(("join", "leave", "rejoin"), zip(*taken, strict=True), strict=True):
                record[f"{what}_ms"] = 1e3 * statistics.median(seconds for seconds, _ in changes)
                record[f"{what}_mb"] = max(extra for _, extra in changes) / 1e6
            results.append(record)
            print(json.dumps(results[-1]), flush=True)
    return results


def step(model: llama.Model, layout: Layout) -> None:
    mx.eval(decoded(model, layout, mx.arange(len(layout.ids))))


def timed_join(model: llama.Model, layout: Layout, row: Row, name: int) -> tuple[float, float]:
    change = timed_change(layout, lambda: layout.join(row, name))
    step(model, layout)
    return change


def timed_leave(model: llama.Model, layout: Layout, name: int) -> tuple[float, float]:
    change = timed_change(layout, lambda: layout.leave(name))
    step(model, layout)
    return change


def forced_logits(model: llama.Model, kind: MakeLayout, damage: Callable[[list[Row]], None] | None = None) -> dict[int, list[mx.array]]:
    """Logits by row over forced tokens, with a row that joins and two that leave on the way."""
    mx.random.seed(SEED)
    rows = [random_row("tiny", n, mx.float32) for n in (700, 40, 300, 513, 256)]
    if damage:
        damage(rows)
    layout = kind(rows, list(range(5)))
    seen: dict[int, list[mx.array]] = {}
    for step in range(12):
        if step == 3:
            layout.join(random_row("tiny", 290, mx.float32), 5)
        if step == 5:
            layout.leave(0)
        if step == 8:
            layout.leave(3)
        tokens = mx.array([(31 * name + 7 * step) % 512 for name in layout.ids])
        logits = model(tokens[:, None], cache=layout.caches())[:, -1]
        mx.eval(logits)
        for name, row in zip(layout.ids, logits, strict=True):
            seen.setdefault(name, []).append(row)
    return seen


def furthest(one: dict[int, list[mx.array]], other: dict[int, list[mx.array]]) -> float:
    """The greatest difference, as a share of the range of the logits."""
    assert one.keys() == other.keys()
    pairs = [(mx.stack(one[n]), mx.stack(other[n])) for n in one]
    return max(float(mx.abs(a - b).max() / (a.max() - a.min())) for a, b in pairs)


def check_exactness() -> dict[str, float]:
    """Every layout against `rows`; then a row with one lost block of 256, which the comparison must see."""
    mx.random.seed(SEED)
    model = model_of("tiny", mx.float32)
    truth = forced_logits(model, Rows)
    differences = {name: furthest(truth, forced_logits(model, kind)) for name, kind in LAYOUTS.items()}

    def lose_a_block(rows: list[Row]) -> None:
        for cache in rows[3]:
            cache.keys[..., :256, :], cache.values[..., :256, :] = 0, 0

    differences["a lost block"] = furthest(truth, forced_logits(model, Rows, lose_a_block))
    return differences


def time_bare(call: Callable[[], mx.array], calls: int = 20) -> float:
    """Microseconds per call, the calls of one evaluation independent of each other; median of five evaluations."""
    mx.eval([call() for _ in range(3)])
    mx.synchronize()
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        mx.eval([call() for _ in range(calls)])
        mx.synchronize()
        taken.append((time.perf_counter() - start) / calls)
    return 1e6 * statistics.median(taken)


def time_projection(weight: mx.array, batch: int) -> float:
    x = mx.random.normal((batch, 1, weight.shape[1]), weight.dtype)
    mx.eval(x)
    return time_bare(lambda: x @ weight.T)


def time_attention(shape: str, dtype: mx.Dtype, batch: int, length: int) -> dict[str, float]:
    a, sdpa = SHAPES[shape], mx.fast.scaled_dot_product_attention
    q = mx.random.normal((batch, a["num_attention_heads"], 1, a["head_dim"]), dtype)
    size = (batch, a["num_key_value_heads"], length + GROWTH_TOKENS, a["head_dim"])
    k, v = (mx.random.normal(size, dtype)[:, :, :length] for _ in range(2))
    mask, bias = mx.ones((batch, 1, 1, length), mx.bool_), mx.zeros((batch, 1, 1, length), dtype)
    mx.eval(q, k, v, mask, bias)

    def by_row() -> mx.array:
        return mx.concatenate([sdpa(q[i : i + 1], k[i : i + 1], v[i : i + 1], scale=1.0) for i in range(batch)])

    return {
        "sdpa": time_bare(lambda: sdpa(q, k, v, scale=1.0)),
        "sdpa masked": time_bare(lambda: sdpa(q, k, v, scale=1.0, mask=mask)),
        "sdpa biased": time_bare(lambda: sdpa(q, k, v, scale=1.0, mask=bias)),
        "sdpa by row": time_bare(by_row),
    }


def time_operations(shape: str, dtype: mx.Dtype, length: int) -> list[Record]:
    """Where the time of a step goes as the batch widens, in microseconds: the bare projections and the bare attention."""
    a, results = SHAPES[shape], []
    hidden, between = a["hidden_size"], a["intermediate_size"]
    outputs = {"q_proj": (hidden, hidden), "gate_proj": (between, hidden), "down_proj": (hidden, between), "lm_head": (a["vocab_size"], hidden)}
    weights = {name: mx.random.normal(size, dtype) for name, size in outputs.items()}
    mx.eval(weights)
    for batch in (1, 2, 4, 6, 7, 8, 9, 10, 12, 15, 16, 17, 20, 24, 31, 32, 64):
        timing: Record = {"batch": batch}
        timing |= {name: time_projection(weight, batch) for name, weight in weights.items()}
        if batch <= 32:
            timing |= time_attention(shape, dtype, batch, length)
        results.append(timing)
    return results


# --- report ------------------------------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    device = mx.device_info() if mx.default_device() == mx.Device(mx.gpu) else {}
    return {
        "platform": platform.platform(),
        "cpu": names[0] if names else platform.processor(),
        "cores": str(os.cpu_count()),
        "device": f"{mx.default_device()} {device.get('device_name', '')}".strip(),
        "python": platform.python_version(),
        "mlx": version("mlx"),
        "mlx-lm": version("mlx-lm"),
    }


def _lines(path: str) -> list[str]:
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return file.readlines()


def table(records: list[Record]) -> str:
    def shown(value: object) -> str:
        return f"{value:,.1f}" if isinstance(value, float) else str(value)

    heads = list(records[0])
    lines = [heads, ["---"] * len(heads)] + [[shown(r.get(h, "")) for h in heads] for r in records]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--dtype", choices=type_by_name, default="float32")
    parser.add_argument("--steps", type=int, default=5, help="measured steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, help="tokens per row at equal lengths (512 on a CPU, 2048 on a GPU)")
    parser.add_argument("--operations", action="store_true", help="also time the bare projections and attention")
    parser.add_argument("--json", help="write everything there")
    options = parser.parse_args()
    dtype = type_by_name[options.dtype]
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    length = options.length or (2048 if on_gpu else 512)

    report: dict[str, object] = {"machine": machine(), "options": vars(options)}
    print(json.dumps(report["machine"], indent=1))
    exactness = report["exactness"] = check_exactness()
    print("difference from `rows`, of the logit range:", exactness, flush=True)
    mx.random.seed(SEED)
    if options.operations:
        operations = report["operations"] = time_operations(options.shape, dtype, length)
        print(table(operations), flush=True)
        release()
    model = model_of(options.shape, dtype)
    cases = {f"{n} x {length}": [length] * n for n in (1, 4, 8, 16)}
    cases[f"8 of {length - 7 * length // 16}-{length}"] = [length - i * length // 16 for i in range(8)]
    cases["1 x 4000 + 7 x 200"] = MIX
    changes = {"4 x 4096": ([4096] * 4, 4096), "1 x 4000 + 7 x 200": (MIX, 200)}
    if on_gpu:
        cases["1 x 32000 + 7 x 2000"] = LONG_MIX
        changes["1 x 32000 + 7 x 2000"] = (LONG_MIX, 2000)
    steps = report["steps"] = time_cases(model, options.shape, dtype, cases, options.steps, options.rounds)
    changed = report["changes"] = time_changes(model, options.shape, dtype, changes, options.rounds)
    print(table(steps), table(changed), sep="\n\n")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)
    for name, difference in exactness.items():
        assert (difference <= TOLERANCE) == (name != "a lost block"), (name, difference)


if __name__ == "__main__":
    main()
