"""Cost on the device of keeping what a row has read, and of beginning another row with it: seconds,
and bytes beside what is moved.

python benchmarks/memory_device.py --shape smollm2|llama8b|tiny [--dtype bfloat16] [--model
DIRECTORY] [--context 8192] [--rounds 5]

Random weights of a shape, or a model directory as the server loads it; the server's own
`DeviceRows`. The row is made of one block that is repeated: what is in it costs nothing. Times are
from an idle device until it is idle again; memory that is touched for the first time can take
several times as long, hence the best beside the median. Peaks are bytes of MLX's above those in use
before.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from ragged_step import GREEDY, SHAPES, build

from semantic_trio.adapters.mlx import snapshot
from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.runner import DeviceRows
from semantic_trio.domain.step import (
    Chunk,
    RowClose,
    Decode,
    Piece,
    Restore,
    RowStart,
    SaveBlock,
    StepPlan,
)

import mlx.core as mx  # isort: skip - after the BLAS

BLOCK = 256
LIVE, OTHER = 1, 2
Figures = dict[str, tuple[float, int]]  # seconds and peak bytes


def timed(act: Callable[[], object]) -> tuple[float, int]:
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    begun = time.perf_counter()
    act()
    mx.synchronize()
    return time.perf_counter() - begun, mx.get_peak_memory() - before


class Bench:
    def __init__(self, batch: DeviceRows, context: int) -> None:
        self.batch, self.context = batch, context
        self.spans = [(at, min(at + BLOCK, context)) for at in range(0, context, BLOCK)]
        self.index = 0
        self.step(
            StepPlan(open=(RowStart(0, 0, GREEDY),), prefill=(Chunk(0, tuple(range(BLOCK)), 0),))
        )
        self.step(StepPlan(close=(RowClose(0, (SaveBlock(b"seed", 0, 0, BLOCK),)),)))

    def step(self, plan: StepPlan) -> None:
        self.batch.step(plan)
        self.batch.step(StepPlan())

    def open(self, row: int, pieces: tuple[Piece, ...]) -> None:
        self.batch.step(
            StepPlan(open=(RowStart(row, 0, GREEDY, restore=Restore(self.context, pieces)),))
        )

    def begin_decoding(self) -> None:
        self.step(StepPlan(prefill=(Chunk(LIVE, (1,), self.context, 0),)))
        self.index = 0

    def decode(self, steps: int, beside: Callable[[], object] = lambda: None) -> None:
        """Steps as the server takes them, their results one step late, and something done between
        them.
        """
        for _ in range(steps):
            self.index += 1
            self.batch.step(StepPlan(decode=(Decode(LIVE, self.index),)))
            beside()
        self.batch.step(StepPlan())

    def capture(self) -> None:
        layers = snapshot.global_layers(self.batch._rows[LIVE].caches)
        mx.async_eval(snapshot.arrays_in([snapshot.cut(cache, 0, BLOCK) for cache in layers]))

    def round(self) -> Figures:
        repeated = tuple(Piece(start, stop, b"seed") for start, stop in self.spans)
        stored = tuple(
            Piece(start, stop, f"{start}".encode(), is_last_use=True) for start, stop in self.spans
        )
        blocks = tuple(
            SaveBlock(f"{start}".encode(), LIVE, start, stop) for start, stop in self.spans
        )
        found: Figures = {"gather from blocks": timed(lambda: self.open(LIVE, repeated))}
        self.begin_decoding()
        found["gather from a live row"] = timed(
            lambda: self.open(OTHER, (Piece(0, self.context, row=LIVE),))
        )
        self.step(StepPlan(close=(RowClose(OTHER),)))
        self.decode(2)
        found["8 decode steps"] = timed(lambda: self.decode(8))
        found["8 with one block saved in each"] = timed(lambda: self.decode(8, self.capture))
        found["save one block of a live row"] = timed(self.capture)
        found["close into blocks"] = timed(
            lambda: self.batch.step(StepPlan(close=(RowClose(LIVE, blocks),)))
        )
        found["gather blocks for the last time"] = timed(lambda: self.open(LIVE, stored))
        self.step(StepPlan(close=(RowClose(LIVE),)))
        return found


def report(rounds: list[Figures], row_bytes: int) -> None:
    print(f"{'':38}{'median ms':>10}{'best ms':>10}{'peak MiB':>10}{'of a row':>10}")
    for name in rounds[0]:
        times = [figures[name][0] * 1e3 for figures in rounds]
        peak = max(figures[name][1] for figures in rounds)
        print(
            f"{name:38}{statistics.median(times):10.2f}{min(times):10.2f}{peak / 2**20:10.1f}"
            f"{peak / row_bytes:10.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.model:
        from semantic_trio.adapters.mlx.loading import load

        model = load(arguments.model).model
    else:
        model = build(arguments.shape, arguments.dtype)
    bench = Bench(DeviceRows(choose_layout(model)), arguments.context)
    bench.round()  # kernels are compiled, buffers found
    rounds = [bench.round() for _ in range(arguments.rounds)]
    row_bytes = measure_spec(model, "bench").block_bytes() * arguments.context // BLOCK
    what = arguments.model.name if arguments.model else f"{arguments.shape} in {arguments.dtype}"
    print(
        f"{mx.default_device()}, {what}, a row of {arguments.context} tokens: "
        f"{row_bytes / 2**20:.0f} MiB"
    )
    report(rounds, row_bytes)


if __name__ == "__main__":
    main()
