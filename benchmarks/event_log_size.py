"""Size of the event log against dumps of the whole state after each event, on a fake model and
virtual time.

python -m benchmarks.event_log_size [AGENTS TURNS WORDS]
"""

import json
import sys

import attrs
import msgspec
import structlog
import trio
import trio.testing

from semantic_trio.adapters.events.lines import line_of
from semantic_trio.domain.observation import Observation, Observed
from semantic_trio.testing import FakeRunner
from tests.http.serving import Served, openai_body, post, running, served


def state(server: Served) -> bytes:
    memory = server.engine.memory
    entries = [
        {
            "key": entry.key.hex(),
            "kind": entry.kind.value,
            "memory": entry.memory.value,
            "disk": entry.disk.value,
            "pins": entry.pins,
        }
        for entry in memory.store.entries()
    ]
    agents = [
        {
            "id": agent.id,
            "tokens": agent.tokens,
            "blocks": [key.hex() for key in agent.blocks],
            "turns": agent.turns,
            "rows": agent.rows,
        }
        for agent in memory.agents
    ]
    return json.dumps({"entries": entries, "agents": agents}).encode()


@attrs.define(eq=False)
class Sizes:
    """An observer that adds up the bytes of lines and of dumps."""

    server: Served
    events: int = 0
    log: int = 0
    dumps: int = 0

    def observe(self, observation: Observation) -> None:
        self.events += 1
        self.log += (
            len(msgspec.json.encode(line_of(Observed(self.events, 1.8e9, 0.0, observation)))) + 1
        )
        self.dumps += len(state(self.server))


async def measure(agents: int, turns: int, words: int) -> None:
    runner = FakeRunner(seconds_per_step=0.01)
    async with running(
        served(runner, context_length=1 << 16, budget_bytes=1 << 26, disk_bytes=1 << 30)
    ) as server:
        sizes = Sizes(server)
        server.observers.add(sizes)
        for turn in range(1, turns + 1):
            for agent in range(agents):
                text = f"{agent} " * 10 + " ".join(f"w{number}" for number in range(words * turn))
                await post(
                    server.app,
                    "/v1/chat/completions",
                    openai_body(text, max_tokens=16, session_id=f"agent-{agent}"),
                )
        await trio.sleep(5)
    print(
        (
            f"{agents} agents, {turns} turns: {sizes.events} events, {sizes.log:,} bytes, "
            f"{sizes.log // (agents * turns):,} a turn;"
        ),
        end=" ",
    )
    print(f"dumps {sizes.dumps:,} bytes, {sizes.dumps / sizes.log:,.0f} times as much")


def drop(*_: object) -> structlog.typing.EventDict:
    raise structlog.DropEvent


if __name__ == "__main__":
    structlog.configure(processors=[drop])
    trio.run(
        measure,
        *(map(int, sys.argv[1:]) if sys.argv[1:] else (10, 3, 200)),
        clock=trio.testing.MockClock(autojump_threshold=0),
    )
