"""Rows of several adapters in one batch: milliseconds to load one, and tokens per second beside
rows without any.

python benchmarks/adapters.py [--model smollm2-135m] [--rank 8] [--rounds 5] [--tokens 48]

Adapters are random, of the shape that mlx-lm trains by default: all linear layers of the last 16.
Each round decodes four rows on no adapter, on one and on four, one after the other; what is printed
are medians, and their ratio to no adapter.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import trio

from serving import MODEL, model_path

from semantic_trio.adapters.mlx.device import Device, last_act
from semantic_trio.adapters.mlx.runner import MlxRunner, load_runner
from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.salt import ADAPTER_BYTES, NO_ADAPTER
from semantic_trio.domain.step import Chunk, RowClose, Decode, RowStart, StepPlan

import mlx.core as mx  # isort: skip
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

ROWS, PROMPT, LAYERS = 4, 32, 16


def write_adapters(path: Path, into: Path, rank: int) -> None:
    """Write an adapter for each row. On the device's thread."""
    model, _ = load_model(path, lazy=True)
    parameters = {"rank": rank, "scale": 2.0, "dropout": 0.0}
    linear_to_lora_layers(model, LAYERS, parameters)
    shapes = {
        name: array.shape
        for name, array in cast(
            list[tuple[str, mx.array]], tree_flatten(cast(Any, model).parameters())
        )
    }
    for number in range(ROWS):
        directory = into / str(number)
        directory.mkdir()
        weights = {
            name: 0.01 * mx.random.normal(shape)
            for name, shape in shapes.items()
            if name.endswith(("lora_a", "lora_b"))
        }
        mx.save_safetensors(str(directory / "adapters.safetensors"), weights)
        (directory / "adapter_config.json").write_text(
            json.dumps({"num_layers": LAYERS, "lora_parameters": parameters})
        )


async def tokens_per_second(runner: MlxRunner, adapters: list[bytes], tokens: int) -> float:
    """Decode a row for each adapter."""
    prompt = tuple(range(10, 10 + PROMPT))
    starts = tuple(
        RowStart(row, 0, SamplingParams(), adapter=adapter) for row, adapter in enumerate(adapters)
    )
    await runner.step(
        StepPlan(open=starts, prefill=tuple(Chunk(row, prompt, 0, draws=0) for row in range(ROWS)))
    )
    await runner.step(StepPlan(decode=tuple(Decode(row, 1) for row in range(ROWS))))
    began = time.monotonic()
    for index in range(2, tokens + 2):
        await runner.step(StepPlan(decode=tuple(Decode(row, index) for row in range(ROWS))))
    await runner.step(StepPlan())
    seconds = time.monotonic() - began
    await runner.step(StepPlan(close=tuple(RowClose(row) for row in range(ROWS))))
    return ROWS * tokens / seconds


async def measure(model: str, rank: int, rounds: int, tokens: int) -> None:
    """Print the figures."""
    path, device = model_path(model), Device(last_act)
    async with trio.open_nursery() as nursery:
        await nursery.start(device.run)
        with tempfile.TemporaryDirectory() as directory:
            await device.call(lambda: write_adapters(path, Path(directory), rank))
            runner, _ = await load_runner(device, path)
            digests, loads, size = (
                [bytes([number + 1]) * ADAPTER_BYTES for number in range(ROWS)],
                list[float](),
                0,
            )
            for _ in range(rounds):
                for number, digest in enumerate(digests):
                    await runner.drop_adapter(digest)
                    began = time.monotonic()
                    size = await runner.load_adapter(
                        Path(directory) / str(number), f"adapter {number}", digest
                    )
                    loads.append(time.monotonic() - began)
            print(
                f"loading an adapter of {size / 2**20:.1f} MiB: "
                f"{statistics.median(loads) * 1000:.0f} ms"
            )
            cases = {
                "no adapter": [NO_ADAPTER] * ROWS,
                "one adapter": digests[:1] * ROWS,
                "four adapters": digests,
            }
            found: dict[str, list[float]] = {name: [] for name in cases}
            for _ in range(rounds):
                for name, adapters in cases.items():
                    found[name].append(await tokens_per_second(runner, adapters, tokens))
            for name, speeds in found.items():
                ratios = [
                    speed / bare for speed, bare in zip(speeds, found["no adapter"], strict=True)
                ]
                print(
                    f"{ROWS} rows, {name}: {statistics.median(speeds):.0f} tok/s, "
                    f"{statistics.median(ratios):.2f} of no adapter"
                )
        device.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    trio.run(measure, options.model, options.rank, options.rounds, options.tokens)
