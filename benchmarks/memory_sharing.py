"""Cost of agents that begin with one system prompt and arrive together: prompt tokens computed,
wall time, and what is kept afterwards.

python benchmarks/memory_sharing.py [--model smollm2-135m] [--agents 10] [--system 2000] [--rounds
2] [--no-rival] [--json OUT]

Every agent has a question of its own, and all are asked at once through HTTP. Computed is what the
server's usage says of each prompt, less what it reused. Common is how far all prompts agree, found
here with the model's own tokenizer. Kept is what the pool holds afterwards more than before. This
server and mlx-lm's own are started anew for every round, in turns.
"""

import argparse
import json
import os
import platform
import re
import statistics
import time
from importlib.metadata import version
from pathlib import Path

from client import Stream, get
from serving import MODEL, Served, model_path, ours, rival

from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.chain import common_tokens, pack
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.families import published_spec
from semantic_trio.domain.geometry import BLOCK_TOKENS, ModelCacheSpec

WORDS = "river stone light garden paper window cloud field bridge song".split()
TOKENS_PER_WORD = 1.02  # of these words, in the tokenizer of both built-in models
QUESTION = "You are agent {}. Tell in one sentence what you think of the word {}, and why."
MAX_TOKENS = 8
# A server on a CPU computes in float32.
ELEMENT_BITS = 32
BOUND = 1.1


class Prompts:
    """Prompts of all agents, in words and in tokens."""

    def __init__(self, model: str, agents: int, system: int, salt: str) -> None:
        count = int(system / TOKENS_PER_WORD) + 20
        self.system = f"{salt}: you know these words. " + " ".join(
            WORDS[(i * i + i // 7) % 10] for i in range(count)
        )
        self.questions = [QUESTION.format(i, WORDS[i % len(WORDS)]) for i in range(agents)]
        codec = load_codec(model_path(model))
        self.tokens = [
            codec.encode_prompt(self._conversation(question)).tokens for question in self.questions
        ]

    def _conversation(self, question: str) -> Conversation:
        return Conversation(
            (Message(Role.SYSTEM, (Text(self.system),)), Message(Role.USER, (Text(question),)))
        )

    def messages(self, question: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}, {"role": "user", "content": question}]

    @property
    def common(self) -> int:
        first, *others = map(pack, self.tokens)
        return min(common_tokens(first, other) for other in others)

    @property
    def own(self) -> int:
        return sum(len(tokens) - self.common for tokens in self.tokens)


def spec_of(model: str) -> ModelCacheSpec:
    spec = published_spec(
        json.loads((model_path(model) / "config.json").read_text()), model, ELEMENT_BITS
    )
    assert spec is not None
    return spec


def ask(server: Served, prompts: Prompts) -> tuple[float, list[Stream]]:
    streams = [
        server.talk(prompts.messages(question), MAX_TOKENS) for question in prompts.questions
    ]
    return server.run(streams), streams


def kept_bytes(server: Served) -> float:
    """Bytes that the pool holds when no request is served."""
    time.sleep(0.3)  # the rows are closed with the step after the last
    _, body, _ = get(server.port, "/metrics")
    found = re.findall(
        rb'^semantic_memory_used_bytes\{kind="cache_(?:rows|blocks|marks)"\} (\S+)$',
        body,
        re.MULTILINE,
    )
    assert found, "the metric is there"
    return sum(map(float, found))


def ours_once(model: str, agents: int, system: int, salt: str) -> dict[str, object]:
    prompts, spec = Prompts(model, agents, system, salt), spec_of(model)
    with ours(model) as server:
        before = kept_bytes(server)
        seconds, streams = ask(server, prompts)
        after = kept_bytes(server)
    assert [stream.prompt_tokens for stream in streams] == [
        len(tokens) for tokens in prompts.tokens
    ], "the server encodes as we do"
    computed = sum(stream.prompt_tokens - stream.cached_tokens for stream in streams)
    ideal, all_tokens = prompts.common + prompts.own, sum(len(tokens) for tokens in prompts.tokens)
    print(
        f"  {agents} prompts, {all_tokens} tokens, {prompts.common} of each common, {prompts.own} "
        "their own"
    )
    print(
        (
            f"  computed {computed} = {computed / ideal:.3f} x ({prompts.common} + {prompts.own}); "
            f"aim {BOUND}; {seconds:.2f} s"
        ),
        flush=True,
    )
    found: dict[str, object] = {
        "computed": computed,
        "common": prompts.common,
        "own": prompts.own,
        "seconds": seconds,
    }
    return found | show_kept(prompts, spec, streams, after - before)


def show_kept(
    prompts: Prompts, spec: ModelCacheSpec, streams: list[Stream], kept: float
) -> dict[str, object]:
    """A block is shared when all of it is common; what is common after the last such block is in
    every agent's own.
    """
    token = spec.block_bytes(1)
    # the token drawn last is read by nobody
    answers = sum(max(stream.tokens - 1, 0) for stream in streams)
    once = prompts.common + prompts.own + answers
    aligned = prompts.common // BLOCK_TOKENS * BLOCK_TOKENS
    in_blocks = aligned + len(streams) * (prompts.common - aligned) + prompts.own + answers
    separately = sum(len(tokens) for tokens in prompts.tokens) + answers
    print(
        f"  kept {kept / 2**20:.1f} MiB = {kept / token:.0f} tokens; each history on its own would "
        f"be {separately}, all of it counted once {once}, "
        f"whole common blocks counted once {in_blocks}",
        flush=True,
    )
    return {
        "kept_bytes": kept,
        "kept_tokens": kept / token,
        "once": once,
        "in_blocks": in_blocks,
        "separately": separately,
    }


def rival_once(model: str, agents: int, system: int, salt: str) -> dict[str, object]:
    prompts = Prompts(model, agents, system, salt)
    with rival(model=model) as server:
        seconds, streams = ask(server, prompts)
    cached = sum(stream.cached_tokens for stream in streams)
    print(
        (
            f"  mlx-lm server: {seconds:.2f} s, "
            f"{sum(len(tokens) for tokens in prompts.tokens) - cached} computed by its usage"
        ),
        flush=True,
    )
    return {"rival_seconds": seconds, "rival_cached": cached}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--agents", type=int, default=10)
    parser.add_argument(
        "--system", type=int, default=2000, help="tokens of the common system prompt, about"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "trio"))
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{packages}"
    )
    rounds = []
    for number in range(arguments.rounds):
        what = arguments.model, arguments.agents, arguments.system, f"round {number}"
        rounds.append(ours_once(*what) | ({} if arguments.no_rival else rival_once(*what)))
    if not arguments.no_rival:
        pairs = [(float(str(one["seconds"])), float(str(one["rival_seconds"]))) for one in rounds]
        mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(
            f"  wall time {mine:.2f} / {theirs:.2f} s = {mine / theirs:.2f}   (pairs "
            f"{' '.join(f'{a / b:.2f}' for a, b in pairs)})"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds, indent=1))


if __name__ == "__main__":
    main()
