"""Priorities over HTTP: how a request says that it is in the background, and what its response
says, in every protocol.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import openai
import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.common.priority import priority_of
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.observation import GenerationEnded
from semantic_trio.domain.priority import Priority
from semantic_trio.testing import FakeRunner, MemoryObserver
from tests.http.serving import Call, Served, anthropic_body, get, openai_body, post, running, served

HEADER = "x-semantic-priority"


@attrs.frozen
class Api:
    """A route that generates, with a body for it."""

    path: str
    body: dict[str, Any]
    tier: Callable[[dict[str, Any]], object]  # of a whole answer
    has_field: bool = True  # OpenAI's `service_tier` is read


def _body(**more: object) -> dict[str, Any]:
    return {"model": "org/tiny", **more}


APIS = {
    "messages": Api(
        "/v1/messages",
        anthropic_body(),
        lambda answer: answer["usage"]["service_tier"],
        has_field=False,
    ),
    "chat": Api("/v1/chat/completions", openai_body(), lambda answer: answer.get("service_tier")),
    "completions": Api(
        "/v1/completions",
        _body(prompt="hi", max_tokens=5),
        lambda answer: answer.get("service_tier"),
    ),
    "responses": Api(
        "/v1/responses",
        _body(input="hi", max_output_tokens=5),
        lambda answer: answer["service_tier"],
    ),
    "agents": Api(
        "/v1/agents/ada/generate",
        {"message": "hi", "max_tokens": 5},
        lambda answer: answer.get("service_tier"),
    ),
}
# What a whole answer calls the two tiers; None where the protocol has no such field.
USUAL = {
    "messages": "standard",
    "chat": None,
    "completions": None,
    "responses": "default",
    "agents": None,
}
IN_BACKGROUND = {
    "messages": "batch",
    "chat": "flex",
    "completions": None,
    "responses": "flex",
    "agents": None,
}
every_api = pytest.mark.parametrize("api", APIS)


async def priorities(
    server: Served, api: Api, body: dict[str, Any], **headers: str
) -> tuple[list[Priority], Call]:
    """The priorities of the generations that a request submits, and its answer."""
    observer = MemoryObserver()
    server.observers.add(observer)
    await post(server.app, "/v1/agents", {"id": "ada"})
    answer = await post(server.app, api.path, body, **headers)
    found = [one.priority for one in observer.observations if isinstance(one, GenerationEnded)]
    return found, answer


@every_api
async def test_a_header_puts_a_request_of_every_api_into_the_background(
    api: str, autojump_clock: trio.testing.MockClock
) -> None:
    one = APIS[api]
    async with running(served(FakeRunner())) as server:
        usual, usual_answer = await priorities(server, one, one.body)
        found, answer = await priorities(server, one, one.body, **{HEADER: "background"})

    assert (usual, found) == ([Priority.INTERACTIVE], [Priority.BACKGROUND])
    assert one.tier(usual_answer.json) == USUAL[api]
    assert one.tier(answer.json) == IN_BACKGROUND[api]


@every_api
async def test_the_field_of_openais_apis_does_too(
    api: str, autojump_clock: trio.testing.MockClock
) -> None:
    one = APIS[api]
    async with running(served(FakeRunner())) as server:
        for tier in ("auto", "default", "priority", "a tier of next year"):
            found, answer = await priorities(server, one, one.body | {"service_tier": tier})
            assert found == [Priority.INTERACTIVE]
            assert one.tier(answer.json) == ("default" if api == "chat" else USUAL[api])
        found, answer = await priorities(server, one, one.body | {"service_tier": "flex"})
        overruled, _ = await priorities(
            server, one, one.body | {"service_tier": "flex"}, **{HEADER: "Interactive"}
        )

    assert found == [Priority.BACKGROUND if one.has_field else Priority.INTERACTIVE]
    assert one.tier(answer.json) == (IN_BACKGROUND if one.has_field else USUAL)[api]
    assert overruled == [Priority.INTERACTIVE], "the header comes first"


@every_api
async def test_a_header_with_another_value_is_refused_by_name(
    api: str, autojump_clock: trio.testing.MockClock
) -> None:
    one = APIS[api]
    async with running(served(FakeRunner())) as server:
        found, answer = await priorities(server, one, one.body, **{HEADER: "urgent"})

    assert (answer.status, found) == (400, [])
    assert "X-Semantic-Priority: the header is interactive or background" in answer.content.decode()


async def test_several_answers_are_all_in_the_background(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        chat, _ = await priorities(
            server, APIS["chat"], APIS["chat"].body | {"n": 3, "service_tier": "flex"}
        )
        completions = APIS["completions"]
        texts, _ = await priorities(
            server, completions, completions.body | {"prompt": ["a", "b"], "service_tier": "flex"}
        )

    assert chat == [Priority.BACKGROUND] * 3
    assert texts == [Priority.BACKGROUND] * 2


async def test_reading_an_agents_conversation_can_be_in_the_background(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        await post(server.app, "/v1/agents", {"id": "ada", "system": "You are kind."})
        warm = attrs.evolve(APIS["agents"], path="/v1/agents/ada/warm")
        found, answer = await priorities(server, warm, {}, **{HEADER: "background"})

    assert (found, answer.status) == ([Priority.BACKGROUND], 200)


async def test_streams_name_the_tier(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        chat = await post(
            server.app, "/v1/chat/completions", openai_body(stream=True, service_tier="flex")
        )
        plain = await post(server.app, "/v1/chat/completions", openai_body(stream=True))
        messages = await post(
            server.app, "/v1/messages", anthropic_body(stream=True), **{HEADER: "background"}
        )
        responses = await post(
            server.app,
            "/v1/responses",
            APIS["responses"].body | {"stream": True, "service_tier": "flex"},
        )

    chunks = [
        json.loads(line)
        for line in chat.content.decode().replace("data: ", "").split("\n\n")
        if line.startswith("{")
    ]
    assert {chunk["service_tier"] for chunk in chunks} == {"flex"}
    assert all(
        openai.types.chat.ChatCompletionChunk.model_validate(chunk).service_tier == "flex"
        for chunk in chunks
    )
    assert b"service_tier" not in plain.content, (
        "a client that says nothing of it gets what it got before"
    )
    assert messages.content.count(b'"service_tier":"batch"') == 2, "at the start and at the end"
    assert b'"service_tier":"flex"' in responses.content
    assert b'"service_tier":"default"' not in responses.content


@every_api
async def test_an_interactive_request_of_every_api_comes_before_a_background_one(
    api: str, autojump_clock: trio.testing.MockClock
) -> None:
    one, ended = APIS[api], list[str]()
    async with (
        running(served(FakeRunner(seconds_per_step=1), rows=1)) as server,
        trio.open_nursery() as nursery,
    ):
        await post(server.app, "/v1/agents", {"id": "ada"})

        async def ask(name: str, path: str, body: object, **headers: str) -> None:
            assert (await post(server.app, path, body, **headers)).status == 200
            ended.append(name)

        nursery.start_soon(
            lambda: ask(
                "first in the background",
                "/v1/messages",
                anthropic_body("a" * 50, max_tokens=30),
                **{HEADER: "background"},
            )
        )
        await trio.sleep(5)
        nursery.start_soon(
            lambda: ask(
                "second in the background",
                "/v1/messages",
                anthropic_body("b" * 50),
                **{HEADER: "background"},
            )
        )
        await trio.sleep(1)
        nursery.start_soon(lambda: ask("interactive", one.path, one.body))

    assert ended == ["interactive", "first in the background", "second in the background"]
    assert server.engine.scheduler.priority_preemptions == 1


async def ends_of_turns(
    server: Served, turns: Sequence[tuple[str, str, str, str]]
) -> dict[str, float]:
    """When requests end that arrive one after another: each with its name, its agent, what it asks
    for (`generate`, `warm` or `chat`) and its priority.
    """
    ended: dict[str, float] = {}

    async def ask(name: str, agent: str, what: str, priority: str) -> None:
        if what == "chat":
            call = await post(
                server.app,
                "/v1/chat/completions",
                openai_body(name, max_tokens=20),
                **{HEADER: priority, "x-agent-id": agent},
            )
        else:
            body = {"message": name, "max_tokens": 20} if what == "generate" else {}
            call = await post(server.app, f"/v1/agents/{agent}/{what}", body, **{HEADER: priority})
        assert call.status == 200, call.content
        ended[name] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for turn in turns:
            nursery.start_soon(ask, *turn)
            await trio.testing.wait_all_tasks_blocked()
    return ended


BEFORE_AN_INTERACTIVE_TURN = {
    "a turn": [("one", "ada", "generate", "background")],
    "turns that wait for each other": [
        ("one", "ada", "generate", "background"),
        ("two", "ada", "generate", "background"),
    ],
    "a request that names the agent, and a turn behind it": [
        ("one", "ada", "chat", "background"),
        ("two", "ada", "generate", "background"),
    ],
    "reading": [("one", "ada", "warm", "background")],
}


@pytest.mark.parametrize("before", BEFORE_AN_INTERACTIVE_TURN)
async def test_an_interactive_turn_hurries_the_turns_before_it(
    before: str, autojump_clock: trio.testing.MockClock
) -> None:
    """One row serves all: without the hurry the older request of eve comes first."""
    hurried = BEFORE_AN_INTERACTIVE_TURN[before]
    async with running(served(FakeRunner(seconds_per_step=1), rows=1)) as server:
        for agent in ("ada", "bob", "eve"):
            await post(server.app, "/v1/agents", {"id": agent, "system": f"You are {agent}."})
        ended = await ends_of_turns(
            server,
            [
                ("busy", "bob", "generate", "interactive"),
                ("other", "eve", "generate", "background"),
                *hurried,
                ("last of ada", "ada", "generate", "interactive"),
            ],
        )

    names = [name for name, *_ in hurried]
    assert sorted(ended, key=ended.__getitem__) == ["busy", *names, "last of ada", "other"]


async def test_a_background_turn_hurries_none(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(seconds_per_step=1), rows=1)) as server:
        for agent in ("ada", "bob", "eve"):
            await post(server.app, "/v1/agents", {"id": agent})
        ended = await ends_of_turns(
            server,
            [
                ("busy", "bob", "generate", "interactive"),
                ("one", "ada", "generate", "background"),
                ("two", "ada", "generate", "background"),
                ("other", "eve", "generate", "interactive"),
            ],
        )

    assert sorted(ended, key=ended.__getitem__) == ["busy", "other", "one", "two"]


async def test_background_turns_take_no_place_of_an_interactive_turn_of_their_agent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    statuses: dict[str, list[int]] = {"background": [], "interactive": []}

    async def ask(priority: str) -> None:
        call = await post(
            server.app,
            "/v1/agents/ada/generate",
            {"message": "hi", "max_tokens": 5},
            **{HEADER: priority},
        )
        statuses[priority].append(call.status)

    async with running(served(FakeRunner(seconds_per_step=0.1), queue_limit=1)) as server:
        await post(server.app, "/v1/agents", {"id": "ada"})
        async with trio.open_nursery() as nursery:
            for priority in ["background"] * 3 + ["interactive"] * 3:
                nursery.start_soon(ask, priority)
                await trio.testing.wait_all_tasks_blocked()

    assert {priority: sorted(found) for priority, found in statuses.items()} == {
        "background": [200, 200, 429],
        "interactive": [200, 200, 429],
    }


async def test_the_metrics_tell_the_priorities_apart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=1), rows=1)) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(
            lambda: post(
                server.app,
                "/v1/messages",
                anthropic_body("a" * 50, max_tokens=30),
                **{HEADER: "background"},
            )
        )
        nursery.start_soon(
            lambda: post(
                server.app, "/v1/messages", anthropic_body("b" * 50), **{HEADER: "background"}
            )
        )
        await trio.sleep(5)
        await post(server.app, "/v1/messages", anthropic_body("c"))
        during = (await get(server.app, "/metrics")).content.decode()
        nursery.cancel_scope.cancel()

    assert (
        'semantic_time_to_first_token_seconds_count{cache="ram",priority="interactive"} 1.0'
        in during
    )
    assert 'semantic_background_requests{state="running"} 1.0' in during
    assert 'semantic_background_requests{state="waiting"} 1.0' in during
    assert 'semantic_preemption_total{reason="priority"} 1.0' in during
    assert 'semantic_preemption_total{reason="memory"} 0.0' in during


def test_the_header_is_read_whatever_its_case_and_blanks() -> None:
    assert priority_of({HEADER: " Background "}) is Priority.BACKGROUND
    assert priority_of({}, "flex") is Priority.BACKGROUND
    assert priority_of({}) is priority_of({}, "scale") is Priority.INTERACTIVE
    with pytest.raises(InvalidRequestError):
        priority_of({HEADER: ""})
