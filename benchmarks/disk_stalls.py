"""Cost of the disk tier for requests that are served meanwhile: the event loop's gaps, and the
tokens of streams that decode.

python benchmarks/disk_stalls.py [--model smollm2-135m|wide-random] [--megabytes 2000] [--rounds 4]

In one process, as the server is built: engine, persistence, files. Gaps are those a task sees that
sleeps for a millisecond at a time, while so many bytes are written and then read back. Throughput
is of four streams beside an agent that reads prompts nobody has read: once with a disk tier, where
all of that is written behind the streams, once without; the two take turns, in pairs, and the
prompts are equally long.
"""

import argparse
import contextlib
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import trio

from serving import MODEL, model_path

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.adapters.mlx.device import Device, last_act
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.runner import DeviceRows, MlxRunner, load_runner
from semantic_trio.application.engine import Engine
from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.entrypoints.serve import SWITCH_SECONDS
from semantic_trio.testing import ByteDecoder

from mlx_lm.models import llama  # isort: skip - after the BLAS

GIB, TICK_SECONDS = 1 << 30, 0.001
STREAMS, STREAM_TOKENS, PROMPT = 4, 160, 1100
VOCABULARY = 250
WIDE = "wide-random"


@attrs.define
class Bench:
    engine: Engine
    persistence: Persistence

    async def read(self, salt: int, tokens: int, answer: int = 1) -> list[float]:
        """Have a prompt read and answered; when its tokens came."""
        prompt = (
            salt % VOCABULARY,
            salt // VOCABULARY % VOCABULARY,
            *((i * i * 7 + i + salt) % VOCABULARY for i in range(tokens - 2)),
        )
        forced = tuple((i * 13 + salt) % VOCABULARY for i in range(answer))
        request = GenerationRequest("", prompt, answer, 0, forced=forced, agent=f"agent-{salt}")
        generation = self.engine.submit(request, ByteDecoder())
        await generation.result()
        return generation.stamps


