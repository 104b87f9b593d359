"""Cost of memory for rows that decode: scheduler and batch with a memory, against the same without
one, in turns of a few steps.

python benchmarks/memory_decode.py [--model DIRECTORY | --shape smollm2|llama8b|tiny] [--streams 4]
[--tokens 600] [--rounds 3]

Without: nothing is matched, named, published or saved, rows are closed and gone. With: as served.
Both read the same prompts, which nobody has read before, and force the same tokens. Two kinds of
work: streams that begin and end together, over two or three block borders each; and the same beside
a place that is taken by one short request after the other, each of which is closed into blocks
while the others decode. The sides take turns of a few steps on one device. The ratio is that of the
tokens per second of whole runs; beside it is the median over pairs of turns, which no pause of a
shared machine moves.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from ragged_step import SHAPES, build

from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.runner import DeviceRows
from semantic_trio.domain.chain import TokenRun
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.prompt import Breakpoint
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.live_rows import LiveRows
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.prefix import NO_MATCH, Match
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.step import RowClose
from semantic_trio.testing import ByteDecoder

import mlx.core as mx  # isort: skip - after the BLAS
import mlx.nn as nn

GIB = 2**30
PROMPT, SHORT_PROMPT, SHORT_ANSWER = 96, 60, 30
STEPS_A_TURN = 16
VOCABULARY = 250


@attrs.define(eq=False)
class ForgetfulRows(LiveRows):
    """Rows that have memory, and of which nothing is kept."""

    def publish(self, number: int, read: int) -> None:
        self._tenants[number].row.read = read

    def snapshot(self, number: int, position: int, *, replaces: bool = False) -> None:
        pass

    def remember(
        self, number: int, run: TokenRun, salt: Salt = NO_SALT, *, has_ended: bool = True
    ) -> None:
        pass

    def close(
        self,
        number: int,
        computed: int,
        breakpoints: Iterable[Breakpoint] = (),
        *,
        has_ended: bool = True,
    ) -> RowClose:
        self._move_out(self._tenants[number])
        return RowClose(number)


@attrs.define(eq=False)
class Forgetful(Memory):
    """A memory in which no prompt finds anything."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.rows = ForgetfulRows(self)

    def match(self, run: TokenRun) -> Match:
        return NO_MATCH


class Side:
    """One of the two, with rows of its own."""

    def __init__(self, model: nn.Module, memory: Memory, max_rows: int) -> None:
        self.batch = DeviceRows(choose_layout(model))
        self.scheduler = Scheduler(Limits(16_384, max_rows, 512, 0.25), memory)
        self.long: list[Sequence] = []
        self.short: Sequence | None = None
        self.shorts = 0
        self.drawn = 0
        self.turns: list[float] = []  # seconds a step

    def add(self, prompt: tuple[int, ...], tokens: int) -> Sequence:
        forced = tuple((i * 13 + prompt[0]) % VOCABULARY for i in range(tokens))
        return self.scheduler.add(
            GenerationRequest("", prompt, tokens, 0, forced=forced), ByteDecoder()
        )

    def step(self) -> bool:
        plan = self.scheduler.plan()
        if plan is None:
            return False
        result = self.batch.step(plan)
        self.drawn += len(result.sampled)
        self.scheduler.commit(result)
        return True

    def turn(self, next_short: Callable[["Side"], None]) -> bool:
        """A few steps, from an idle device until it is idle again.

        False when the long ones are over and everything is done.
        """
        begun, steps = time.perf_counter(), 0
        while steps < STEPS_A_TURN:
            if self.is_decoding:
                next_short(self)
            if not self.step():
                break
            steps += 1
        mx.synchronize()
        if steps:
            self.turns.append((time.perf_counter() - begun) / steps)
        return steps == STEPS_A_TURN

    @property
    def is_decoding(self) -> bool:
        return any(one.phase is not Phase.FINISHED for one in self.long)


def prompt_of(number: int, tokens: int) -> tuple[int, ...]:
    """Like no other from its first token or its second on."""
    return (
        number % VOCABULARY,
        number // VOCABULARY,
        *((i * i * 7 + i) % VOCABULARY for i in range(tokens - 2)),
    )


def nobody(side: Side) -> None:
    pass


def one_after_the_other(side: Side) -> None:
    if side.short is None or side.short.phase is Phase.FINISHED:
        side.shorts += 1
        side.short = side.add(prompt_of(1000 + side.shorts, SHORT_PROMPT), SHORT_ANSWER)


def run(
    sides: dict[str, Side],
    number: int,
    streams: int,
    tokens: int,
    next_short: Callable[[Side], None],
) -> dict[str, tuple[float, int]]:
    """Seconds and tokens drawn, by side."""
    seconds, before = dict.fromkeys(sides, 0.0), {name: side.drawn for name, side in sides.items()}
    for side in sides.values():
        side.turns.clear()
        side.short = None
        side.shorts = 1000 * number
        side.long = [side.add(prompt_of(100 * number + i, PROMPT), tokens) for i in range(streams)]
    going = set(sides)
    order = list(sides)
    while going:
        order.reverse()  # neither always has the cooler caches
        for name in order:
            if name in going:
                begun = time.perf_counter()
                if not sides[name].turn(next_short):
                    going.discard(name)
                seconds[name] += time.perf_counter() - begun
    return {name: (seconds[name], sides[name].drawn - before[name]) for name in sides}


def compare(
    kind: str,
    sides: dict[str, Side],
    rounds: int,
    streams: int,
    tokens: int,
    next_short: Callable[[Side], None],
    first: int,
) -> None:
    ratios = []
    for number in range(rounds):
        found = run(sides, first + number, streams, tokens, next_short)
        paces = {name: drawn / seconds for name, (seconds, drawn) in found.items()}
        pairs = list(zip(sides["kept"].turns, sides["forgotten"].turns, strict=False))
        ratios.append(paces["kept"] / paces["forgotten"])
        of_a_step = statistics.median(forgotten / kept for kept, forgotten in pairs)
        print(
            f"  {kind}: {paces['kept']:7.1f} / {paces['forgotten']:7.1f} tokens/s = "
            f"{ratios[-1]:.3f}; median of {len(pairs)} turns {of_a_step:.3f}; "
            f"{found['kept'][1]} tokens, {sides['kept'].shorts % 1000} short requests",
            flush=True,
        )
    print(f"  {kind}: kept / forgotten {statistics.median(ratios):.3f} of {rounds}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.model:
        from semantic_trio.adapters.mlx.loading import load

        model = load(arguments.model).model
    else:
        model = build(arguments.shape, arguments.dtype)
    spec = measure_spec(model, "benchmark")
    sides = {
        name: Side(model, make(spec, 8 * GIB, 512), arguments.streams + 1)
        for name, make in (("kept", Memory), ("forgotten", Forgetful))
    }
    what = arguments.model.name if arguments.model else f"{arguments.shape} in {arguments.dtype}"
    print(
        f"{mx.default_device()}, {what}, {arguments.streams} streams of {arguments.tokens} tokens "
        f"after a prompt of {PROMPT}"
    )
    run(sides, 90, arguments.streams, 32, one_after_the_other)  # kernels are compiled, paces learnt
    compare("together", sides, arguments.rounds, arguments.streams, arguments.tokens, nobody, 10)
    compare(
        "beside short ones",
        sides,
        arguments.rounds,
        arguments.streams,
        arguments.tokens,
        one_after_the_other,
        20,
    )
    kept = sides["kept"].scheduler.memory
    kept.audit()
    print(
        f"  {len(kept.expected().blocks)} blocks are kept, {kept.store.pool.used / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
