"""Memory of one agent at the real shape of Gemma 3 12B, allocated in pages and counted by MLX,
beside what is computed.

No weights are needed.

python benchmarks/agent_bytes.py [--tokens 8192] [--bits 16 8 4]

The pools are those that the server makes for that shape: 8 heads of 256 in 48 layers, every sixth
of which keeps all positions and the others the last 1,024. A row of so many tokens gets its pages
as it does while a prompt is read, 512 tokens at a time. Held is what MLX counts for the pools when
the row is there, free pages included, and in use the part of it that is the row's when the prompt
is read.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from semantic_trio.adapters.mlx import blas  # noqa: F401 - before MLX
from semantic_trio.adapters.mlx.pages import LayerShape, PagePool
from semantic_trio.adapters.mlx.passes import PagedRow, PageTable
from semantic_trio.adapters.mlx.quantised import PLAIN, Formats, Quantised
from semantic_trio.domain.families import published_spec
from semantic_trio.domain.quantisation import AS_COMPUTED

import mlx.core as mx  # isort: skip

CONFIG = Path(__file__).parents[1] / "tests" / "unit" / "configs" / "gemma-3-12b.json"
HEADS, SIZE, LAYERS, PATTERN, WINDOW, CHUNK = 8, 256, 48, 6, 1024, 512
MIB = 2**20


def pools(bits: int) -> list[PagePool]:
    """The pools of the layers that keep every position, and of those with a window."""
    form = None if bits == AS_COMPUTED else Quantised(SIZE, bits, mx.bfloat16)
    formats, width, dtype = (
        (Formats(form, form), form.words, mx.uint32) if form else (PLAIN, SIZE, mx.bfloat16)
    )
    everything = LAYERS // PATTERN
    return [
        PagePool([LayerShape(HEADS, width, width, dtype, window, formats)] * layers)
        for layers, window in ((everything, None), (LAYERS - everything, WINDOW))
    ]


def measure(bits: int, tokens: int) -> Sequence[float]:
    """MiB computed, in use and held."""
    spec = published_spec(json.loads(CONFIG.read_text()), "", kv_bits=bits)
    assert spec is not None
    before = mx.get_active_memory()
    row = PagedRow([PageTable(pool) for pool in pools(bits)])
    for start in range(0, tokens, CHUNK):
        row.extend(min(CHUNK, tokens - start))
        mx.eval([table.pool.layers.arrays for table in row.tables])
    mx.clear_cache()
    held = mx.get_active_memory() - before
    kept = [table.shared(tokens) for table in row.tables]  # what stays when the prompt is read
    in_use = sum(len(table.pages) * table.pool.page_bytes for table in kept)
    return spec.context_bytes(tokens) / MIB, in_use / MIB, held / MIB


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 8, 4])
    arguments = parser.parse_args()
    print(
        f"one agent of {arguments.tokens:,} tokens, MiB\n{'bits':>6}{'computed':>10}{'in use':>10}"
        f"{'held':>10}"
    )
    for bits in arguments.bits:
        print(
            f"{bits:6}" + "".join(f"{mib:10.1f}" for mib in measure(bits, arguments.tokens)),
            flush=True,
        )
        mx.clear_cache()


if __name__ == "__main__":
    main()
