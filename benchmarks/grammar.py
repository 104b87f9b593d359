"""Cost of holding answers to a form: throughput of a batch, the pace of neighbours, and the time to
a first token.

python benchmarks/grammar.py [--model smollm2-135m] [--rounds 5] [--tokens 64]

In one process, engine and device as the server has them. All kinds of a comparison take turns
within a round; what counts is the median of the ratios of rounds. The form is a list of texts
without an end, so that every row draws as many tokens as are asked for.
"""

import argparse
import gc
import json
import statistics
import sys
import time

import attrs
import trio

from serving import MODEL, model_path

from semantic_trio.adapters.mlx.device import Device, last_act
from semantic_trio.adapters.mlx.runner import load_runner
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.application.engine import Engine
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.generation import GenerationRequest, SamplingParams
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.steering import Grammar
from semantic_trio.entrypoints.serve import SWITCH_SECONDS

ROWS = 8
ENDLESS = json.dumps({"type": "array", "items": {"type": "string"}, "minItems": 100_000})
ASKED = (Message(Role.USER, (Text("Name all the rivers of the world."),)),)


@attrs.define
class Bench:
    engine: Engine
    codec: TokenizerCodec

    def grammar(self, schema: str) -> Grammar | None:
        return self.codec.grammar(Conversation(ASKED, schema=schema), "")

    async def ask(self, seed: int, tokens: int, grammar: Grammar | None) -> list[float]:
        """One answer; when its tokens came."""
        prompt = self.codec.encode_prompt(Conversation(ASKED)).tokens
        request = GenerationRequest(
            "",
            prompt,
            tokens,
            seed,
            SamplingParams(temperature=0.8),
            grammar=grammar,
            agent=f"agent-{seed}",
        )
        generation = self.engine.submit(request, self.codec.decoder())
        await generation.result()
        return generation.stamps

    async def batch(self, tokens: int, grammars: list[Grammar | None]) -> list[list[float]]:
        """Answers at once, as many as there are grammars."""
        stamps: dict[int, list[float]] = {}

        async def one(place: int) -> None:
            stamps[place] = await self.ask(place, tokens, grammars[place])

        async with trio.open_nursery() as nursery:
            for place in range(len(grammars)):
                nursery.start_soon(one, place)
        return [stamps[place] for place in range(len(grammars))]


def pace(stamps: list[list[float]]) -> float:
    """Tokens per second while all of them generate."""
    begin, end = max(times[0] for times in stamps), min(times[-1] for times in stamps)
    return sum(begin <= at <= end for times in stamps for at in times) / (end - begin)


async def batches(bench: Bench, rounds: int, tokens: int) -> None:
    """All rows held to a form, one of them, none."""
    form = bench.grammar(ENDLESS)
    kinds: dict[str, list[Grammar | None]] = {
        "none": [None] * ROWS,
        "one": [form] + [None] * (ROWS - 1),
        "all": [form] * ROWS,
    }
    all_ratios, neighbours = [], []
    for number in range(rounds):
        names = list(kinds) if number % 2 else list(kinds)[::-1]
        found = {name: await bench.batch(tokens, kinds[name]) for name in names}
        all_ratios.append(pace(found["all"]) / pace(found["none"]))
        neighbours.append(pace(found["one"][1:]) / pace(found["none"][1:]))
        print(
            f"  round {number}: none {pace(found['none']):.1f} tokens/s; all / none "
            f"{all_ratios[-1]:.3f}; neighbours of one {neighbours[-1]:.3f}"
        )
    print(
        (
            f"  all / none: median {statistics.median(all_ratios):.3f}; neighbours of one / of "
            f"none: median {statistics.median(neighbours):.3f}"
        ),
        flush=True,
    )


def small(number: int) -> str:
    return json.dumps(
        {
            "type": "object",
            "properties": {f"field{number}": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["count"],
        }
    )


def large(number: int) -> str:
    """Forty nested objects of ten fields."""
    inner = {
        f"f{field}": {"type": ["string", "null"], "maxLength": 100 + field} for field in range(10)
    }
    properties = {
        f"part{number}x{part}": {"type": "object", "properties": inner, "required": list(inner)}
        for part in range(40)
    }
    return json.dumps({"type": "object", "properties": properties, "required": list(properties)})


async def first_tokens(bench: Bench, rounds: int) -> None:
    """Seconds from the request to its first token: without a form, with one that was seen, with one
    that was not.
    """
    for name, made in (("2 fields", small), ("400 fields", large)):
        seen = made(0)
        bench.grammar(seen)
        found: dict[str, list[float]] = {"no form": [], "seen": [], "never seen": []}
        compiling = []
        for number in range(1, rounds + 1):
            for kind, schema in (("no form", None), ("seen", seen), ("never seen", made(number))):
                begun = time.perf_counter()
                grammar = (
                    None if schema is None else await trio.to_thread.run_sync(bench.grammar, schema)
                )
                if kind == "never seen":
                    compiling.append(time.perf_counter() - begun)
                await bench.ask(1000, 1, grammar)
                found[kind].append(time.perf_counter() - begun)
        medians = {kind: statistics.median(times) * 1e3 for kind, times in found.items()}
        told = ", ".join(f"{kind} {value:.0f} ms" for kind, value in medians.items())
        print(
            (
                f"  {name}: {told}; to compile one {statistics.median(compiling) * 1e3:.1f} ms "
                f"(longest {max(compiling) * 1e3:.1f})"
            ),
            flush=True,
        )


async def measure(arguments: argparse.Namespace) -> None:
    path = model_path(arguments.model)
    begun = time.perf_counter()
    codec = load_codec(path)
    loaded = time.perf_counter()
    codec.grammar(Conversation(ASKED, schema="{}"), "")
    print(
        (
            f"{arguments.model}: the tokenizer loads in {loaded - begun:.2f} s, for grammars in "
            f"{time.perf_counter() - loaded:.2f} s more"
        ),
        flush=True,
    )
    device = Device(last_act)
    async with trio.open_nursery() as nursery:
        await nursery.start(device.run)
        runner, _ = await load_runner(device, path)
        limits = Limits(
            context_length=4096, max_rows=ROWS, chunk_tokens=512, max_stall_seconds=0.25
        )
        scheduler = Scheduler(limits, Memory(runner.spec, 1 << 30, limits.chunk_tokens))
        engine = Engine(
            runner, scheduler, queue_limit=64, step_deadline_seconds=60, batch_window_seconds=0.01
        )
        async with trio.open_nursery() as inner:
            await inner.start(engine.run)
            bench = Bench(engine, codec)
            await bench.batch(8, [None] * ROWS)
            gc.freeze()
            await batches(bench, arguments.rounds, arguments.tokens)
            await first_tokens(bench, 3 * arguments.rounds)
            inner.cancel_scope.cancel()
        device.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    sys.setswitchinterval(SWITCH_SECONDS)
    trio.run(measure, parser.parse_args())


if __name__ == "__main__":
    main()
