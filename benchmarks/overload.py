"""Many streams at once, and more requests than the queue takes: what is dropped, how late the last
is, and what it is like afterwards.

python benchmarks/overload.py [--streams 16] [--rounds 5] [--flood 64] [--pace-ms 20] [--tokens 32]

The server is scripted: a token takes --pace-ms whatever runs beside it, so the device is not what
streams share, and what is measured is the server's own part. With a real device a step of 16 rows
takes longer than one of a single row: `semantic-trio bench` shows by how much. First single
requests, then so many streams at once: every answer has to be whole, and the 95th percentile of
their times is set against the median of the single ones. Then a flood that the queue cannot take
(queue_limit 8): each request is answered or refused with 429, none is left hanging; and single
requests again, for the recovery. It ends with 1 if a stream was dropped or something else than an
answer or a refusal came.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import trio
from served import served

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.bench.client import TimedAnswer, Client, Message
from semantic_trio.entrypoints.bench.prompts import Prompts

SINGLES = 10
QUEUE = "8"
REFUSED = "says 429"


def seconds(answer: TimedAnswer) -> float:
    """Time of a whole answer."""
    return answer.ended - answer.started


class Load:
    """Requests of one run, and their outcome."""

    def __init__(self, client: Client, prompts: Prompts, tokens: int) -> None:
        self.client, self.prompts, self.tokens, self.asked = client, prompts, tokens, 0
        self.refused, self.failed = 0, list[str]()

    async def ask(self, found: list[TimedAnswer]) -> None:
        self.asked += 1
        message: Message = {"role": "user", "content": self.prompts.story(self.asked)}
        try:
            found.append(await self.client.chat([message], self.tokens))
        except InvalidRequestError as error:
            if REFUSED in str(error):
                self.refused += 1
            else:
                self.failed.append(str(error))

    async def singles(self) -> float:
        """Median seconds of single requests, one after the other."""
        found: list[TimedAnswer] = []
        for _ in range(SINGLES):
            await self.ask(found)
        return statistics.median(map(seconds, found))

    async def at_once(self, count: int) -> list[TimedAnswer]:
        found: list[TimedAnswer] = []
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self.ask, found)
        return found


async def measure(directory: Path, options: argparse.Namespace) -> int:
    (directory / "script.json").write_text(
        json.dumps([{"text": "word " * 500, "pace_seconds": options.pace_ms / 1000}])
    )
    given = [
        "--script",
        directory / "script.json",
        "--max-batch-size",
        options.streams,
        "--queue-limit",
        QUEUE,
        "--cache-dir",
        directory / "cache",
    ]
    async with served([str(one) for one in given], directory / "log") as server:
        load = Load(Client(server.url, None, "tiny-random"), Prompts("overload"), options.tokens)
        await load.singles()
        before = await load.singles()
        times, dropped = [], 0
        for _ in range(options.rounds):
            found = await load.at_once(options.streams)
            times += [seconds(one) for one in found]
            dropped += options.streams - sum(one.tokens == options.tokens for one in found)
        late = statistics.quantiles(times, n=20)[-1]
        flooded = await load.at_once(options.flood)
        refused = load.refused
        after = await load.singles()
    print(
        f"{options.streams} streams, {options.rounds} rounds: {dropped} dropped, p95 "
        f"{late / before:.2f} times the median of one alone"
    )
    print(
        f"flood of {options.flood}: {len(flooded)} answered, {refused} refused, {len(load.failed)} "
        "failed"
    )
    print(f"one alone after the flood: {after / before:.2f} times before")
    for failure in dict.fromkeys(load.failed):
        print(f"failed: {failure}")
    return 1 if dropped or load.failed or len(flooded) + refused != options.flood else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flood", type=int, default=64)
    parser.add_argument("--pace-ms", type=float, default=20)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semantic-trio-overload-") as directory:
        return trio.run(measure, Path(directory), options)


if __name__ == "__main__":
    sys.exit(main())
