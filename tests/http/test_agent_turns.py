"""Turns with agents whose conversation the server keeps: only what is new travels, and turns of one
agent never overtake each other.
"""

import itertools
import json

import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.prompt import NOTHING_KNOWN, Known, Prompt
from semantic_trio.domain.step import StepPlan
from semantic_trio.testing import ByteCodec, FakeRunner
from tests.http.agents import create, delete, do, say, view
from tests.http.messages import events
from tests.http.serving import Call, anthropic_body, get, post, running, served


async def test_a_second_turn_sends_and_reads_what_is_new(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        agent = await create(server, system="Be brief.")
        first = await say(server, agent, "one")
        second = await say(
            server, agent, {"role": "user", "content": [{"type": "text", "text": "two"}]}
        )

    whole_first = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert second["usage"]["prompt_tokens"] == whole_first + len("\nuser:two\nassistant:")
    assert second["usage"]["cached_tokens"] >= whole_first - 1, (
        "the last token was drawn and not read"
    )
    assert second["cache"] == {
        "reused": second["usage"]["cached_tokens"],
        "prompt_tokens": second["usage"]["prompt_tokens"],
        "source": "ram",
        "cause": None,
        "lost": 0,
    }
    assert (second["finish_reason"], len(second["text"])) == ("max_tokens", 5)


async def test_a_stream_tells_what_the_plain_answer_tells(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        plain = await say(server, await create(server, id="plain"))
        await delete(server.app, "plain")
        await create(server, id="plain")
        stream = await do(
            server, "plain", "generate", message="hi", max_tokens=5, temperature=0, stream=True
        )
        after = await view(server, "plain")

    told = list(events(stream.content))
    assert [name for name, _ in itertools.groupby(name for name, _ in told)] == [
        "start",
        "token",
        "end",
    ], "tokens that come together may be one event"
    assert "".join(str(data["text"]) for name, data in told if name == "token") == plain["text"]
    assert told[-1][1] == {
        key: value for key, value in plain.items() if key not in {"text", "thinking", "tool_calls"}
    }
    assert (stream.is_complete, after["messages"]) == (True, 2)


async def test_turns_of_one_agent_are_in_order_and_delay_nobody_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def ask(agent: str, message: str) -> None:
        stream = message == "two"
        call = await do(
            server, agent, "generate", message=message, max_tokens=10, temperature=0, stream=stream
        )
        ended[message] = trio.current_time()
        opened[message] = call.chunks[0][0]

    ended: dict[str, float] = {}
    opened: dict[str, float] = {}
    settings = HttpSettings(ping_seconds=0.3)
    async with (
        running(served(FakeRunner(seconds_per_step=0.1), settings)) as server,
        trio.open_nursery() as nursery,
    ):
        await create(server, id="busy")
        await create(server, id="other")
        for agent, message in [
            ("busy", "one"),
            ("busy", "two"),
            ("other", "aside"),
            ("busy", "three"),
        ]:
            nursery.start_soon(ask, agent, message)
            await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
    conversation = [
        message.text for message in server.engine.memory.agents.get("busy").conversation.messages
    ]

    assert conversation[::2] == ["one", "two", "three"]
    assert ended["aside"] == ended["one"] < ended["two"] < ended["three"]
    assert opened["two"] == begun, "a stream opens while it waits for its turn"


async def test_a_stream_that_waits_for_its_turn_is_kept_alive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls: list[Call] = []

    async def ask(stream: bool) -> None:
        calls.append(
            await do(server, "busy", "generate", message="hi", max_tokens=20, stream=stream)
        )

    async with running(
        served(FakeRunner(seconds_per_step=0.1), HttpSettings(ping_seconds=0.5))
    ) as server:
        await create(server, id="busy")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, False)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, True)

    names = [name for name, _ in events(calls[1].content)]
    assert names[:4] == ["start", "ping", "ping", "ping"]
    assert names[-1] == "end"


async def test_a_turn_that_is_given_up_adds_nothing_and_stays_cached(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=0.1))) as server,
        trio.open_nursery() as nursery,
    ):
        agent = await create(server, system="s" * 100)
        body = json.dumps({"message": "never mind", "max_tokens": 100, "stream": True}).encode()
        gone = Call(server.app, "POST", f"/v1/agents/{agent}/generate", body)
        nursery.start_soon(gone.run)
        await trio.sleep(1.05)
        gone.gone.set()
        await trio.sleep(1)
        left = await view(server, agent)
        again = await say(server, agent, "never mind, again")

    assert (left["messages"], left["state"]) == (1, "warm")
    assert again["cache"]["reused"] >= len("system:\nuser:never mind") + 100
    assert again["cache"]["cause"] == "diverged"


async def test_a_turn_that_fails_adds_nothing(autojump_clock: trio.testing.MockClock) -> None:
    def fails_once(plan: StepPlan) -> None:
        if plan.decode:
            runner.before_step = lambda plan: None
            raise RuntimeError("on fire")

    runner = FakeRunner(before_step=fails_once)
    async with running(served(runner)) as server:
        agent = await create(server)
        failed = await do(server, agent, "generate", message="hi", stream=True)
        left = await view(server, agent)
        await say(server, agent)

    assert list(events(failed.content))[-1][0] == "error"
    assert not failed.is_complete
    assert left["messages"] == 0


