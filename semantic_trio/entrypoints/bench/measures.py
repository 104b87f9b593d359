"""The three measures, each over a client.

Knows what is sent and which times count. Knows nothing of processes, rounds or tables.
"""

from collections.abc import Sequence
from itertools import pairwise

import attrs
import trio

from semantic_trio.entrypoints.bench.client import Client, Message, TimedAnswer
from semantic_trio.entrypoints.bench.prompts import Prompts
from semantic_trio.entrypoints.bench.results import NeighbourGaps, Throughput, TurnTimes

# Tokens of an answer of which only the beginning counts.
SHORT_TOKENS = 8
# Streams beside a long prompt, and pieces of text each of them has before it is sent.
NEIGHBOURS, LEAD = 4, 16


async def throughput(client: Client, prompts: Sequence[str], tokens: int) -> Throughput:
    """Send all prompts at once, and wait for all answers."""
    answers = [TimedAnswer() for _ in prompts]
    async with trio.open_nursery() as nursery:
        for prompt, answer in zip(prompts, answers, strict=True):
            nursery.start_soon(client.chat, _user(prompt), tokens, answer)
    seconds = max(one.ended for one in answers) - min(one.started for one in answers)
    return Throughput(
        sum(one.tokens for one in answers), seconds, tuple(one.first_seconds for one in answers)
    )


async def in_turn(client: Client, prompts: Sequence[str], tokens: int) -> Throughput:
    """Send each prompt when the answer to the one before has ended."""
    single = [await throughput(client, [prompt], tokens) for prompt in prompts]
    return Throughput(
        sum(one.tokens for one in single),
        sum(one.seconds for one in single),
        tuple(one.first_seconds[0] for one in single),
    )


@attrs.define(eq=False)
class GrowingConversation:
    """A conversation that grows by a message and its answer a turn, as the client has seen them."""

    messages: list[Message] = attrs.field(factory=list)

    async def turn(self, client: Client, text: str) -> TurnTimes:
        """Say something, and note how long the answer's first token takes."""
        self.messages += _user(text)
        answer = await client.chat(self.messages, SHORT_TOKENS)
        thoughts = {"reasoning_content": answer.thoughts} if answer.thoughts else {}
        self.messages.append({"role": "assistant", "content": answer.text, **thoughts})
        return TurnTimes(answer.first_seconds, answer.prompt_tokens, answer.cached_tokens)


async def neighbours(
    client: Client, prompts: Prompts, words: int, tokens: int
) -> NeighbourGaps | None:
    """Have a long prompt read beside streams; None where they end before it is sent."""
    streams, long = [TimedAnswer(lead=LEAD) for _ in range(NEIGHBOURS)], TimedAnswer()
    async with trio.open_nursery() as nursery:
        for place, stream in enumerate(streams):
            nursery.start_soon(
                client.chat, _user(prompts.story("neighbour", place)), LEAD + tokens, stream
            )
        for stream in streams:
            await stream.is_running.wait()
        await client.chat(_user(prompts.opening(words, "neighbours")), SHORT_TOKENS, long)
    begun = max(one.started + one.first_seconds for one in streams)
    until = min(long.started + long.first_seconds, *(one.ended for one in streams))
    if not begun < long.started < until:
        return None
    before, meanwhile = (begun, long.started), (long.started, until)
    rates = _rate(streams, *before), _rate(streams, *meanwhile)
    gaps = [gap for one in streams for gap in pairwise(one.stamps)]
    longest_before = max((end - begin for begin, end in gaps if end <= long.started), default=0.0)
    longest_meanwhile = max(
        (end - begin for begin, end in gaps if end > long.started and begin < until), default=0.0
    )
    return NeighbourGaps(
        len(streams),
        long.prompt_tokens,
        long.first_seconds,
        *rates,
        longest_before,
        longest_meanwhile,
    )


def _rate(streams: Sequence[TimedAnswer], begin: float, end: float) -> float:
    """Tokens per second in a time; each piece of an answer counts for as many tokens as its pieces
    hold on average.
    """
    return sum(
        one.tokens / len(one.stamps) * sum(begin < at <= end for at in one.stamps)
        for one in streams
        if one.stamps
    ) / (end - begin)


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