@contextlib.asynccontextmanager
async def bench(runner: MlxRunner, directory: Path, *, has_disk: bool) -> AsyncIterator[Bench]:
    await runner.reset()
    runner.batch.store.drop(runner.batch.store.blocks, runner.batch.store.snapshots)
    memory = Memory(runner.spec, 6 * GIB, 512, disk=Disk(64 * GIB if has_disk else 0))
    engine = Engine(
        runner,
        Scheduler(Limits(8192, 8, 512, 0.25), memory),
        queue_limit=64,
        step_deadline_seconds=60,
        batch_window_seconds=0.01,
    )
    persistence = Persistence(
        memory, runner, ModelFiles(directory, runner.spec.fingerprint, "bench"), engine.nudge
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        if has_disk:
            await persistence.open()
            await nursery.start(persistence.run)
        yield Bench(engine, persistence)
        nursery.cancel_scope.cancel()


async def tick(gaps: list[float]) -> None:
    last = time.perf_counter()
    while True:
        await trio.sleep(TICK_SECONDS)
        now = time.perf_counter()
        gaps.append(now - last - TICK_SECONDS)
        last = now


def show_gaps(what: str, gaps: list[float], size: float, seconds: float) -> None:
    ordered = sorted(gaps)
    p99, longest = ordered[int(len(ordered) * 0.99)] * 1e3, ordered[-1] * 1e3
    print(
        (
            f"  {what}: {size / 1e6:.0f} MB in {seconds:.1f} s, gaps p99 {p99:.1f} ms, longest "
            f"{longest:.1f} ms, n = {len(ordered)}"
        ),
        flush=True,
    )


async def stalls(runner: MlxRunner, megabytes: int) -> None:
    """Gaps of the event loop while nothing but the disk is busy."""
    agents = -(-megabytes * 1_000_000 // runner.spec.context_bytes(4096))
    with tempfile.TemporaryDirectory() as directory:
        async with bench(runner, Path(directory), has_disk=True) as one:
            one.engine.memory.disk.is_open = False
            # nothing is written yet
            held, one.persistence.memory.disk.on_change = (
                one.persistence.memory.disk.on_change,
                lambda: None,
            )
            for salt in range(agents):
                await one.read(salt, 4096)
            await one.engine.settle()
            one.engine.memory.disk.is_open, one.engine.memory.disk.on_change = True, held
            for phase in ("idle", "written"):
                gaps: list[float] = []
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(tick, gaps)
                    begun = time.perf_counter()
                    if phase == "idle":
                        await trio.sleep(3)
                    else:
                        held()
                        await one.persistence.flush(600)
                    seconds = time.perf_counter() - begun
                    nursery.cancel_scope.cancel()
                show_gaps(phase, gaps, one.persistence.traffic.written_bytes, seconds)
            one.engine.memory.store.evict_all()
            gaps = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tick, gaps)
                begun = time.perf_counter()
                for salt in range(agents):
                    one.engine.memory.recall(
                        one.engine.memory.run_of(one.engine.memory.agents.get(f"agent-{salt}"))
                    )
                while one.engine.memory.disk.reading:  # noqa: ASYNC110 - nothing tells of the last one
                    await trio.sleep(0.01)
                seconds = time.perf_counter() - begun
                nursery.cancel_scope.cancel()
            show_gaps("read", gaps, one.persistence.traffic.read_bytes, seconds)


async def throughput(runner: MlxRunner, rounds: int) -> None:
    """Tokens of streams beside prompts that are read and written."""
    ratios = []
    for number in range(rounds):
        pace: dict[bool, float] = {}
        wrote: dict[bool, int] = {}
        for has_disk in (True, False) if number % 2 else (False, True):
            with tempfile.TemporaryDirectory() as directory:
                async with bench(runner, Path(directory), has_disk=has_disk) as one:
                    pace[has_disk] = await streams(one)
                    wrote[has_disk] = one.persistence.traffic.written_bytes
        ratios.append(pace[True] / pace[False])
        print(
            (
                f"  {pace[True]:.1f} / {pace[False]:.1f} tokens/s = {ratios[-1]:.3f}, "
                f"{wrote[True] / 1e6:.0f} MB written meanwhile"
            ),
            flush=True,
        )
    print(f"  spilling / not spilling: median {statistics.median(ratios):.3f}")


async def streams(one: Bench) -> float:
    """Tokens per second of the streams until the first of them ends."""
    stamps: list[list[float]] = []

    async def stream(salt: int) -> None:
        stamps.append(await one.read(10_000 + salt, 64, STREAM_TOKENS))

    async def company() -> None:
        for salt in range(1000):
            await one.read(20_000 + salt, PROMPT)

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as talkers:
            nursery.start_soon(company)
            for salt in range(STREAMS):
                talkers.start_soon(stream, salt)
        nursery.cancel_scope.cancel()
    begin, end = max(times[0] for times in stamps), min(times[-1] for times in stamps)
    return sum(begin <= at <= end for times in stamps for at in times) / (end - begin)


async def wide(device: Device) -> MlxRunner:
    """Random weights that compute little and remember much: 128 KiB a token, so that gigabytes are
    soon there.
    """
    return await device.call(lambda: _wide(device))


def _wide(device: Device) -> MlxRunner:
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 256}
    sizes = {
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "intermediate_size": 512,
        "vocab_size": 300,
    }
    model = llama.Model(llama.ModelArgs(model_type="llama", rms_norm_eps=1e-5, **sizes, **heads))
    batch = DeviceRows(choose_layout(model))
    _ = batch.forms  # they are learnt before anything is measured
    return MlxRunner(device, batch, measure_spec(model, WIDE))


async def measure(arguments: argparse.Namespace) -> None:
    device = Device(last_act)
    async with trio.open_nursery() as nursery:
        await nursery.start(device.run)
        runner = (
            await wide(device)
            if arguments.model == WIDE
            else (await load_runner(device, model_path(arguments.model)))[0]
        )
        gc.freeze()
        await stalls(runner, arguments.megabytes)
        await throughput(runner, arguments.rounds)
        device.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, help=f"{WIDE}: {wide.__doc__}")
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=4)
    sys.setswitchinterval(SWITCH_SECONDS)
    trio.run(measure, parser.parse_args())


if __name__ == "__main__":
    main()
