"""Latent attention in pages and decoding together, side by side in one run: memory of agents with
one prompt, the time in which they join, steps of decoding rows, and the reading of a prompt.

python benchmarks/latent_pages.py [--context 4096] [--rows 1 8 10] [--shape small|flash]
[--dtype float32] [--rounds 9]

Random weights of `deepseek_v3`, dense: small, with 50 million parameters, or with the attention of
GLM 4.7 Flash (20 heads, latents of 512 and rotary parts of 64) in 16 layers. A row reads the
prompt, closes and leaves its blocks; then rows join that begin with these and read one token of
their own. Memory is what MLX counts beside the weights, once all rows have joined: pages include
the free ones of their pools. Steps of the two layouts take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from decoding_rows import build
from semantic_trio.adapters.mlx.decoding import DecodingLayout
from semantic_trio.adapters.mlx.kv import Layout
from semantic_trio.adapters.mlx.paged import PagedLayout
from semantic_trio.adapters.mlx.runner import DeviceRows
from semantic_trio.domain.geometry import BLOCK_TOKENS
from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.step import (
    Chunk,
    Decode,
    Piece,
    Restore,
    RowClose,
    RowStart,
    SaveBlock,
    StepPlan,
)

import mlx.core as mx  # isort: skip - after the BLAS
from mlx.nn.layers.base import Module

MIB = 2**20
SHAPES: Mapping[str, Mapping[str, object]] = {
    "small": {},
    "flash": {
        "hidden_size": 2048, "num_hidden_layers": 16, "first_k_dense_replace": 16,
        "intermediate_size": 6144, "num_attention_heads": 20, "num_key_value_heads": 20,
        "q_lora_rank": 768, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 192,
        "v_head_dim": 256, "max_position_embeddings": 65536,
    },
}  # fmt: skip


@attrs.define(eq=False)
class Agents:
    """Rows of one layout that have one prompt in common."""

    batch: DeviceRows
    held: int = 0  # bytes beside the weights, once all have joined
    prompt_seconds: float = 0.0
    join_seconds: float = 0.0
    _drawn: int = attrs.field(init=False, default=1)

    @classmethod
    def joined(
        cls, kind: Callable[[Module], Layout], model: Module, rows: int, context: int
    ) -> "Agents":
        """Have a row read a prompt, and so many others begin with it."""
        before = mx.get_active_memory()
        agents = cls(DeviceRows(kind(model), look_ahead=False))
        # what is compiled and planned once is no part of the figures
        agents._read(context)
        agents._step(StepPlan(close=(RowClose(0),)))
        began = time.perf_counter()
        agents._read(context)
        agents.prompt_seconds = time.perf_counter() - began
        blocks = tuple(
            SaveBlock(f"{at}".encode(), 0, at, at + BLOCK_TOKENS)
            for at in range(0, context, BLOCK_TOKENS)
        )
        agents._step(StepPlan(close=(RowClose(0, blocks),)))
        pieces = tuple(Piece(block.start, block.stop, block.key) for block in blocks)
        joins = []
        for row in range(rows):
            began = time.perf_counter()
            agents._step(
                StepPlan(
                    open=(RowStart(row, 0, SamplingParams(), restore=Restore(context, pieces)),),
                    prefill=(Chunk(row, (row + 1,), context, 0),),
                )
            )
            joins.append(time.perf_counter() - began)
        agents.join_seconds = statistics.median(joins)
        mx.clear_cache()
        agents.held = mx.get_active_memory() - before
        return agents

    def step(self, rows: int) -> float:
        """Seconds of a step of the first so many rows."""
        began = time.perf_counter()
        self._step(StepPlan(decode=tuple(Decode(row, self._drawn) for row in range(rows))))
        self._drawn += 1
        return time.perf_counter() - began

    def _read(self, context: int) -> None:
        size = self.batch.layout.sizes.prompt_tokens
        for start in range(0, context, size):
            tokens = tuple(at % 30000 for at in range(start, min(start + size, context)))
            opened = (RowStart(0, 0, SamplingParams()),) if not start else ()
            self._step(StepPlan(open=opened, prefill=(Chunk(0, tokens, start),)))

    def _step(self, plan: StepPlan) -> None:
        self.batch.step(plan)
        mx.synchronize()


def said(agents: Agents, counts: Sequence[int], steps: Sequence[float]) -> str:
    """The figures of a layout."""
    times = ", ".join(
        f"{count} rows {seconds * 1000:.1f} ms"
        for count, seconds in zip(counts, steps, strict=True)
    )
    return (
        f"{agents.batch.layout.name}: {max(counts)} agents hold {agents.held / MIB:.1f} MiB, the "
        f"prompt is read in {agents.prompt_seconds:.3f} s, one joins in "
        f"{agents.join_seconds * 1000:.1f} ms; a step of {times} ({steps[-1] / steps[0]:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 10])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    model, _ = build("deepseek_v3", arguments.dtype, SHAPES[arguments.shape])
    agents = [
        Agents.joined(kind, model, max(arguments.rows), arguments.context)
        for kind in (DecodingLayout, PagedLayout)
    ]
    rounds = [
        [[one.step(count) for count in arguments.rows] for one in agents]
        for _ in range(arguments.rounds + 2)
    ][2:]
    for at, one in enumerate(agents):
        steps = [statistics.median(times) for times in zip(*(r[at] for r in rounds), strict=True)]
        print(said(one, arguments.rows, steps), flush=True)


if __name__ == "__main__":
    main()
