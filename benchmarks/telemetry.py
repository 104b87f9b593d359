"""What OpenTelemetry costs in tokens per second: servers without it, with a collector that takes
everything, and with one that never answers.

python benchmarks/telemetry.py [MODEL ...] [--rows 8] [--streams 8] [--tokens 96] [--rounds 9]
    [--at-least 0.99] [-- OPTIONS OF SERVE]

MODEL is a name or a directory; without one `tiny-random` and `smollm2-135m`. Of each model three
servers run at the same time and are asked in turn, each round in another order, so that a noisy
minute is that of all three. Each answers so many streams of new prompts at once, greedily. The
collectors listen on loopback in this process. Ratios are taken within a round. Ends with 1 where a
median ratio is below `--at-least`, or where the collector has not got a trace of each request.

On a GPU all three servers share its memory: `--rows 32 --streams 32 -- --cache-budget-mb 8192`.
"""

import argparse
import contextlib
import socket
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import attrs
import trio

from served import Served, served
from serving import model_path

from semantic_trio.adapters.otel.readings import INTERVAL_SECONDS
from semantic_trio.entrypoints.bench.client import Client
from semantic_trio.entrypoints.bench.measures import throughput
from semantic_trio.entrypoints.bench.prompts import Prompts
from tests.otlp import Received, collector

OFF, ON, HANGING = "off", "on", "hanging"
WARM_UPS = 2
# Until the last traces have come: they are sent a second after they were observed.
PATIENCE_SECONDS = 30


@attrs.frozen
class Rates:
    """Tokens per second of each server, one for each round."""

    off: tuple[float, ...]
    on: tuple[float, ...]
    hanging: tuple[float, ...]

    def ratios(self, name: str) -> list[float]:
        """The rate of a server beside that without telemetry, by rounds."""
        rates: tuple[float, ...] = getattr(self, name)
        return [rate / off for rate, off in zip(rates, self.off, strict=True)]


@contextlib.contextmanager
def hanging_collector() -> Iterator[str]:
    """The address of a collector that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.asynccontextmanager
async def servers(
    options: Sequence[str], endpoints: dict[str, str], directory: Path
) -> AsyncIterator[dict[str, Served]]:
    """A server for each endpoint of a collector, by its name; none where it is empty."""
    async with contextlib.AsyncExitStack() as stack:
        running = {}
        for name, endpoint in endpoints.items():
            own = [*options, "--cache-dir", str(directory / name)]
            own += ["--otlp-endpoint", endpoint] if endpoint else []
            running[name] = await stack.enter_async_context(served(own, directory / f"{name}.log"))
        yield running


async def measure(model: Path, arguments: argparse.Namespace) -> bool:
    """Measure a model; True if telemetry costs no more than it may."""
    with (
        collector() as received,
        hanging_collector() as hanging,
        tempfile.TemporaryDirectory() as directory,
    ):
        endpoints = {OFF: "", ON: received.url, HANGING: hanging}
        options = ["--model", str(model), "--max-batch-size", str(arguments.rows)]
        options += arguments.options
        async with servers(options, endpoints, Path(directory)) as running:
            rates = await measured(running, arguments)
            requests = arguments.streams * (WARM_UPS + arguments.rounds)
            await arrived(received, requests)
    print(f"{model.name}, {arguments.streams} streams of {arguments.tokens} tokens")
    cheap = [report(rates, name, arguments.at_least) for name in (ON, HANGING)]
    traces = traced(received)
    print(f"  the collector got {traces} traces of {requests} requests", flush=True)
    print(f"  and {len(received.metrics)} readings, one each {INTERVAL_SECONDS:.0f} s", flush=True)
    return all(cheap) and traces == requests


async def measured(running: dict[str, Served], arguments: argparse.Namespace) -> Rates:
    """The rates of servers that are asked in turn."""
    found: dict[str, list[float]] = {name: [] for name in running}
    names = list(running)
    for number in range(-WARM_UPS, arguments.rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            stories = Prompts(f"{number} {name}")
            prompts = [stories.story(place) for place in range(arguments.streams)]
            rate = (await throughput(Client(running[name].url), prompts, arguments.tokens)).rate
            if number >= 0:
                found[name].append(rate)
    return Rates(**{name: tuple(rates) for name, rates in found.items()})


def report(rates: Rates, name: str, at_least: float) -> bool:
    """Print the ratio of a server; True if its median is not below the bound."""
    ratios = sorted(rates.ratios(name))
    median = statistics.median(ratios)
    print(
        f"  {name} / off: {median:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}), of "
        f"{statistics.median(getattr(rates, name)):.1f} and {statistics.median(rates.off):.1f} "
        f"tokens/s{'' if median >= at_least else f': below {at_least}'}"
    )
    return median >= at_least


def traced(received: Received) -> int:
    """The number of requests whose trace has come."""
    return len({span.trace_id for span in received.spans if span.name == "request"})


async def arrived(received: Received, requests: int) -> None:
    """Return when the trace of every request has come, or is late."""
    for _ in range(PATIENCE_SECONDS):
        if traced(received) >= requests:
            return
        await trio.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--at-least", type=float, default=0.99)
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    arguments = parser.parse_args(given[:at])
    arguments.options = given[at + 1 :]
    models = [
        Path(name) if Path(name).is_dir() else model_path(name)
        for name in arguments.models or ("tiny-random", "smollm2-135m")
    ]
    passed = [trio.run(measure, model, arguments) for model in models]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
