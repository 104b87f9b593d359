"""A server under agents that ask, cancel and see it restarted, for as long as is wished; what it
takes should be level.

python benchmarks/soak.py [--seconds 3600] [--agents 10] [--requests 50] [--restart 300] [--every 5]
[--csv FILE] [--svg FILE] [-- OPTIONS OF SERVE]

Each agent sends so many requests as fast as they are answered, as turns of conversations that grow
and begin again; it cancels every fifth after its first token. Then a new wave begins. The server is
drained and started again every --restart seconds on the same cache directory, and has to end with
0. At intervals a sample is taken: resident memory, MLX's active memory, threads, open files, bytes
on disk, requests so far. In the end the last third of the samples is compared with the third before
it; the first third is for caches to fill, which are small here. It ends with 1 if something grew
beyond its bound, or a request failed while the server was up. Needs Linux (/proc). The model is
tiny-random: this is about the server and not about a model.
"""

import argparse
import contextlib
import csv
import os
import re
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import trio
from served import served

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.bench.client import TimedAnswer, Client, Message
from semantic_trio.entrypoints.bench.prompts import Prompts

MODEL = "tiny-random"
ACTIVE = re.compile(r'^semantic_memory_used_bytes\{kind="active"\} (\S+)$', re.MULTILINE)
MIB = 1 << 20
TOKENS, TURNS, CANCEL_EVERY = 12, 8, 5
# The most by which the median of the last third may be above that of the third before.
# as factors
BOUNDS = {"rss_mib": 1.05, "mlx_mib": 1.05, "threads": 1.1, "files": 1.1, "disk_mib": 1.1}
SIZES = [
    "--cache-budget-mb",
    "24",
    "--disk-budget-mb",
    "4",
    "--disk-floor-mb",
    "64",
    "--max-agents-in-memory",
    "64",
]


@attrs.frozen
class Sample:
    """Resources of the server's process at one moment."""

    seconds: float  # since the beginning
    rss_mib: float
    mlx_mib: float
    threads: int
    files: int
    disk_mib: float
    answered: int
    cancelled: int
    restarts: int


@attrs.define(eq=False)
class Soak:
    """The server of the moment, and what was counted so far."""

    directory: Path
    options: argparse.Namespace
    samples: list[Sample] = attrs.field(factory=list)
    failures: list[str] = attrs.field(factory=list)
    answered: int = 0
    cancelled: int = 0
    restarts: int = 0
    _begun: float = attrs.field(factory=trio.current_time)

    async def run(self) -> None:
        """Serve and ask until the time is over."""
        while (left := self.options.seconds - self.seconds) > 0:
            options = [
                *SIZES,
                "--model",
                MODEL,
                "--cache-dir",
                str(self.directory / "cache"),
                *self.options.serve,
            ]
            async with served(options, self.directory / "log") as server:
                with trio.move_on_after(min(left, self.options.restart)):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._watch, server.pid, server.url)
                        nursery.start_soon(self._waves, server.url)
            self.restarts += 1
            if server.code:
                self.failures.append(f"the server ended with {server.code}")

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return trio.current_time() - self._begun

    async def _waves(self, url: str) -> None:
        """Have all agents ask, wave after wave."""
        wave = 0
        while True:
            async with trio.open_nursery() as nursery:
                for number in range(self.options.agents):
                    nursery.start_soon(
                        self._agent, Client(url, None, MODEL), f"{self.restarts} {wave} {number}"
                    )
            wave += 1

    async def _agent(self, client: Client, name: str) -> None:
        """Send the requests of one wave: turns of conversations that grow and begin again."""
        prompts, messages = Prompts(name), list[Message]()
        for number in range(self.options.requests):
            if number % TURNS == 0:
                messages = [{"role": "user", "content": prompts.story(number)}]
            if number % CANCEL_EVERY == CANCEL_EVERY - 1:
                await self._cancelled(client, messages)
                continue
            try:
                answer = await client.chat(messages, TOKENS)
            except InvalidRequestError as error:
                self.failures.append(str(error))
                return
            self.answered += 1
            messages += [
                {"role": "assistant", "content": answer.text or "."},
                {"role": "user", "content": prompts.question(number)},
            ]

    async def _cancelled(self, client: Client, messages: Sequence[Message]) -> None:
        """Ask for a long answer, and go when it has begun."""
        answer = TimedAnswer(lead=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.chat, messages, 10 * TOKENS, answer)
            await answer.is_running.wait()
            nursery.cancel_scope.cancel()
        self.cancelled += 1

    async def _watch(self, pid: int, url: str) -> None:
        while True:
            await trio.sleep(self.options.every)
            self.samples.append(await trio.to_thread.run_sync(self._sample, pid, url, self.seconds))

    def _sample(self, pid: int, url: str, seconds: float) -> Sample:
        process = Path(f"/proc/{pid}")
        resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
            active = ACTIVE.search(answer.read().decode())
        assert active
        return Sample(
            round(seconds, 1),
            round(resident / MIB, 1),
            round(float(active[1]) / MIB, 2),
            len(os.listdir(process / "task")),
            len(os.listdir(process / "fd")),
            round(_size(self.directory / "cache") / MIB, 2),
            self.answered,
            self.cancelled,
            self.restarts,
        )