async def test_a_turn_whose_agent_goes_while_it_waits_is_told_so(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls: dict[str, Call] = {}

    async def ask(name: str, **fields: object) -> None:
        calls[name] = await do(server, "a", "generate", message="hi", max_tokens=20, **fields)

    async with running(served(FakeRunner(seconds_per_step=0.1))) as server:
        await create(server, id="a")
        async with trio.open_nursery() as nursery:
            for name, fields in {"running": {}, "plain": {}, "stream": {"stream": True}}.items():
                nursery.start_soon(lambda name=name, fields=fields: ask(name, **fields))  # type: ignore[misc]
                await trio.sleep(0.1)
            assert await delete(server.app, "a") == 204
        agents = (await get(server.app, "/v1/agents")).json["total"]

    assert (calls["running"].status, calls["plain"].status, calls["stream"].status) == (
        200,
        404,
        200,
    )
    assert (
        json.loads(calls["stream"].content.split(b"event: error\ndata: ")[1])["error"]["code"]
        == "agent_not_found"
    )
    assert agents == 0


async def test_a_line_has_a_bound(autojump_clock: trio.testing.MockClock) -> None:
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await do(server, "a", "generate", message="hi", max_tokens=5)).status)

    async with running(served(FakeRunner(seconds_per_step=0.1), queue_limit=3)) as server:
        await create(server, id="a")
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask)

    assert sorted(statuses) == [200] * 4 + [429] * 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "message"),
        ({"message": 1}, "message"),
        ({"message": "hi", "max_tokens": 0}, "max_tokens"),
        ({"message": {"role": "robot"}}, "message.role"),
    ],
)
async def test_a_wrong_turn_names_the_field(
    body: dict[str, object], field: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        call = await post(server.app, f"/v1/agents/{await create(server)}/generate", body)

    assert (call.status, call.json["error"]["param"]) == (400, field)  # type: ignore[index]


async def test_a_prompt_that_can_never_fit_is_too_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), budget_bytes=8 * 16 * 10)) as server:
        agent = await create(server)
        plain = await do(server, agent, "generate", message="x" * 200)
        stream = await do(server, agent, "generate", message="x" * 200, stream=True)
        theirs = await post(server.app, "/v1/messages", anthropic_body("x" * 200))

    assert [call.status for call in (plain, stream, theirs)] == [400] * 3
    assert "prompt is too long: " in theirs.json["error"]["message"]  # type: ignore[index]


async def test_a_turn_that_waits_when_the_server_drains_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls: list[Call] = []

    async def ask() -> None:
        calls.append(await do(server, "a", "generate", message="hi", max_tokens=20))

    async with running(served(FakeRunner(seconds_per_step=0.1))) as server:
        await create(server, id="a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask)
            await trio.sleep(0.5)
            nursery.start_soon(server.engine.drain, 30)

    assert [call.status for call in calls] == [200, 503]


async def test_a_turn_goes_on_with_the_very_tokens_of_an_idle_agent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Listening(ByteCodec):
        def encode_prompt(self, conversation: Conversation, known: Known = NOTHING_KNOWN) -> Prompt:
            told.append(self.decode((*known.tokens, *known.draft)))
            return super().encode_prompt(conversation, known)

    told: list[str] = []
    async with (
        running(served(FakeRunner(seconds_per_step=0.1), codec=Listening())) as server,
        trio.open_nursery() as nursery,
    ):
        agent = await create(server)
        first = await say(server, agent)
        nursery.start_soon(say, server, agent)
        await trio.sleep(0.5)
        await post(server.app, "/v1/messages/count_tokens", anthropic_body(session_id=agent))

    assert told == ["", "user:hi\nassistant:" + first["text"], ""], (
        "another conversation has nothing to go on with"
    )


async def test_a_turn_of_an_agent_thinks_as_it_is_told_and_the_next_one_does_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The choice reaches the prompt, and is that of one turn: the agent's conversation does not
    keep it.
    """
    async with running(served(FakeRunner())) as server:
        agent = await create(server)
        bounded = await say(
            server, agent, "one", max_tokens=60, thinking={"type": "enabled", "budget_tokens": 7}
        )
        plain = await say(server, agent, "two", max_tokens=60)
        kept = server.engine.memory.agents.get(agent).conversation

    assert len(bounded["thinking"]) == 7
    assert len(bounded["text"]) == 60 - 7 - len("\n</think>\n\n")
    assert (plain["thinking"], len(plain["text"])) == ("", 60)
    assert (kept.thinks, kept.effort, kept.thought_budget) == (None, None, None)


async def test_a_turn_of_an_agent_has_the_form_that_is_demanded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 7}},
        "required": ["n"],
    }
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    async with running(served(FakeRunner())) as server:
        agent = await create(server, tools=[tool])
        called = await say(
            server, agent, "one", max_tokens=200, tool_choice="required", parallel_tool_calls=False
        )
        result = {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": "sun"}
        told = await say(
            server,
            agent,
            result,
            max_tokens=200,
            tool_choice="none",
            response_format={"type": "json_object", "schema": schema},
        )
        refused = await do(
            server,
            agent,
            "generate",
            message="three",
            tool_choice={"type": "function", "name": "fly"},
        )
        after = await view(server, agent)

    assert [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in called["tool_calls"]
    ] == [("look", {"n": 7})]
    assert json.loads(told["text"]) == {"n": 7}
    assert (refused.status, refused.json["error"]["param"]) == (400, "tool_choice")  # type: ignore[call-overload, index]
    assert after["messages"] == 4
