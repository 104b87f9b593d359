"""Gain of drafts: tokens per second of answers with drafts against the same answers without, in
turns on one device.

python benchmarks/speculation.py [--model DIRECTORY] [--drafts 16] [--streams 1] [--tokens 600]
[--rounds 3] [--lines 200]

Answers of four kinds. *copied*: the file of the prompt with every tenth line changed, forced token
by token, as a model that edits a file would write it. *greedy*: what the model itself says when it
has read the file and the first lines of a copy. *sampled*: text at temperature 1 after a short
prompt, which repeats little. *unlike*: random tokens, forced, of which no four occur twice. The
seconds are those from the first token to the last; both sides must say the same. A side keeps what
it has read, so that only its first round reads the whole prompt. Beside the seconds is the ratio of
tokens per second of processor time, which neighbours on a shared CPU move less; it needs
OPENBLAS_NUM_THREADS=1, for threads that wait for each other burn time.
"""

import argparse
import random
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import attrs

from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.loading import load
from semantic_trio.adapters.mlx.runner import DeviceRows
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.generation import GenerationRequest, SamplingParams
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.sequence import Sequence
from semantic_trio.domain.speculation import Speculation
from semantic_trio.domain.step import StepResult
from semantic_trio.testing import ByteDecoder

import mlx.core as mx  # isort: skip - after the BLAS
from mlx.nn.layers.base import Module

GIB = 2**30
GREEDY = SamplingParams()
NAMES = ("count", "total", "buffer", "offset", "row", "column", "page", "block", "table", "limit")


@attrs.frozen
class Work:
    """A prompt and how it is answered."""

    name: str
    prompt: tuple[int, ...]
    forced: tuple[int, ...] = ()
    sampling: SamplingParams = GREEDY


@attrs.define(eq=False)
class Side:
    """A scheduler and its batch, with or without drafts."""

    batch: DeviceRows
    scheduler: Scheduler

    @classmethod
    def of(cls, model: Module, drafts: int, rows: int) -> "Side":
        batch = DeviceRows(choose_layout(model))
        limits = Limits(16_384, rows, batch.layout.sizes.prompt_tokens, 10.0)
        memory = Memory(measure_spec(model, "benchmark"), 8 * GIB, limits.chunk_tokens)
        return cls(
            batch, Scheduler(limits, memory, Speculation(drafts, batch.layout.sizes.decode_tokens))
        )

    def run(
        self, work: Work, streams: int, tokens: int, seed: int
    ) -> tuple[float, float, list[tuple[int, ...]]]:
        """Tokens of all streams from the first one to the last per second, and per second of
        processor time; and what they said.
        """
        requests = [
            GenerationRequest(
                "", (1 + at, *work.prompt), tokens, seed + at, work.sampling, forced=work.forced
            )
            for at in range(streams)
        ]
        sequences = [self.scheduler.add(request, ByteDecoder()) for request in requests]
        first, began, last = 0, (0.0, 0.0), (0.0, 0.0)
        while (plan := self.scheduler.plan()) is not None:
            result = self.batch.step(plan)
            self.scheduler.commit(result)
            if not first and all(one.generated for one in sequences):
                began, first = (time.perf_counter(), time.process_time()), _generated(sequences)
            last = (time.perf_counter(), time.process_time()) if result != StepResult() else last
        self.scheduler.memory.audit()
        drawn = _generated(sequences) - first
        return (
            drawn / (last[0] - began[0]),
            drawn / (last[1] - began[1]),
            [tuple(one.generated) for one in sequences],
        )


def _generated(sequences: Iterable[Sequence]) -> int:
    return sum(len(sequence.generated) for sequence in sequences)


def source(lines: int, chance: random.Random) -> list[str]:
    """A file of a program."""
    words = [chance.choice(NAMES) for _ in range(4 * lines)]
    return [
        (
            f"    {words[4 * at]}_{at} = {words[4 * at + 1]}({words[4 * at + 2]}, "
            f"{chance.randrange(1000)}) + {words[4 * at + 3]}\n"
        )
        for at in range(lines)
    ]


def works(model: Path, lines: int, tokens: int) -> list[Work]:
    codec, chance = load_codec(model), random.Random(5)
    text = source(lines, chance)
    edited = [line.replace(" + ", " - ") if at % 10 == 9 else line for at, line in enumerate(text)]
    file = codec.encode_text("".join(text))
    begun = codec.encode_text("\n# The same file again:\n" + "".join(text[:8]))
    story = codec.encode_text(
        "The harbour was quiet when the old keeper climbed the stairs of the lighthouse. "
    )
    unlike = tuple(chance.randrange(300, 40_000) for _ in range(tokens))
    return [
        Work(
            "copied",
            file,
            (codec.encode_text("".join(edited)) * (1 + tokens // len(file)))[:tokens],
        ),
        Work("greedy", file + begun),
        Work("sampled", story, (), SamplingParams(temperature=1.0)),
        Work("unlike", story, unlike),
    ]


def compare(sides: dict[int, Side], work: Work, arguments: argparse.Namespace) -> None:
    paces: dict[int, list[float]] = {drafts: [] for drafts in sides}
    busy: dict[int, list[float]] = {drafts: [] for drafts in sides}
    speculation = sides[arguments.drafts].scheduler.speculation
    before = (speculation.drafted, speculation.accepted)
    for number in range(arguments.rounds):
        said = []
        for drafts in sorted(sides, reverse=bool(number % 2)):
            pace, of_processor, answers = sides[drafts].run(
                work, arguments.streams, arguments.tokens, 100 * number
            )
            paces[drafts].append(pace)
            busy[drafts].append(of_processor)
            said.append(answers)
        assert said[0] == said[1], f"{work.name}: an answer is another one with drafts"
    ratios = [one / other for one, other in zip(paces[arguments.drafts], paces[0], strict=True)]
    of_processor = statistics.median(
        one / other for one, other in zip(busy[arguments.drafts], busy[0], strict=True)
    )
    drafted, accepted = speculation.drafted - before[0], speculation.accepted - before[1]
    ours, theirs = statistics.median(paces[arguments.drafts]), statistics.median(paces[0])
    print(
        f"{work.name}: {ours:.1f} / {theirs:.1f} tokens/s = {statistics.median(ratios):.3f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}), "
        f"of processor time {of_processor:.3f}; "
        f"{accepted} of {drafted} drafts accepted",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, default=Path.home() / ".local/share/semantic_trio/models/smollm2-135m"
    )
    parser.add_argument("--drafts", type=int, default=16)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--works", nargs="*", default=[])
    arguments = parser.parse_args()
    model = load(arguments.model).model
    sides = {drafts: Side.of(model, drafts, arguments.streams) for drafts in (0, arguments.drafts)}
    print(
        f"{mx.default_device()}, {arguments.model.name}, {arguments.streams} streams of "
        f"{arguments.tokens} tokens, {arguments.drafts} drafts at most"
    )
    for work in works(arguments.model, arguments.lines, arguments.tokens):
        if work.name in arguments.works or not arguments.works:
            compare(sides, work, arguments)
            for side in sides.values():
                side.scheduler.memory.store.evict_all()


if __name__ == "__main__":
    main()
