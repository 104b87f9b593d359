"""Cost of the bookkeeping of agents' memory, and number of agents that fit a budget: no model, no
arrays.

python benchmarks/pool.py [--tokens 7000] [--rounds 5]

Times are medians of many calls, from the best of the rounds; the geometry is Llama 3.1 8B's. The
agents that fit are computed from published configurations, keys and values in 16 bits, 8 and 4
beside them (scales of quantised values not counted).
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from semantic_trio.domain.blocks import BlockPool
from semantic_trio.domain.chain import TokenRun, root_key
from semantic_trio.domain.families import published_spec
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.prefix import NO_MATCH, Match

CONFIGS = Path(__file__).parents[1] / "tests" / "unit" / "configs"
NAMES = ("gemma-3-12b", "gpt-oss-20b", "qwen-2.5-14b", "llama-3.1-8b")
GIB, MIB = 2**30, 2**20
CHUNK = 512


def spec_of(name: str, kv_bits: int = 16) -> ModelCacheSpec:
    spec = published_spec(json.loads((CONFIGS / f"{name}.json").read_text()), name, kv_bits=kv_bits)
    assert spec is not None
    return spec


def median_us(act: Callable[[int], object], count: int) -> float:
    """Microseconds of the median call, the timing itself taken off."""
    times, empty = [], []
    for i in range(count):
        begun = time.perf_counter_ns()
        act(i)
        times.append(time.perf_counter_ns() - begun)
        begun = time.perf_counter_ns()
        empty.append(time.perf_counter_ns() - begun)
    return (statistics.median(times) - statistics.median(empty)) / 1e3


def pool_figures() -> dict[str, float]:
    spec = spec_of("llama-3.1-8b")
    pool = BlockPool(spec, 64 * GIB)
    for i in range(1000):
        pool.allocate(("held", i), spec.block_amount(256), spec.arrays_per_block)
    amount, buffers = spec.block_amount(256), spec.arrays_per_block
    names = [bytes(32 - 4) + i.to_bytes(4, "big") for i in range(20_000)]

    def both(i: int) -> None:
        pool.allocate(names[i], amount, buffers)
        pool.free(names[i])

    return {"allocate and free a block": median_us(both, len(names))}


class Lived:
    """A memory that holds one history, and rows that begin with it."""

    def __init__(self, tokens: int) -> None:
        self.spec, self.tokens = (
            spec_of("llama-3.1-8b"),
            tuple(i * 7 % 32_000 for i in range(tokens)),
        )
        self.memory = Memory(self.spec, 64 * GIB, CHUNK)
        self.row = 0
        self.run = self.memory.run(self.tokens)
        self.agent = self.memory.recognise(self.run)
        self.read(NO_MATCH)

    def read(self, match: Match) -> None:
        self.memory.rows.open(self.row, self.run, self.agent, match)
        self.memory.rows.publish(self.row, len(self.tokens))
        self.memory.rows.remember(self.row, self.run)
        self.memory.rows.close(self.row, len(self.tokens))
        self.memory.take_drops()
        self.row += 1

    def turn(self, _: int) -> None:
        self.read(self.memory.match(self.run))


def memory_figures(tokens: int) -> dict[str, float]:
    lived = Lived(tokens)
    memory, root = lived.memory, root_key(lived.spec.fingerprint)
    found = {
        f"name {tokens} tokens": median_us(
            lambda _: TokenRun.of(lived.tokens, root, lived.spec.block_tokens), 500
        ),
        f"match {tokens} tokens": median_us(lambda _: memory.match(lived.run), 2000),
        f"find the agent of {tokens} tokens": median_us(
            lambda _: memory.recognise(lived.run), 2000
        ),
        f"open, publish and close a row of {tokens}": median_us(lived.turn, 500),
    }
    memory.audit()
    return found | publish_figures(lived)


def publish_figures(lived: Lived) -> dict[str, float]:
    """A row that decodes: a token a step, a block every 256."""
    memory, row = lived.memory, lived.row
    run = memory.run((*lived.tokens, 1))
    memory.rows.open(row, run, lived.agent, memory.match(run))
    read = len(run)
    borders: list[int] = []  # nanoseconds
    others: list[int] = []
    for _ in range(20 * 256):
        memory.rows.extend(row, 5)
        memory.rows.grow(row, read + 1)
        begun = time.perf_counter_ns()
        memory.rows.publish(row, read)
        (borders if read % 256 == 0 else others).append(time.perf_counter_ns() - begun)
        read += 1
    memory.rows.close(row, read - 1)
    return {
        "publish a token of a row": statistics.median(others) / 1e3,
        "publish a block of a row": statistics.median(borders) / 1e3,
    }


def show_times(tokens: int, rounds: int) -> None:
    found = [pool_figures() | memory_figures(tokens) for _ in range(rounds)]
    print(f"{'microseconds':46}{'best':>10}{'median':>10}")
    for name in found[0]:
        times = [one[name] for one in found]
        print(f"{name:46}{min(times):10.2f}{statistics.median(times):10.2f}")


def show_agents(budget_bytes: int, tokens: int) -> None:
    print(f"\nagents of {tokens} tokens in {budget_bytes // MIB} MiB, sharing nothing")
    print(f"{'':16}{'MiB a block':>12}{'MiB an agent':>14}{'16 bits':>9}{'8 bits':>9}{'4 bits':>9}")
    for name in NAMES:
        fits = "".join(
            f"{spec_of(name, bits).agents_that_fit(budget_bytes, tokens):9}" for bits in (16, 8, 4)
        )
        spec = spec_of(name)
        print(
            f"{name:16}{spec.block_bytes() / MIB:12.1f}{spec.context_bytes(tokens) / MIB:14.1f}"
            f"{fits}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=7000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}")
    show_times(arguments.tokens, arguments.rounds)
    show_agents(4 * GIB, 8192)


if __name__ == "__main__":
    main()