def _size(directory: Path) -> int:
    """Bytes of the files below a directory; files may go meanwhile."""
    size = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def verdicts(samples: Sequence[Sample]) -> Iterator[tuple[str, float, float, bool]]:
    """Yield for each quantity the medians of the middle and the last third of the samples, and True
    if the last is within the bound.
    """
    third = len(samples) // 3
    for name, bound in BOUNDS.items():
        values = [getattr(sample, name) for sample in samples]
        middle, last = (
            statistics.median(values[third : 2 * third]),
            statistics.median(values[2 * third :]),
        )
        yield name, middle, last, last <= middle * bound


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Draw the curves, one below the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained", facecolor="white")
    minutes = [sample.seconds / 60 for sample in samples]
    for axes, name in zip(figure.subplots(len(BOUNDS), 1, sharex=True), BOUNDS, strict=True):
        axes.plot(
            minutes, [getattr(sample, name) for sample in samples], color="#0b62c4", linewidth=1
        )
        axes.set(ylabel=name.replace("_mib", ", MiB"))
        axes.set_ylim(bottom=0)
        axes.grid(color="#d7dde3")
    axes.set(xlabel="minutes")
    figure.savefig(path)


async def _soak(directory: Path, options: argparse.Namespace) -> Soak:
    soak = Soak(directory, options)
    await soak.run()
    return soak


def main() -> int:
    """Run it, write the curves, print the verdict."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--agents", type=int, default=10)
    parser.add_argument("--requests", type=int, default=50, help="of an agent in a wave")
    parser.add_argument("--restart", type=float, default=300, help="seconds between restarts")
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("serve", nargs="*", help="further options of `semantic-trio serve`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semantic-trio-soak-") as directory:
        soak = trio.run(_soak, Path(directory), options)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(attrs.fields_dict(Sample))
            writer.writerows(attrs.astuple(sample) for sample in soak.samples)
    if options.svg:
        draw(soak.samples, options.svg)
    print(
        f"{soak.answered:,} answered, {soak.cancelled:,} cancelled, {len(soak.failures)} failed, "
        f"{soak.restarts} servers, {len(soak.samples)} samples"
    )
    for failure in dict.fromkeys(soak.failures):
        print(f"failed: {failure}")
    found = list(verdicts(soak.samples))
    for name, middle, last, is_level in found:
        print(
            f"{name:10} middle third {middle:8.1f}   last third {last:8.1f}   "
            f"{'level' if is_level else 'GREW'}"
        )
    return 0 if all(is_level for *_, is_level in found) and not soak.failures else 1


if __name__ == "__main__":
    sys.exit(main())
