"""Swaps of the main model there and back: seconds, memory afterwards, and the first token of an
agent that was served before.

python -m benchmarks.swaps [--model smollm2-135m] [--other DIRECTORY] [--tokens 4000] [--rounds 3]

The other model is Gemma 3 270M, as the tests fetch it, where none is named. Memory is that of the
server process and, of it, MLX's arrays in use; both idle.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import attrs
import httpx
import msgspec

from tests.process import ServerProcess, serving
from tests.talk import words

MIB = 1 << 20
ACTIVE = 'semantic_memory_used_bytes{kind="active"} '


class Cached(msgspec.Struct, frozen=True):
    cached_tokens: int = 0


class Usage(msgspec.Struct):
    prompt_tokens: int
    prompt_tokens_details: Cached = Cached()


class Choice(msgspec.Struct):
    text: str = ""


class Piece(msgspec.Struct):
    """An event of a streamed answer, with the fields that are read of it."""

    choices: list[Choice] = []
    usage: Usage | None = None


@attrs.frozen
class Memory:
    """Bytes that an idle server has in use."""

    process: int
    arrays: int

    def __str__(self) -> str:
        return f"{self.process / MIB:,.0f} MiB, of it arrays {self.arrays / MIB:,.0f} MiB"


def memory_of(server: ServerProcess) -> Memory:
    server.until_written()
    after = server.get("/metrics").text.partition(ACTIVE)[2]
    return Memory(server.resident_bytes(), int(float(after.partition("\n")[0])))


def change(server: ServerProcess, how: str, model: str) -> float:
    """Load, unload or swap a model; the seconds that took."""
    answer = server.post(f"/admin/models/{how}", json={"model": model})
    answer.raise_for_status()
    return float(answer.json()["seconds"])


def first_token(server: ServerProcess, agent: str, prompt: str) -> tuple[float, int, int]:
    """Seconds to the first token, the tokens of the prompt, and those of them that were cached."""
    body = {
        "model": "default",
        "prompt": prompt,
        "session_id": agent,
        "max_tokens": 8,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, usage = time.monotonic(), 0.0, Usage(prompt_tokens=0)
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=600) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                chunk = msgspec.json.decode(line[6:], type=Piece)
                if not first and any(choice.text for choice in chunk.choices):
                    first = time.monotonic() - began
                usage = chunk.usage or usage
    return first, usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens


def measure(model: str, other: str, tokens: int, rounds: int) -> None:
    """Print the figures."""
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(
            Path(directory), "--models", other, "--cache-budget-mb", "1024", model=model
        ) as server,
    ):
        first_token(server, "short", words("short", 20))
        start = memory_of(server)
        print(f"after the start: {start}")
        there, back, ratios = list[float](), list[float](), list[float]()
        for number in range(rounds):
            agent = f"agent-{number}"
            prompt = words(agent, tokens)
            cold, length, _ = first_token(server, agent, prompt)
            server.until_written()
            there.append(change(server, "swap", other))
            first_token(server, "short", words("short", 20))
            back.append(change(server, "swap", model))
            memory = memory_of(server)
            warm, _, cached = first_token(server, agent, prompt)
            ratios.append(warm / cold)
            print(
                f"swap there {there[-1]:.1f} s, back {back[-1]:.1f} s; then {memory}; process "
                f"{memory.process / start.process:.3f}, arrays {memory.arrays / start.arrays:.3f} "
                f"of the start; first token after {length} tokens {cold:.2f} s cold, {warm:.3f} s "
                f"swapped back ({cached} cached): 1/{cold / warm:.0f}"
            )
        change(server, "unload", model)
        print(f"all unloaded: {memory_of(server)}")
    print(
        f"medians of {rounds}: there {statistics.median(there):.1f} s, back "
        f"{statistics.median(back):.1f} s, first token 1/{1 / statistics.median(ratios):.0f}"
    )


def _gemma() -> str:
    # only here: a GPU host has neither the package index nor the package that reads GGUF
    from semantic_trio.adapters.catalogue.progress import Lines
    from tests.integration.gemma import gemma3_270m

    return str(gemma3_270m(Lines()))


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--other", default="")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    measure(chosen.model, chosen.other or _gemma(), chosen.tokens, chosen.rounds)


if __name__ == "__main__":
    main()
