"""Time to make a prompt of a request, and time that the event loop stands still for it.

python benchmarks/prompt_path.py [--model smollm2-135m|tiny-random] [--kilobytes 100] [--rounds 40]

A conversation as a coding agent has it: tools, a long system prompt, turns of calls and results, as
JSON in the words of the Messages API. Each round decodes and encodes it as the server does, once as
a first request and once as a next turn whose history is known. A ticker that wakes every
millisecond on the same loop tells the gaps.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import trio

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.adapters.http.anthropic.request import MessagesRequest, generation_params
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.model_card import ModelCard
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.application.answer import Encoded
from semantic_trio.application.engine import Engine
from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.salt import NO_SALT
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.conversation_digests import link
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.entrypoints import settings_loading
from semantic_trio.entrypoints.serve import SWITCH_SECONDS
from semantic_trio.testing import FakeRunner, MemoryFiles

WORDS = (
    "the tool reads a file and tells what is in it; every line counts, and none is changed unless "
    "it was asked for"
)


def body(kilobytes: int) -> bytes:
    """A request of about so many kilobytes: a third tools, a tenth system, the rest turns."""
    schema = {
        "type": "object",
        "properties": {f"p{i}": {"type": "string", "description": WORDS} for i in range(8)},
        "required": ["p0"],
    }
    tool_bytes = len(json.dumps(schema)) + 400
    tools = [
        {"name": f"tool{i}", "description": WORDS * 3, "input_schema": schema}
        for i in range(max(kilobytes * 333 // tool_bytes, 1))
    ]
    messages: list[dict[str, object]] = [{"role": "user", "content": "Mend the parser."}]
    turn = 0
    while len(json.dumps(messages)) < kilobytes * 567:
        call = {
            "type": "tool_use",
            "id": f"toolu_{turn}",
            "name": "tool0",
            "input": {"p0": f"src/file{turn}.py"},
        }
        result = {
            "type": "tool_result",
            "tool_use_id": f"toolu_{turn}",
            "content": f"{turn}: {WORDS}\n" * 12,
        }
        messages += [
            {"role": "assistant", "content": [{"type": "text", "text": WORDS}, call]},
            {"role": "user", "content": [result]},
        ]
        turn += 1
    system = [{"type": "text", "text": WORDS * (kilobytes * 100 // len(WORDS))}]
    return json.dumps(
        {"model": "m", "max_tokens": 10, "system": system, "tools": tools, "messages": messages}
    ).encode()


async def watched(work: Callable[[], Awaitable[Encoded]]) -> tuple[Encoded, float, list[float]]:
    """The result of some work, its seconds, and the gaps of a ticker meanwhile."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await trio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last - 0.001)
            last = now

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        await trio.sleep(0.005)
        begun = time.perf_counter()
        encoded = await work()
        seconds = time.perf_counter() - begun
        await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    return encoded, seconds, gaps


async def measure(new_model: Callable[[], ServedModel], raw: bytes, rounds: int) -> None:
    async def encode() -> Encoded:
        return await model.encode(
            generation_params(decode(raw, MessagesRequest)).conversation, NO_SALT
        )

    figures: dict[str, tuple[list[float], list[float]]] = {
        "first request": ([], []),
        "next turn": ([], []),
    }
    for number in range(rounds):
        model = new_model()
        first, seconds, gaps = await watched(encode)
        figures["first request"][0].append(seconds)
        figures["first request"][1].extend(gaps)
        history = first.conversation.messages[:-1]
        before = await model.encode(Conversation(history[:-1], first.conversation.tools), NO_SALT)
        told = link(before.digests[-1], history[-1])
        model.token_histories.remember(before.digests, before.prompt.tokens, (), told)
        _, seconds, gaps = await watched(encode)
        figures["next turn"][0].append(seconds)
        figures["next turn"][1].extend(gaps)
        if number == 0:
            said = first.conversation
            print(
                f"{len(raw) // 1000} KB, {len(first.prompt.tokens)} tokens, {len(said.messages)} "
                f"messages, {len(said.tools)} tools"
            )
    print(f"{'':16}{'median ms':>10}{'worst ms':>10}{'gap p99':>10}{'gap max':>10}")
    for name, (times, gaps) in figures.items():
        p99 = statistics.quantiles(gaps, n=100)[98]
        print(
            f"{name:16}{statistics.median(times) * 1e3:10.1f}{max(times) * 1e3:10.1f}"
            f"{p99 * 1e3:10.2f}{max(gaps) * 1e3:10.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-random")
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    path = open_catalogue(settings_loading.load({}).settings.data_dir).ensure(
        arguments.model, Lines()
    )
    runner = FakeRunner()
    limits = Limits(131_072, 8, 512, 0.25)
    memory = Memory(runner.spec, 1 << 24, 512)
    engine = Engine(
        runner,
        Scheduler(limits, memory),
        queue_limit=8,
        step_deadline_seconds=60,
        batch_window_seconds=0.01,
    )
    codec, card = load_codec(path), ModelCard("m", "m", 131_072, 0)
    sys.setswitchinterval(SWITCH_SECONDS)

    def new_model() -> ServedModel:
        return ServedModel(
            card, engine, codec, Persistence(memory, runner, MemoryFiles(), engine.nudge)
        )

    trio.run(measure, new_model, body(arguments.kilobytes), arguments.rounds)


if __name__ == "__main__":
    main()
