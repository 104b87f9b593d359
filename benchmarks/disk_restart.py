"""What a restart costs an agent, and what its memory costs the disk, through HTTP on server processes.

python benchmarks/disk_restart.py [restart] [bytes] [--model smollm2-135m] [--tokens 1000 2000 4000 7000] [--rounds 2] [--json OUT]

restart: a conversation begins with one long message nobody has sent before (cold), the server ends by SIGTERM and starts again, and the next turn
sends all of it again with a new message of about 30 tokens (restored). Ratios are within one round, first token against first token.
bytes: what a turn of about 300 new tokens writes when the conversation is 7,000 long, and the disk space of ten agents with one prompt of 2,000.
"""

import argparse
import json
import os
import platform
import re
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from client import get
from memory_http import QUESTION, Conversation, opening
from serving import MODEL, Served, ours

LONG_TURN_WORDS, SYSTEM_TOKENS, AGENTS = 280, 2000, 10


def metric(server: Served, name: str) -> float:
    _, body, _ = get(server.port, "/metrics")
    found = re.search(rf"^{name} (\S+)$".encode(), body, re.MULTILINE)
    assert found, name
    return float(found[1])


def settle(server: Served) -> None:
    """Everything is on disk."""
    while metric(server, "semantic_disk_waiting"):
        time.sleep(0.05)


def restart(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """First token after a restart / of a conversation nobody has read."""
    found: list[dict[str, object]] = []
    for number in range(arguments.rounds):
        for tokens in arguments.tokens:
            with tempfile.TemporaryDirectory() as cache:
                begun = time.time()
                with ours(arguments.model, "--cache-dir", cache) as server:
                    conversation = Conversation(server)
                    cold = conversation.say(opening(tokens, f"{number} {tokens} {begun}"))
                with ours(arguments.model, "--cache-dir", cache) as server:
                    conversation.server = server
                    restored = conversation.say(QUESTION.format(1))
                    warm = conversation.say(QUESTION.format(2))
            ratio = cold.first / restored.first
            found.append({"tokens": tokens, "cold": cold.first, "restored": restored.first, "warm": warm.first, "ratio": ratio})
            reused = f"{restored.cached_tokens} of {restored.prompt_tokens} reused"
            times = f"cold {cold.first:6.2f} s, restored {restored.first * 1e3:5.0f} ms = 1/{ratio:.0f}"
            print(f"  {cold.prompt_tokens:6} tokens: {times}, {reused}; then warm {warm.first * 1e3:.0f} ms", flush=True)
    for tokens in arguments.tokens:
        ratios = [float(str(one["ratio"])) for one in found if one["tokens"] == tokens]
        print(f"  {tokens:6}: cold / restored {statistics.median(ratios):.0f}   (rounds {' '.join(f'{ratio:.0f}' for ratio in ratios)})")
    return found


def written(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Bytes on disk."""
    with tempfile.TemporaryDirectory() as cache, ours(arguments.model, "--cache-dir", cache) as server:
        conversation = Conversation(server)
        conversation.say(opening(7000, "bytes"))
        settle(server)
        before, used = metric(server, "semantic_disk_written_bytes_total"), metric(server, "semantic_disk_used_bytes")
        turn = conversation.say("Here is more. " + " ".join(f"word{i % 7}" for i in range(LONG_TURN_WORDS // 2)))
        settle(server)
        wrote = metric(server, "semantic_disk_written_bytes_total") - before
        new = turn.prompt_tokens - turn.cached_tokens
        print(f"  a turn of {new} new tokens behind {turn.cached_tokens} writes {wrote / 1e6:.1f} MB; the whole conversation is {used / 1e6:.1f} MB")
    shared: list[float] = []
    for count in (1, AGENTS):
        with tempfile.TemporaryDirectory() as cache, ours(arguments.model, "--cache-dir", cache) as server:
            for agent in range(count):
                one = Conversation(server)
                one.messages.append({"role": "system", "content": opening(SYSTEM_TOKENS, "shared")})
                one.say(f"You are number {agent}. What do you do?")
            settle(server)
            shared.append(metric(server, "semantic_disk_used_bytes"))
    print(f"  {AGENTS} agents with one prompt of {SYSTEM_TOKENS} tokens take {shared[1] / 1e6:.1f} MB, one takes {shared[0] / 1e6:.1f} MB:", end="")
    print(f" {shared[1] / shared[0]:.2f} times")
    return [{"turn_bytes": wrote, "turn_tokens": new, "conversation_bytes": used, "agents_bytes": shared}]


FIGURES = {"restart": restart, "bytes": written}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, []], help="which; all without")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 2000, 4000, 7000])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "trio"))
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}; {arguments.model}")
    found = {name: FIGURES[name](arguments) for name in arguments.figures or FIGURES}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
