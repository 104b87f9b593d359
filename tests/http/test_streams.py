"""Events of a stream hold all that has come since the write before, and a stream that keeps up gets
every token at once.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.serving.sse import EventSource, answer_events, event_stream
from semantic_trio.adapters.http.serving.write_pace import BURST, WRITE_SECONDS, WritePace
from semantic_trio.domain.conversation import Part, Thinking
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Failed, Finished, FinishReason
from semantic_trio.testing import FakeRunner
from tests.http.agents import create
from tests.http.messages import Speaker
from tests.http.serving import Call, Served, anthropic_body, openai_body, running, served

STORY = "The river runs past the garden, and nobody minds."
SECONDS_PER_STEP = 0.05


def data_of(content: bytes) -> Iterator[dict[str, object]]:
    """The data of the events that have any."""
    for line in content.decode().splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def chat_text(data: dict[str, object]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in data.get("choices", []))  # type: ignore[attr-defined]


def message_text(data: dict[str, object]) -> str:
    return str(data["delta"]["text"]) if data["type"] == "content_block_delta" else ""  # type: ignore[index]


def response_text(data: dict[str, object]) -> str:
    return str(data["delta"]) if data["type"] == "response.output_text.delta" else ""


def turn_text(data: dict[str, object]) -> str:
    return str(data.get("text", ""))


@attrs.frozen
class Wire:
    """A protocol: where it is spoken, what it is asked, and the text of one event."""

    path: str
    body: dict[str, object]
    text: Callable[[dict[str, object]], str]

    def call(self, server: Served, kind: type[Call] = Call, **fields: object) -> Call:
        """A streamed request that has not been made."""
        return kind(
            server.app,
            "POST",
            self.path,
            json.dumps({**self.body, "stream": True, **fields}).encode(),
        )

    def texts(self, content: bytes) -> list[str]:
        """The text of each event that has any."""
        return [text for data in data_of(content) if (text := self.text(data))]


WIRES = {
    "chat": Wire("/v1/chat/completions", openai_body(max_tokens=500), chat_text),
    "messages": Wire("/v1/messages", anthropic_body(max_tokens=500), message_text),
    "responses": Wire(
        "/v1/responses",
        {"model": "org/tiny", "input": "hi", "max_output_tokens": 500},
        response_text,
    ),
    "turns": Wire("/v1/agents/one/generate", {"message": "hi", "max_tokens": 500}, turn_text),
}


@attrs.define(eq=False)
class SlowCall(Call):
    """A client whose connection takes nothing after the first text until it is released."""

    released: trio.Event = attrs.field(init=False, factory=trio.Event)

    async def _send(self, message: dict[str, object]) -> None:
        await super()._send(message)
        if len(self.chunks) > 1:  # the opening and the first token
            await self.released.wait()


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each protocol in turn."""
    return WIRES[request.param]


async def test_a_stream_that_is_alone_gets_each_token_at_once(
    wire: Wire, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(Speaker(says=STORY, seconds_per_step=SECONDS_PER_STEP))) as server:
        await create(server, id="one")
        call = await wire.call(server).run()

    times = [time for time, chunk in call.chunks if wire.texts(chunk)]
    assert wire.texts(call.content) == list(STORY)
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == pytest.approx(
        [SECONDS_PER_STEP] * (len(STORY) - 1)
    )


async def test_what_has_come_during_a_write_is_one_event(
    wire: Wire, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        running(served(Speaker(says=STORY, seconds_per_step=SECONDS_PER_STEP))) as server,
        trio.open_nursery() as nursery,
    ):
        await create(server, id="one")
        call = wire.call(server, SlowCall)
        assert isinstance(call, SlowCall)
        nursery.start_soon(call.run)
        await trio.sleep(SECONDS_PER_STEP * 20)
        before = wire.texts(call.content)
        call.released.set()
        await trio.testing.wait_all_tasks_blocked()
        [*_, after] = wire.texts(call.content)
        await trio.sleep(SECONDS_PER_STEP * len(STORY))

    assert "".join(before) == STORY[0]
    assert len(after) > 10, "all that has come is in one event"
    assert wire.texts(call.content)[2:] == list(STORY[1 + len(after) :])
    assert call.is_complete


async def test_a_slow_client_holds_nobody_up(
    wire: Wire, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        running(served(Speaker(says=STORY, seconds_per_step=SECONDS_PER_STEP))) as server,
        trio.open_nursery() as nursery,
    ):
        await create(server, id="one")
        nursery.start_soon(wire.call(server, SlowCall).run)
        await trio.testing.wait_all_tasks_blocked()
        quick = await WIRES["chat"].call(server).run()
        nursery.cancel_scope.cancel()

    assert WIRES["chat"].texts(quick.content) == list(STORY)


