"""Talks with a server as a client does, greedily, and reads from the answers what of a prompt was
remembered.
"""

import itertools
import random
import re
from collections.abc import Sequence

import attrs
import httpx

from tests.process import ServerProcess

CACHE = re.compile(r"reused=(\d+)/(\d+); source=(\w+)(?:; cause=(\w+))?")
# Each a token of its own for the small models.
WORDS = (
    "red",
    "green",
    "blue",
    "sun",
    "moon",
    "tree",
    "river",
    "stone",
    "cloud",
    "bird",
    "house",
    "road",
    "lamp",
    "book",
    "glass",
    "paper",
    "water",
)
ANSWER_TOKENS = 8


@attrs.frozen
class Answer:
    """What was said, and what of the prompt was not computed for it."""

    text: str
    said_tokens: int
    prompt_tokens: int
    reused: int
    source: str
    cause: str  # empty: nothing known was lost

    @property
    def remembered(self) -> int:
        """Tokens the next turn can begin with: the last one was drawn and not read."""
        return self.prompt_tokens + self.said_tokens - 1


def words(seed: object, count: int) -> str:
    """Something nobody else says."""
    chance = random.Random(str(seed))
    return " ".join(chance.choice(WORDS) for _ in range(count))


def ask(
    server: ServerProcess,
    agent: str,
    *said: str,
    max_tokens: int = ANSWER_TOKENS,
    model: str = "default",
) -> Answer:
    """The answer an agent gets to what was said, in turn, by the user and the model."""
    sent = body(said) | {"session_id": agent, "max_tokens": max_tokens, "model": model}
    answered = httpx.post(f"{server.url}/v1/messages", json=sent, timeout=120)
    assert answered.status_code == 200, answered.text
    told = CACHE.match(answered.headers["x-semantic-cache"])
    assert told, answered.headers
    message = answered.json()
    text = "".join(block["text"] for block in message["content"])
    return Answer(
        text, message["usage"]["output_tokens"], int(told[2]), int(told[1]), told[3], told[4] or ""
    )


def body(said: Sequence[str]) -> dict[str, object]:
    """A request."""
    messages = [
        {"role": role, "content": text}
        for role, text in zip(itertools.cycle(("user", "assistant")), said, strict=False)
    ]
    return {"model": "default", "max_tokens": ANSWER_TOKENS, "temperature": 0, "messages": messages}
