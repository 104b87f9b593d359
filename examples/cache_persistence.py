"""An agent goes on after the server was started again: what it has read and said is on disk, and is
not computed a second time.

    python examples/cache_persistence.py [--model smollm2-135m] [--cache-dir DIR]

Starts servers of its own, in a directory that is gone afterwards unless one is given. Needs `make
install`, and httpx. docs/persistence.md explains what is kept. Expected output, but for names,
seconds and texts:

    agent-3eab20, read for the first time
        0.97 s:     0 of  1407 tokens reused, from none: ...
        0.60 s:  1414 of  1430 tokens reused, from ram : ...
    agent-3eab20, after the server was started again
        0.39 s:  1437 of  1457 tokens reused, from disk: ...
        0.22 s:  1464 of  1481 tokens reused, from ram : ...
"""

import argparse
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

HOUSE = " ".join(
    [
        "You are the archivist of a small town. What you know of it:",
        *(
            (
                f"House {number} was built of stone in {1700 + number}, and whoever lived there "
                "kept a diary."
            )
            for number in range(1, 61)
        ),
    ]
)
ADDRESS = re.compile(r" serves .+ on (http://\S+)")


@contextlib.contextmanager
def server(model: str, cache: Path) -> Iterator[str]:
    """A server on a free port: its URL. SIGTERM ends it, when everything is on disk."""
    command = [
        sys.executable,
        "-m",
        "semantic_trio",
        "serve",
        "--model",
        model,
        "--port",
        "0",
        "--cache-dir",
        str(cache),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            said = ""
            for line in process.stdout:
                said += line
                if found := ADDRESS.search(line):
                    yield found[1]
                    break
            else:
                raise SystemExit(f"the server did not start:\n{said}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def say(url: str, agent: str, message: str) -> None:
    """Say one thing to an agent, and print how long its answer took and what of its prompt was
    remembered.
    """
    begun = time.perf_counter()
    reply = httpx.post(
        f"{url}/v1/agents/{agent}/generate", json={"message": message, "max_tokens": 8}, timeout=300
    )
    seconds, answer = time.perf_counter() - begun, reply.raise_for_status().json()
    total, reused = answer["usage"]["prompt_tokens"], answer["usage"]["cached_tokens"]
    source = httpx.get(f"{url}/v1/agents/{agent}/last-turn").raise_for_status().json()["source"]
    print(
        f"  {seconds:6.2f} s: {reused:5} of {total:5} tokens reused, from {source:4}: "
        f"{' '.join(answer['text'].split())[:60]}"
    )


def main(model: str, cache: Path) -> None:
    """Talk, start again, talk on."""
    print(
        (
            f"starting {model}, which is fetched the first time, and reading about 1,400 tokens: "
            "on a busy CPU that takes minutes"
        ),
        flush=True,
    )
    with server(model, cache) as url:
        agent = (
            httpx.post(f"{url}/v1/agents", json={"system": HOUSE}).raise_for_status().json()["id"]
        )
        print(f"{agent[:12]}, read for the first time")
        say(url, agent, "Which house is the oldest?")
        say(url, agent, "And the youngest?")
    with server(model, cache) as url:
        print(f"{agent[:12]}, after the server was started again")
        say(url, agent, "What is house 7 made of?")
        say(url, agent, "And house 8?")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--cache-dir", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        main(arguments.model, arguments.cache_dir or Path(scratch))
