"""Bytes on disk that the memory of agents costs, through HTTP on server processes.

python benchmarks/disk_bytes.py [--model smollm2-135m] [--json OUT]

What a turn of about 300 new tokens writes when the conversation is 7,000 long, and the disk space
of ten agents with one prompt of 2,000.
"""

import argparse
import json
import os
import platform
import re
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from client import Stream, get
from memory_sharing import TOKENS_PER_WORD, WORDS
from serving import MODEL, Served, ours

LONG_TURN_WORDS, SYSTEM_TOKENS, AGENTS = 280, 2000, 10
ANSWER_TOKENS = 8


def metric(server: Served, name: str) -> float:
    _, body, _ = get(server.port, "/metrics")
    found = re.search(rf"^{name} (\S+)$".encode(), body, re.MULTILINE)
    assert found, name
    return float(found[1])


def settle(server: Served) -> None:
    """Everything is on disk."""
    while metric(server, "semantic_disk_waiting"):
        time.sleep(0.05)


class Conversation:
    """Grows by a message and its answer at a time."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.messages: list[dict[str, str]] = []

    def say(self, text: str) -> Stream:
        self.messages.append({"role": "user", "content": text})
        answer = self.server.talk(self.messages, ANSWER_TOKENS)
        self.server.run([answer])
        self.messages.append({"role": "assistant", "content": answer.text or "Yes."})
        return answer


def opening(tokens: int, salt: str) -> str:
    count = int(tokens / TOKENS_PER_WORD)
    return f"{salt}: remember these words. " + " ".join(
        WORDS[(i * i + i // 7) % 10] for i in range(count)
    )


def written(arguments: argparse.Namespace) -> dict[str, object]:
    """Bytes on disk."""
    with (
        tempfile.TemporaryDirectory() as cache,
        ours(arguments.model, "--cache-dir", cache) as server,
    ):
        conversation = Conversation(server)
        conversation.say(opening(7000, "bytes"))
        settle(server)
        before, used = (
            metric(server, "semantic_disk_written_bytes_total"),
            metric(server, "semantic_disk_used_bytes"),
        )
        turn = conversation.say(
            "Here is more. " + " ".join(f"word{i % 7}" for i in range(LONG_TURN_WORDS // 2))
        )
        settle(server)
        wrote = metric(server, "semantic_disk_written_bytes_total") - before
        new = turn.prompt_tokens - turn.cached_tokens
        print(
            f"  a turn of {new} new tokens behind {turn.cached_tokens} writes {wrote / 1e6:.1f} "
            f"MB; the whole conversation is {used / 1e6:.1f} MB"
        )
    shared: list[float] = []
    for count in (1, AGENTS):
        with (
            tempfile.TemporaryDirectory() as cache,
            ours(arguments.model, "--cache-dir", cache) as server,
        ):
            for agent in range(count):
                one = Conversation(server)
                one.messages.append({"role": "system", "content": opening(SYSTEM_TOKENS, "shared")})
                one.say(f"You are number {agent}. What do you do?")
            settle(server)
            shared.append(metric(server, "semantic_disk_used_bytes"))
    print(
        (
            f"  {AGENTS} agents with one prompt of {SYSTEM_TOKENS} tokens take "
            f"{shared[1] / 1e6:.1f} MB, one takes {shared[0] / 1e6:.1f} MB:"
        ),
        end="",
    )
    print(f" {shared[1] / shared[0]:.2f} times")
    return {
        "turn_bytes": wrote,
        "turn_tokens": new,
        "conversation_bytes": used,
        "agents_bytes": shared,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "trio"))
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{packages}; {arguments.model}"
    )
    found = written(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
