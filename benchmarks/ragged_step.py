"""Cost of one step as the server computes it: decoding rows, a piece of a prompt, and both in one
pass.

python benchmarks/ragged_step.py --shape smollm2|llama8b|tiny [--dtype bfloat16] [--rows 1 4 8]
[--chunk 64] [--context 512]

Random weights, the server's own `DeviceRows`. The separate figure is the sum of two passes, one for
the decoding rows and one for the chunk: what a server pays that alternates. Look-ahead is measured
as the server uses it: one plan after the other, results a step late.
"""

import argparse
import statistics
import time
from typing import cast

from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.runner import DeviceRows
from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.step import Chunk, RowClose, Decode, RowStart, StepPlan

import mlx.core as mx  # isort: skip - after the BLAS
import mlx.nn as nn
from mlx_lm.models.llama import Model, ModelArgs

SHAPES = {
    "tiny": (64, 4, 96, 4, 2, 300),
    "smollm2": (576, 30, 1536, 9, 3, 49152),
    "llama8b": (4096, 32, 14336, 32, 8, 128256),
}
GREEDY = SamplingParams()


def build(shape: str, dtype: str) -> nn.Module:
    hidden, layers, intermediate, heads, kv_heads, vocabulary = SHAPES[shape]
    arguments = ModelArgs(
        model_type="llama",
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=1e-5,
        vocab_size=vocabulary,
        rope_theta=1e5,
    )
    model: nn.Module = Model(arguments)
    model.set_dtype(getattr(mx, dtype))
    compute(model)
    return model


def compute(model: nn.Module) -> None:
    """Draw the weights, one after the other: random float32 weights are large."""
    for _, parameter in sorted(
        cast(list[tuple[str, mx.array]], nn.utils.tree_flatten(model.parameters()))
    ):
        mx.eval(parameter)


class Bench:
    def __init__(self, batch: DeviceRows) -> None:
        self.batch, self.next_row = batch, 0

    def open_row(self, context: int, vocabulary: int) -> int:
        row, self.next_row = self.next_row, self.next_row + 1
        tokens = tuple((7 * i + row) % vocabulary for i in range(context))
        for at in range(0, context, 512):
            piece = tokens[at : at + 512]
            opened = (RowStart(row, 0, GREEDY),) if at == 0 else ()
            self.batch.step(
                StepPlan(
                    open=opened,
                    prefill=(Chunk(row, piece, at, 0 if at + 512 >= context else None),),
                )
            )
        self.batch.step(StepPlan())
        return row

    def seconds(self, plan: StepPlan) -> float:
        """Seconds of one step, from an idle device to its results."""
        begun = time.perf_counter()
        self.batch.step(plan)
        self.batch.step(StepPlan())
        return time.perf_counter() - begun

    def train(self, plans: list[StepPlan]) -> float:
        """Seconds a step takes among others of its kind, results a step late as in the server."""
        begun = time.perf_counter()
        for plan in plans:
            self.batch.step(plan)
        self.batch.step(StepPlan())
        return (time.perf_counter() - begun) / len(plans)


def measure(
    batch: DeviceRows, rows: int, context: int, chunk: int, vocabulary: int, count: int
) -> dict[str, float]:
    bench = Bench(batch)
    decoding = [bench.open_row(context, vocabulary) for _ in range(rows)]
    reading = bench.open_row(context, vocabulary)
    index = iter(range(1, 10**6))
    piece = tuple((5 * i) % vocabulary for i in range(chunk))
    at = iter(range(context, 10**9, chunk))

    def decode() -> tuple[Decode, ...]:
        drawn = next(index)
        return tuple(Decode(row, drawn) for row in decoding)

    def prefill() -> tuple[Chunk, ...]:
        return (Chunk(reading, piece, next(at), None),)

    rounds = []
    for _ in range(count):  # in turns, so that no kind has the longer context or the noisier minute
        plans = (
            StepPlan(decode=decode()),
            StepPlan(prefill=prefill()),
            StepPlan(decode=decode(), prefill=prefill()),
        )
        rounds.append([bench.seconds(plan) for plan in plans])
    medians = [statistics.median(times) for times in zip(*rounds[1:], strict=True)]
    result = dict(zip(("decode", "chunk", "both"), medians, strict=True))
    result["train"] = bench.train([StepPlan(decode=decode()) for _ in range(count)])
    batch.step(StepPlan(close=tuple(map(RowClose, (*decoding, reading)))))
    batch.reset()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    layout = choose_layout(build(arguments.shape, arguments.dtype))
    print(
        f"{mx.default_device()}, {arguments.shape} in {arguments.dtype}, {type(layout).__name__}, "
        f"context {arguments.context}"
    )
    vocabulary = SHAPES[arguments.shape][-1]
    for look_ahead in (True, False):
        batch = DeviceRows(layout, look_ahead=look_ahead)
        for rows in arguments.rows:
            m = measure(
                batch, rows, arguments.context, arguments.chunk, vocabulary, arguments.steps
            )
            separate = m["decode"] + m["chunk"]
            print(
                f"  look-ahead {'on ' if look_ahead else 'off'} {rows:2} rows: decode "
                f"{m['decode'] * 1e3:6.1f}, chunk {m['chunk'] * 1e3:6.1f}, "
                f"both {m['both'] * 1e3:6.1f} ms = {m['both'] / separate:.2f} of separate; "
                f"{rows / m['train']:6.0f} tokens/s decoding"
            )


if __name__ == "__main__":
    main()
