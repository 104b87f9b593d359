"""Memory of the server process in a churn of conversations, which should end in a plateau.

python benchmarks/memory_churn.py [--minutes 60] [--requests 200000] [--clients 4] [--words 120]
[--every 60] [--cache-mb 64] [--agents 200]
    [--model] [--trace]

The server runs in this process, with a scripted model or, with --model, the tiny random one; a
second process asks. Conversations are never told again, half of them have a second turn, and a
quarter come with an agent id of their own. Their messages have up to --words words: the longer they
are, the sooner the token histories reach their budget of 64 MiB. At intervals a line shows
requests, resident memory, what the token histories take and how many there are, and agents. With
--trace, tracemalloc shows the lines of code whose memory has grown most since the first line, at
the cost of a slower server that takes more itself. It ends after so many minutes or requests,
whichever comes first.
"""

import argparse
import functools
import http.client
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
import tracemalloc
import urllib.request
from pathlib import Path

import trio

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.entrypoints.logging import configure
from semantic_trio.entrypoints.serve import Server
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.adapters.scripted.rules import Rule

MODEL = "tiny-random"
WORDS = "river stone light garden paper window cloud field bridge song".split()
ANSWER_TOKENS = 4
TOP = 5
MIB = 1 << 20
SCRIPT = (Rule(text="It is fine."),)
COLUMNS = (
    "minute",
    "requests",
    "RSS MiB",
    "traced MiB",
    "histories MiB",
    "histories",
    "agents",
    "cache MiB",
)


# --------------------------------------------------------------------------------------------- load


class Load:
    """Clients that ask until there were enough requests or the time is over."""

    def __init__(self, url: str, requests: int, until: float, words: int) -> None:
        self.host, self.left, self.until, self.words = (
            url.removeprefix("http://"),
            requests,
            until,
            words,
        )
        self.lock = threading.Lock()

    def take(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0 and time.monotonic() < self.until

    def client(self, number: int) -> None:
        chance, connection = (
            random.Random(number),
            http.client.HTTPConnection(self.host, timeout=60),
        )
        while self.take():
            words = " ".join(chance.choices(WORDS, k=chance.randrange(5, self.words)))
            headers = {"content-type": "application/json"} | (
                {"x-agent-id": f"churn-{chance.getrandbits(64):x}"}
                if chance.random() < 0.25
                else {}
            )
            messages = [{"role": "user", "content": f"{chance.getrandbits(64):x} {words}"}]
            messages.append({"role": "assistant", "content": ask(connection, messages, headers)})
            if chance.random() < 0.5 and self.take():
                ask(connection, [*messages, {"role": "user", "content": "And then?"}], headers)

    def run(self, clients: int) -> None:
        threads = [
            threading.Thread(target=self.client, args=(number,)) for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def ask(
    connection: http.client.HTTPConnection, messages: list[dict[str, str]], headers: dict[str, str]
) -> str:
    body = {"model": "default", "max_tokens": ANSWER_TOKENS, "messages": messages}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {content}")
    return content["choices"][0]["message"]["content"] or "Yes."


# ------------------------------------------------------------------------------------------ figures


def resident() -> float:
    """Memory this process has in use; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def scraped(url: str) -> dict[str, float]:
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    return {
        name: float(value)
        for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)
    }


def figures(url: str) -> list[float]:
    found = scraped(url)
    used = {
        kind: found.get(f'semantic_memory_used_bytes{{kind="{kind}"}}', 0) / MIB
        for kind in ("token_histories", "cache_rows", "cache_blocks")
    }
    requests = sum(
        value
        for name, value in found.items()
        if name.startswith("semantic_request_duration_seconds_count")
    )
    traced = tracemalloc.get_traced_memory()[0] / MIB if tracemalloc.is_tracing() else 0.0
    cache = used["cache_rows"] + used["cache_blocks"]
    return [
        requests,
        resident(),
        traced,
        used["token_histories"],
        found["semantic_token_histories"],
        found["semantic_agents"],
        cache,
    ]


class Curve:
    """Lines of figures, each printed when it is taken."""

    def __init__(self, url: str) -> None:
        self.url, self.started = url, time.monotonic()
        self.first: tracemalloc.Snapshot | None = None
        self.rows: list[list[float]] = []
        print("".join(f"{name:>14}" for name in COLUMNS))

    def sample(self) -> None:
        row = [(time.monotonic() - self.started) / 60, *figures(self.url)]
        self.rows.append(row)
        print("".join(f"{value:>14,.1f}" for value in row), flush=True)
        if tracemalloc.is_tracing():
            self.show_growth()

    def show_growth(self) -> None:
        now = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__)]
        )
        if self.first is None:
            self.first = now
            return
        for line in now.compare_to(self.first, "lineno")[:TOP]:
            frame = line.traceback[0]
            print(
                (
                    f"    {line.size_diff / MIB:+8.2f} MiB {line.count_diff:+9,} blocks  "
                    f"{frame.filename}:{frame.lineno}"
                ),
                flush=True,
            )


# ---------------------------------------------------------------------------------------------- run


async def churn(
    server: Server, announced: trio.Event, url: list[str], chosen: argparse.Namespace
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await announced.wait()
        curve = Curve(url[0])
        await trio.to_thread.run_sync(curve.sample)
        load = [
            sys.executable,
            __file__,
            "--load",
            url[0],
            "--requests",
            str(chosen.requests),
            "--minutes",
            str(chosen.minutes),
        ]
        async with trio.open_nursery() as sampling:
            sampling.start_soon(sample_every, curve, chosen.every)
            await trio.run_process(
                [*load, "--clients", str(chosen.clients), "--words", str(chosen.words)]
            )
            sampling.cancel_scope.cancel()
        await trio.to_thread.run_sync(curve.sample)
        os.kill(os.getpid(), signal.SIGTERM)  # the server ends as it does for whoever runs it


async def sample_every(curve: Curve, seconds: float) -> None:
    while True:
        await trio.sleep(seconds)
        await trio.to_thread.run_sync(curve.sample)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument(
        "--words", type=int, default=120, help="most words of a message; 6 at least"
    )
    parser.add_argument("--every", type=float, default=60, help="seconds between two lines")
    parser.add_argument("--cache-mb", type=int, default=64)
    parser.add_argument("--agents", type=int, default=200, help="max_agents_in_memory")
    parser.add_argument(
        "--model", action="store_true", help="ask the tiny random model instead of a script"
    )
    parser.add_argument("--trace", action="store_true", help="show where memory grows")
    parser.add_argument("--load", metavar="URL", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.load:
        Load(
            chosen.load, chosen.requests, time.monotonic() + chosen.minutes * 60, chosen.words
        ).run(chosen.clients)
        return
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(
            port=0, model_id=MODEL, cache_dir=Path(directory),
            cache_budget_mb=chosen.cache_mb, disk_budget_mb=256, disk_floor_mb=0,
            max_agents_in_memory=chosen.agents,
        )  # fmt: skip
        configure("console", "error")
        announced, url = trio.Event(), []

        def announce(where: str) -> None:
            url.append(where)
            announced.set()

        model = open_catalogue(settings.data_dir).ensure(MODEL, Lines())
        server = Server(settings, model, announce, None if chosen.model else SCRIPT)
        if chosen.trace:
            tracemalloc.start()
        trio.run(functools.partial(churn, server, announced, url, chosen))


if __name__ == "__main__":
    main()