async def test_many_streams_share_the_writes_and_lose_nothing(
    wire: Wire, autojump_clock: trio.testing.MockClock
) -> None:
    """Steps so fast that there is no time for a write per token."""
    fast, count = WRITE_SECONDS * 4, 16
    async with running(served(Speaker(says=STORY, seconds_per_step=fast), rows=count)) as server:
        for number in range(count):
            await create(server, id=f"one{number}")
        path = wire.path.replace("/one/", "/one{}/")
        calls = [
            attrs.evolve(wire, path=path.format(number)).call(server) for number in range(count)
        ]
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call.run)

    told = [wire.texts(call.content) for call in calls]
    assert {"".join(texts) for texts in told} == {STORY}
    assert sum(map(len, told)) < count * len(STORY) / 2
    assert all(call.is_complete for call in calls)


@pytest.mark.parametrize("stop", [None, "garden", "nobody minds"])
async def test_a_merged_end_says_what_a_whole_answer_says(
    wire: Wire, stop: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    fields: dict[str, object] = (
        {}
        if stop is None or wire is WIRES["responses"]
        else {"stop_sequences" if wire is WIRES["messages"] else "stop": [stop]}
    )
    async with running(served(Speaker(says=STORY))) as server, trio.open_nursery() as nursery:
        await create(server, id="one")
        call = wire.call(server, SlowCall, **fields)
        assert isinstance(call, SlowCall)
        nursery.start_soon(call.run)
        await trio.sleep(10)
        call.released.set()

    assert "".join(wire.texts(call.content)) == (
        STORY.partition(stop)[0] if stop and fields else STORY
    )
    assert len(wire.texts(call.content)) <= 2
    assert call.is_complete


async def test_a_merged_event_tells_of_each_of_its_tokens(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(Speaker(says=STORY))) as server, trio.open_nursery() as nursery:
        call = WIRES["chat"].call(server, SlowCall, logprobs=True, top_logprobs=2)
        assert isinstance(call, SlowCall)
        nursery.start_soon(call.run)
        await trio.sleep(10)
        call.released.set()

    events: Any = data_of(call.content)
    told = [
        choice["logprobs"]["content"]
        for data in events
        for choice in data["choices"]
        if choice["logprobs"]
    ]
    assert len(told) <= 3
    assert "".join(one["token"] for tokens in told for one in tokens) == STORY
    assert {len(one["top_logprobs"]) for tokens in told for one in tokens} == {2}


async def test_a_client_that_leaves_while_its_stream_waits_for_a_turn_leaves_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=SECONDS_PER_STEP))) as server,
        trio.open_nursery() as nursery,
    ):
        for _ in range(10_000):  # others have the turns of the next seconds
            with trio.CancelScope(deadline=trio.current_time()):
                await server.state.pace.turn()
        call = WIRES["chat"].call(server)
        nursery.start_soon(call.run)
        await trio.sleep(1)
        call.gone.set()
        await trio.sleep(2 * SECONDS_PER_STEP + 0.02)

        assert len(call.chunks) == 2, "the opening and the first token"
        assert (server.engine.open_generations, server.runner.rows) == (0, {})


@attrs.define(eq=False)
class Thinker:
    """An answer that thinks for a while, faster than any stream is written to."""

    seconds: float
    reads: int = 0

    async def receive(self) -> list[Part | Finished | Failed]:
        await trio.sleep(WRITE_SECONDS / 10)
        self.reads += 1
        is_over = trio.current_time() >= self.seconds
        return (
            [Finished(FinishReason.END_OF_TURN, "", None, 1, self.reads)]
            if is_over
            else [Thinking("hm")]
        )


class Silent:
    """A protocol that tells no thoughts."""

    ping = b"ping"

    def opening(self) -> bytes:
        return b"begin"

    def part(self, part: Part) -> bytes:
        return b""

    def ending(self, finished: Finished) -> bytes:
        return b"end"

    def failure(self, error: SemanticError) -> bytes:
        return b"error"


async def test_a_stream_that_is_told_nothing_is_read_in_its_turns_and_kept_alive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    thinker = Thinker(trio.current_time() + 1)
    events: EventSource[Part] = thinker
    response = event_stream(answer_events(events, Silent(), WritePace(), ping_seconds=0.4))
    async with response.response as body:
        told = [chunk async for chunk in body]

    assert told == [b"begin", b"ping", b"ping", b"end"]
    assert thinker.reads <= BURST + 1 / WRITE_SECONDS + len(told)


async def test_turns_are_taken_in_order_and_at_once_while_there_are_few(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pace, taken, begun = WritePace(), list[tuple[int, float]](), trio.current_time()

    async def take(number: int) -> None:
        await pace.turn()
        taken.append((number, trio.current_time() - begun))

    async with trio.open_nursery() as nursery:
        for number in range(BURST + 3):
            nursery.start_soon(take, number)

    late = sorted(seconds for _, seconds in taken)[BURST:]
    assert [seconds for _, seconds in taken[:BURST]] == pytest.approx([0] * BURST)
    assert late == pytest.approx([WRITE_SECONDS, 2 * WRITE_SECONDS, 3 * WRITE_SECONDS])


async def test_a_pace_that_was_quiet_has_no_more_than_a_burst(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pace = WritePace()
    await trio.sleep(100)
    begun = trio.current_time()
    for _ in range(BURST + 1):
        await pace.turn()

    assert trio.current_time() - begun == pytest.approx(WRITE_SECONDS)
