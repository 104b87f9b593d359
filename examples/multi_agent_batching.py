"""Several agents with one system prompt, all at once, two turns each: what is common is read once,
and a second turn reads only what is new.

    make serve                                                # in another terminal
    python examples/multi_agent_batching.py [--url http://127.0.0.1:8000] [--agents 4]

Needs nothing but `pip install httpx trio`. `--url` names another server, SEMANTIC_API_KEY its key.
docs/memory.md explains what is shared. Expected output for three agents, but for their names and
texts:

    agent-f194ea:    0 tokens reused, 1106 read, 24 written: ...
    agent-64f862: 1098 tokens reused,    8 read, 24 written: ...
    agent-7f8653: 1098 tokens reused,    9 read, 24 written: ...
    agent-f194ea: 1129 tokens reused,   17 read, 24 written: ...
    agent-7f8653: 1130 tokens reused,   17 read, 24 written: ...
    agent-64f862: 1129 tokens reused,   17 read, 24 written: ...
"""

import argparse
import os

import httpx
import trio

SYSTEM = " ".join(
    [
        (
            "You are one of several editors who look at the same newspaper. Answer in one "
            "sentence. The rules of the house:"
        ),
        *(
            (
                f"Rule {i}: paragraph {i} of an article says who did what, where and when, and "
                "nothing is said twice."
            )
            for i in range(1, 41)
        ),
    ]
)
TOPICS = [
    "the sea",
    "winter",
    "bread",
    "a library",
    "the moon",
    "a train",
    "an old clock",
    "a mountain",
]


async def turn(client: httpx.AsyncClient, agent: str, message: str) -> None:
    """Say one thing to an agent, and print what the answer cost."""
    reply = await client.post(
        f"/v1/agents/{agent}/generate", json={"message": message, "max_tokens": 24}
    )
    answer = reply.raise_for_status().json()
    usage = answer["usage"]
    reused, read = usage["cached_tokens"], usage["prompt_tokens"] - usage["cached_tokens"]
    print(
        f"{agent[:12]}: {reused:4} tokens reused, {read:4} read, {usage['completion_tokens']:2} "
        f"written: {' '.join(answer['text'].split())[:60]}"
    )


async def live(client: httpx.AsyncClient, topic: str) -> None:
    """An agent's life: created, asked twice, deleted."""
    created = await client.post("/v1/agents", json={"system": SYSTEM})
    agent = created.raise_for_status().json()["id"]
    try:
        await turn(client, agent, f"Write a headline about {topic}.")
        await turn(client, agent, "Now make it shorter.")
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await client.delete(f"/v1/agents/{agent}")


async def main(url: str, agents: int) -> None:
    """Have all of them live at once."""
    key = os.environ.get("SEMANTIC_API_KEY")
    headers = {"x-api-key": key} if key else {}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, timeout=300) as client,
        trio.open_nursery() as nursery,
    ):
        for i in range(agents):
            nursery.start_soon(live, client, TOPICS[i % len(TOPICS)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--agents", type=int, default=4)
    arguments = parser.parse_args()
    try:
        trio.run(main, arguments.url, arguments.agents)
    except* httpx.ConnectError:
        raise SystemExit(
            f"no server answers at {arguments.url}: start one with `make serve` in another terminal"
        ) from None
