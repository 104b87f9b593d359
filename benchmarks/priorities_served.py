"""The first token of an interactive request beside a full batch of background work, over HTTP,
against the same request alone and beside as much interactive work.

python benchmarks/priorities_served.py [--model smollm2-135m] [--background 16] [--batch 8]
[--rounds 5] [--delay 1.0]

Each round starts the background requests (1,000 words in, 200 tokens out), twice as many as the
batch has rows, and sends the interactive one (500 words) `--delay` seconds later. No prompt begins
like another. The three cases take turns.
"""

import argparse
import statistics

from client import Stream, chat
from serving import MODEL, Served, ours

CASES: dict[str, str | None] = {
    "alone": None,
    "beside background work": "flex",
    "beside as much interactive work": "default",
}
BACKGROUND_WORDS, BACKGROUND_ANSWER, WORDS, ANSWER = 1000, 200, 500, 20


def prompt(salt: str, count: int) -> str:
    """Return a prompt whose first words are its own."""
    words = "river stone light garden paper window cloud field bridge song".split()
    return f"{salt}: summarise. " + " ".join(words[(i * i) % 10] for i in range(count))


def first_token(
    server: Served, salt: str, tier: str | None, background: int, delay: float
) -> float:
    """Return the seconds to the first token of the interactive request."""
    one = chat(prompt(f"{salt} one", WORDS), ANSWER, server.model)
    if tier is None:
        server.run([one])
        return one.first
    others = [
        chat(prompt(f"{salt} {i}", BACKGROUND_WORDS), BACKGROUND_ANSWER, server.model)
        for i in range(background)
    ]
    for other in others:
        other.body["service_tier"] = tier

    def at(seconds: float) -> list[Stream]:
        return [one] if seconds >= delay else []

    server.run(others, at)
    if min(other.ended for other in others) == 0:
        raise RuntimeError("a background request did not end")
    return one.first


def main() -> None:
    """Print the median of each case, and its rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--background", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--delay", type=float, default=1.0, help="seconds")
    chosen = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in CASES}
    with ours(chosen.model, "--max-batch-size", str(chosen.batch)) as server:
        for number in range(chosen.rounds):
            for name, tier in CASES.items():
                salt = f"{number} {name}"
                found[name].append(first_token(server, salt, tier, chosen.background, chosen.delay))
    alone = statistics.median(found["alone"])
    for name, seconds in found.items():
        median = statistics.median(seconds)
        rounds = ", ".join(f"{one:.3f}" for one in seconds)
        print(
            f"{name}: first token after {median:.3f} s ({median / alone:.1f} times alone); rounds: "
            f"{rounds}"
        )


if __name__ == "__main__":
    main()
