"""Blocks of each size on the trace of a coding agent: what is reused, what is held, and what the
bookkeeping costs.

No model, no arrays.

python benchmarks/block_sizes.py [--turns 30] [--rounds 3]

The trace: a head of 12,000 tokens, a conversation that grows by a tool's result and an answer each
turn, and after every fourth turn a sub-agent that has the head and a task of its own. The geometry
is Llama 3.1 8B's, in pages. Reused is a part of the tokens that were read before; held is what the
pool holds afterwards, as a part of what the distinct tokens take; files and their size are what a
disk gets in a turn. Times are of the processor: naming a prompt and finding what it can begin with,
and opening, publishing and closing its row, means of a turn from the best round.
"""

import argparse
import random
import time

import attrs
from pool import CHUNK, GIB, MIB, spec_of

from semantic_trio.domain.chain import common_tokens, pack
from semantic_trio.domain.geometry import BLOCK_SIZES
from semantic_trio.domain.memory import Memory

HEAD, TASK, EVERY = 12_000, 400, 4


def trace(turns: int) -> list[tuple[tuple[int, ...], int]]:
    """Prompts, each with the number of tokens that are generated after it; a prompt holds what was
    generated before.
    """
    seed = random.Random(11)

    def some(count: int) -> tuple[int, ...]:
        return tuple(seed.randrange(128_000) for _ in range(count))

    head, found = some(HEAD), list[tuple[tuple[int, ...], int]]()
    history = head
    for turn in range(turns):
        history += some(seed.randrange(50, 3000))
        answer = some(seed.randrange(30, 400))
        found.append((history + answer, len(answer)))
        history += answer
        if turn % EVERY == 0:
            found.append((head + some(TASK + 60), 60))
    return found


@attrs.frozen
class Figures:
    reused: float
    held: float
    files: float
    file_mib: float
    naming_us: float
    row_us: float


def replayed(size: int, turns: list[tuple[tuple[int, ...], int]]) -> Figures:
    spec = attrs.evolve(
        spec_of("llama-3.1-8b"), block_tokens=size, is_paged=True, arrays_per_block=0
    )
    memory, seen = Memory(spec, 64 * GIB, CHUNK), list[bytes]()
    could = did = 0
    whole = set[bytes]()
    naming = opening = 0
    for row, (tokens, generated) in enumerate(turns):
        begun = time.process_time_ns()
        prompt = memory.run(tokens[:-generated])
        match = memory.match(prompt)
        naming += time.process_time_ns() - begun
        could += min(
            max((common_tokens(pack(tokens), one) for one in seen), default=0), len(prompt) - 1
        )
        did += match.length
        begun = time.process_time_ns()
        agent = memory.recognise(prompt)
        memory.rows.open(row, prompt, agent, match)
        memory.rows.publish(row, len(prompt))
        for token in tokens[len(prompt) :]:
            memory.rows.extend(row, token)
        memory.rows.grow(row, len(tokens))
        memory.rows.publish(row, len(tokens))
        memory.rows.remember(row, memory.run(tokens))
        memory.rows.close(row, len(tokens))
        memory.take_drops()
        opening += time.process_time_ns() - begun
        seen.append(pack(tokens))
        whole.update(memory.run(tokens).keys)
    memory.audit()
    return Figures(
        did / could,
        memory.store.pool.used / (distinct(seen) * spec.context_bytes(1)),
        len(whole) / len(turns) + 1,  # and the partial block
        spec.block_bytes() / MIB,
        naming / len(turns) / 1e3,
        opening / len(turns) / 1e3,
    )


def distinct(seen: list[bytes]) -> int:
    """Tokens with a history of their own."""
    return sum(
        len(one) // 4 - max((common_tokens(one, other) for other in seen[:at]), default=0)
        for at, one in enumerate(seen)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    turns = trace(arguments.turns)
    print(f"{len(turns)} turns, the longest of {max(len(tokens) for tokens, _ in turns):,} tokens")
    print(
        f"{'tokens':>8}{'reused':>9}{'held':>8}{'files a turn':>14}{'MiB a file':>12}"
        f"{'name, us':>10}{'row, us':>10}"
    )
    for size in BLOCK_SIZES:
        rounds = [replayed(size, turns) for _ in range(arguments.rounds)]
        naming, row = min(one.naming_us for one in rounds), min(one.row_us for one in rounds)
        one = rounds[0]
        print(
            f"{size:8}{one.reused:9.5f}{one.held:8.4f}{one.files:14.1f}{one.file_mib:12.1f}"
            f"{naming:10.0f}{row:10.0f}"
        )


if __name__ == "__main__":
    main()
