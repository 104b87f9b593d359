"""What a new message costs in a long conversation, through HTTP: the first token of a fresh conversation beside those of its next turns.

python benchmarks/memory_http.py [--model smollm2-135m] [--tokens 1000 2000 4000 7000] [--turns 3] [--rounds 2] [--rival] [--json OUT]

A server process on a free port, streamed chat completions, greedy. A conversation begins with one long message nobody has sent before (cold); each
next turn sends all of it again with the answers as they were streamed, and a new message of about 30 tokens (warm). Reused is what the server's usage
says of a turn's prompt. With --rival, mlx-lm's own server is asked the same.
"""

import argparse
import json
import os
import platform
import statistics
from importlib.metadata import version
from pathlib import Path

from client import Stream
from serving import MODEL, Served, ours, rival

WORDS = "river stone light garden paper window cloud field bridge song".split()
TOKENS_PER_WORD = 1.02  # of these words, in the tokenizer of both built-in models
ANSWER_TOKENS = 8
QUESTION = "This is question {} about it all: which three of the words came most often, and which of them would you leave out to make it shorter?"


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
    return f"{salt}: remember these words. " + " ".join(WORDS[(i * i + i // 7) % 10] for i in range(count))


def once(server: Served, tokens: int, turns: int, salt: str) -> dict[str, object]:
    conversation = Conversation(server)
    cold = conversation.say(opening(tokens, salt))
    warm = [conversation.say(QUESTION.format(i + 1)) for i in range(turns)]
    return {
        "prompt_tokens": [one.prompt_tokens for one in (cold, *warm)],
        "cached_tokens": [one.cached_tokens for one in (cold, *warm)],
        "cold_seconds": cold.first,
        "warm_seconds": [one.first for one in warm],
        "ratio": cold.first / statistics.median(one.first for one in warm),
    }


def show(found: dict) -> None:  # type: ignore[type-arg]
    prompts, cached = found["prompt_tokens"], found["cached_tokens"]
    warm = ", ".join(f"{seconds * 1e3:.0f}" for seconds in found["warm_seconds"])
    reused = ", ".join(f"{cached[i]} of {prompts[i]}" for i in range(1, len(prompts)))
    cold = f"cold {found['cold_seconds']:7.2f} s ({cached[0]} reused)"
    print(f"  {prompts[0]:6} tokens: {cold}, warm {warm} ms = 1/{found['ratio']:.0f}; reused {reused}", flush=True)


def measure(server: Served, name: str, arguments: argparse.Namespace) -> list[dict[str, object]]:
    print(f"{name}, {server.model}")
    found = []
    for number in range(arguments.rounds):
        for tokens in arguments.tokens:
            found.append({"server": name, "tokens": tokens} | once(server, tokens, arguments.turns, f"{name} {number} {tokens}"))
            show(found[-1])
    for tokens in arguments.tokens:
        ratios = [float(str(one["ratio"])) for one in found if one["tokens"] == tokens]
        print(f"  {tokens:6}: cold / warm {statistics.median(ratios):.0f}   (rounds {' '.join(f'{ratio:.0f}' for ratio in ratios)})", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 2000, 4000, 7000])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rival", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "trio"))
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}")
    with ours(arguments.model) as server:
        found = measure(server, "semantic-trio", arguments)
    if arguments.rival:
        with rival(model=arguments.model) as server:
            found += measure(server, "mlx-lm server", arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
