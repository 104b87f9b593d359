"""Time to write a row's memory to disk and to bring it back, beside computing it again: random
weights of a published model's shape.

python benchmarks/disk_device.py [--shape llama8b|gemma12b|smollm2|tiny] [--dtype bfloat16]
[--tokens 2048 4096 8192 16384] [--rounds 3]
                                 [--directory D]

The server's own batch, files and formats, with as many files read at a time as the server reads.
Prefill is in pieces of 2,048 tokens, the largest the server makes. Save is from the device to
fsync, file after file; load is from the disk (cold: the file system was told to forget the files)
or from its cache (warm) to the device, checksums included, until that is idle. Every time is from
an idle device; the median of the rounds.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ragged_step import GREEDY, build, compute

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.runner import DeviceRows
from semantic_trio.application.reading import READERS
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.step import Chunk, RowClose, RowStart, SaveBlock, SaveSnapshot, StepPlan

import mlx.core as mx  # isort: skip - after the BLAS
import mlx.nn as nn  # isort: skip
from mlx_lm.models import gemma3_text  # isort: skip

BLOCK, PIECE = 256, 2048
GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 3840,
    "num_hidden_layers": 48,
    "intermediate_size": 15360,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "vocab_size": 262208,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "rms_norm_eps": 1e-6,
}


def model_of(shape: str, dtype: str) -> nn.Module:
    if shape != "gemma12b":
        return build(shape, dtype)
    model: nn.Module = gemma3_text.Model(gemma3_text.ModelArgs.from_dict(GEMMA))
    model.set_dtype(getattr(mx, dtype))
    compute(model)
    return model


def timed(act: Callable[[], object]) -> float:
    mx.synchronize()
    begun = time.perf_counter()
    act()
    mx.synchronize()
    return time.perf_counter() - begun


class Bench:
    def __init__(self, model: nn.Module, directory: Path) -> None:
        self.batch = DeviceRows(choose_layout(model))
        self.spec = measure_spec(model, "0" * 64)
        self.files = ModelFiles(directory, self.spec.fingerprint, "bench")
        self.files.index()
        self.number = 0

    def prefill(self, tokens: int) -> None:
        self.number += 1
        for at in range(0, tokens, PIECE):
            piece = tuple((7 * i + self.number) % 250 for i in range(at, min(at + PIECE, tokens)))
            opened = (RowStart(self.number, 0, GREEDY),) if at == 0 else ()
            draws = 0 if at + len(piece) == tokens else None
            self.batch.step(StepPlan(open=opened, prefill=(Chunk(self.number, piece, at, draws),)))
        self.batch.step(StepPlan())

    def close(self, tokens: int) -> list[Item]:
        blocks = tuple(
            SaveBlock(bytes([*at.to_bytes(8, "little"), *b"x" * 24]), self.number, at, at + BLOCK)
            for at in range(0, tokens, BLOCK)
        )
        snapshot = (
            SaveSnapshot(b"m" * 32, self.number, tokens) if self.spec.needs_snapshots else None
        )
        self.batch.step(StepPlan(close=(RowClose(self.number, blocks, snapshot),)))
        return [
            *(Item(Kind.BLOCK, block.key) for block in blocks),
            *([Item(Kind.SNAPSHOT, snapshot.key)] if snapshot else []),
        ]

    def save(self, items: list[Item]) -> None:
        for item in items:
            self.files.write(item, self.batch.store.export([item])[item])

    def load(self, items: list[Item]) -> None:
        with ThreadPoolExecutor(READERS) as readers:
            for item, content in zip(items, readers.map(self.files.read, items), strict=True):
                self.batch.load({item: content})

    def forget(self, items: list[Item]) -> None:
        self.batch.store.drop(
            [item.key for item in items if item.kind is Kind.BLOCK],
            [item.key for item in items if item.kind is Kind.SNAPSHOT],
        )

    def evict_from_page_cache(self) -> None:
        for file in self.files.root.rglob("*.safetensors"):
            with file.open("rb") as content:
                os.fsync(content.fileno())
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def round(self, tokens: int) -> dict[str, float]:
        found = {"prefill": timed(lambda: self.prefill(tokens))}
        items = self.close(tokens)
        found["save"] = timed(lambda: self.save(items))
        for kind in ("cold", "warm"):
            self.forget(items)
            if kind == "cold":
                self.evict_from_page_cache()
            found[f"load {kind}"] = timed(lambda: self.load(items))
        self.forget(items)
        for item in items:
            self.files.remove(item)
        mx.clear_cache()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", choices=["llama8b", "gemma12b", "smollm2", "tiny"], default="smollm2"
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        bench = Bench(model_of(arguments.shape, arguments.dtype), Path(directory))
        print(
            (
                f"{mx.default_device()}, {arguments.shape} in {arguments.dtype}, "
                f"{bench.spec.block_bytes() / 2**20:.1f} MiB a block"
            ),
            end="",
        )
        print(f", {bench.spec.snapshot_bytes(4096) / 2**20:.1f} MiB a snapshot, {READERS} readers")
        bench.round(min(arguments.tokens))  # kernels are compiled, buffers found
        for tokens in arguments.tokens:
            rounds = [bench.round(tokens) for _ in range(arguments.rounds)]
            seconds = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
            size = bench.spec.context_bytes(tokens)
            rates = ", ".join(
                f"{name} {took * 1e3:.0f} ms ({size / took / 1e9:.2f} GB/s)"
                for name, took in seconds.items()
                if name != "prefill"
            )
            computed = (
                f"prefill {seconds['prefill'] * 1e3:.0f} ms ({tokens / seconds['prefill']:.0f} "
                "tokens/s)"
            )
            gains = [
                f"{seconds['prefill'] / seconds[f'load {kind}']:.2f} {kind}"
                for kind in ("cold", "warm")
            ]
            print(
                (
                    f"  {tokens:6} tokens, {size / 2**20:.0f} MiB: {computed}, {rates}; computing "
                    f"/ loading {', '.join(gains)}"
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
