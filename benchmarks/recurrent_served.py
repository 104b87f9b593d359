"""Throughput of a model with recurrent layers over HTTP against mlx-lm's bare engine on the same
prompts and weights.

python benchmarks/recurrent_served.py [--type qwen3_5] [--streams 8] [--tokens 64] [--rounds 10]

Random weights at the size of a model of some 50 million parameters, under the tokenizer of
smollm2-135m; greedy, new prompts in each round. Server and bare engine are two processes that live
as long as the run and take turns, so that a noisy minute is both's. Ratios are those of tokens per
second: of the whole time, prompts included; of processor time, which neighbours on a shared CPU
move less (of the server all of its threads; it needs OPENBLAS_NUM_THREADS=1, for threads that wait
for each other burn time); and from the last stream's first token on, which leaves the prompts out.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import attrs
import trio

from decoding_rows import TYPES, build
from served import Served, served
from serving import MODEL, model_path

from semantic_trio.adapters.mlx.bare import generate
from semantic_trio.adapters.mlx.chat_template import chat_program
from semantic_trio.adapters.mlx.loading import load
from semantic_trio.adapters.mlx.tool_syntax import tool_syntax
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.canonical import canonical
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.entrypoints.bench.client import Client
from semantic_trio.entrypoints.bench.measures import throughput
from semantic_trio.entrypoints.bench.prompts import Prompts
from semantic_trio.entrypoints.bench.results import Throughput

import mlx.core as mx  # isort: skip - after the BLAS
from mlx.utils import tree_flatten

WARM_UPS = 2
TICKS = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Pace:
    """Tokens per second: of the whole time, of processor time, and while all streams decode."""

    whole: float
    of_processor: float
    decoding: float

    @classmethod
    def of(cls, found: Throughput, processor_seconds: float) -> "Pace":
        last_first = max(found.first_seconds)
        return cls(
            found.rate,
            found.tokens / processor_seconds,
            (found.tokens - len(found.first_seconds)) / (found.seconds - last_first),
        )


def write_model(name: str, into: Path) -> None:
    """A directory that mlx-lm loads."""
    source = model_path(MODEL)
    theirs = json.loads((source / "config.json").read_text())
    shared = {key: theirs[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")}
    model, config = build(name, "float32", shared)
    mx.save_safetensors(
        str(into / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"}
    )
    (into / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (into / file).symlink_to(source / file)


def answer_bare(path: Path) -> None:
    """Answer the prompts of each line of standard input with the bare engine; the pace of each."""
    model, codec = load(path).model, load_codec(path, tool_syntax, chat_program)
    for line in sys.stdin:
        texts, tokens = json.loads(line)
        prompts = [
            codec.encode_prompt(
                canonical(Conversation((Message(Role.USER, (Text(text),)),)))
            ).tokens
            for text in texts
        ]
        began, busy, count, firsts = time.perf_counter(), time.process_time(), 0, dict[int, float]()
        for place in generate(model, prompts, tokens, codec.stop_tokens):
            count += 1
            firsts.setdefault(place, time.perf_counter() - began)
        found = Throughput(count, time.perf_counter() - began, tuple(firsts.values()))
        print(json.dumps(attrs.astuple(Pace.of(found, time.process_time() - busy))), flush=True)


@attrs.frozen(eq=False)
class Bare:
    """The bare engine in a process of its own."""

    process: trio.Process

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, path: Path) -> AsyncIterator["Bare"]:
        process = await trio.lowlevel.open_process(
            [sys.executable, __file__, "--bare", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            yield cls(process)
        finally:
            process.kill()
            await process.wait()

    async def pace(self, prompts: Sequence[str], tokens: int) -> Pace:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        await self.process.stdin.send_all(json.dumps([prompts, tokens]).encode() + b"\n")
        said = b""
        while not said.endswith(b"\n"):
            said += await self.process.stdout.receive_some()
        return Pace(*json.loads(said))


async def served_pace(server: Served, prompts: Sequence[str], tokens: int) -> Pace:
    busy = _processor_seconds(server.pid)
    found = await throughput(Client(server.url), prompts, tokens)
    return Pace.of(found, _processor_seconds(server.pid) - busy)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def measure(arguments: argparse.Namespace, directory: Path) -> None:
    write_model(arguments.type, directory)
    options = ["--model", str(directory), "--cache-dir", str(directory / "cache")]
    ours, theirs = list[Pace](), list[Pace]()
    async with served(options, directory / "log") as server, Bare.running(directory) as bare:
        for number in range(-WARM_UPS, arguments.rounds):
            stories = Prompts(str(number))
            prompts = [stories.story(place) for place in range(arguments.streams)]
            if number % 2:
                theirs.append(await bare.pace(prompts, arguments.tokens))
            ours.append(await served_pace(server, prompts, arguments.tokens))
            if not number % 2:
                theirs.append(await bare.pace(prompts, arguments.tokens))
    report(arguments, ours[WARM_UPS:], theirs[WARM_UPS:])


def report(arguments: argparse.Namespace, ours: Sequence[Pace], theirs: Sequence[Pace]) -> None:
    print(
        f"{arguments.type}, {arguments.streams} streams of {arguments.tokens} tokens, {len(ours)} "
        f"rounds: {statistics.median(one.whole for one in ours):.1f} / "
        f"{statistics.median(one.whole for one in theirs):.1f} tokens/s"
    )
    for name in ("whole", "of_processor", "decoding"):
        ratios = sorted(
            getattr(one, name) / getattr(other, name)
            for one, other in zip(ours, theirs, strict=True)
        )
        print(
            f"  {name}: {statistics.median(ratios):.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--type", choices=TYPES, default="qwen3_5")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        answer_bare(arguments.bare)
        return
    with tempfile.TemporaryDirectory() as directory:
        trio.run(measure, arguments, Path(directory))


if __name__ == "__main__":
    main()
