"""The first token of the second turn of a Claude Code session against that of its first: the real
client, a real model, one machine.

python -m benchmarks.claude_code [--model tiny-random|smollm2-135m] [--rounds 3] [-- arguments of
Claude Code, e.g. --bare]

Each round starts a server and a session of its own: a question, and with `--continue` another one.
Times are the server's, from submission to the first token. Answers are cut short, which Claude Code
answers by asking for the rest, so there are several later turns. It thinks nothing: an answer of
thoughts alone is asked for again in another first message.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import httpx

from tests.e2e.claude_code import NEWEST, Client, install, pointing_at
from tests.process import serving

QUESTIONS = "Say what this directory holds.", "And what is missing in it?"
FAMILY = "semantic_time_to_first_token_seconds"


def first_tokens(url: str) -> dict[str, tuple[float, float]]:
    """Seconds and number of first tokens so far, by where the prompt's beginning came from."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    values = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(FAMILY)
    }
    found = {}
    for cache in ("cold", "ram"):
        label = f'{{cache="{cache}"}}'
        found[cache] = (
            values.get(f"{FAMILY}_sum{label}", 0.0),
            values.get(f"{FAMILY}_count{label}", 0.0),
        )
    return found


def one_round(model: str, arguments: list[str]) -> tuple[float, float, float]:
    """Seconds to the first token of the first turn, mean of those of later turns, and how many
    these were.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(Path(directory), model=model) as server,
    ):
        settings = {
            **pointing_at(server.url, model),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "16",
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "131072",
            "MAX_THINKING_TOKENS": "0",
        }
        client = Client(
            install(NEWEST), Path(directory) / "home", Path(directory) / "project", settings
        )
        before = first_tokens(server.url)
        client.ask(QUESTIONS[0], *arguments)
        client.ask(QUESTIONS[1], "--continue", *arguments)
        after = first_tokens(server.url)
    cold, later = (
        tuple(new - old for new, old in zip(after[cache], before[cache], strict=True))
        for cache in ("cold", "ram")
    )
    return cold[0] / cold[1], later[0] / later[1], later[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-random")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("arguments", nargs="*")
    arguments = parser.parse_args()
    rounds = [one_round(arguments.model, arguments.arguments) for _ in range(arguments.rounds)]
    for first, later, turns in rounds:
        print(
            f"{arguments.model}: first turn {first:8.3f} s, {turns:2.0f} later turns {later:8.3f} "
            f"s on average: 1/{first / later:.0f}"
        )
    print(f"median 1/{statistics.median(first / later for first, later, _ in rounds):.0f}")


if __name__ == "__main__":
    main()
