"""Tools that a provider would run: a request that only such a tool could serve is never answered by
the model, which would invent what it found.
"""

from typing import Any

import pytest
import trio.testing
from anthropic.types import Message

from semantic_trio.testing import FakeRunner
from tests.http.messages import LOOK, accumulated, events, speaking
from tests.http.serving import anthropic_body, get, openai_body, post, running, served

SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
BASH = {"type": "bash_20250124", "name": "bash"}
CANNOT_SEARCH = (
    "This server cannot search the web (web_search_20250305). Nothing was done, and this text is "
    "not the model's."
)
FETCH_OR_BASH = (
    "fetch pages from the web (web_fetch_20250910) or offer its model this tool (bash_20250124)"
)

ONLY_OF_PROVIDERS: list[tuple[dict[str, Any], str]] = [
    ({"tools": [SEARCH]}, CANNOT_SEARCH),
    ({"tools": [SEARCH], "tool_choice": {"type": "auto"}}, CANNOT_SEARCH),
    ({"tools": [SEARCH], "tool_choice": {"type": "any"}}, CANNOT_SEARCH),
    (
        {"tools": [SEARCH, LOOK], "tool_choice": {"type": "tool", "name": "web_search"}},
        CANNOT_SEARCH,
    ),
    (
        {"tools": [FETCH, BASH]},
        CANNOT_SEARCH.replace("search the web (web_search_20250305)", FETCH_OR_BASH),
    ),
]
NO_SEARCH: list[dict[str, Any]] = [
    {"tools": [SEARCH, LOOK]},
    {"tools": [SEARCH, LOOK], "tool_choice": {"type": "any"}},
    {"tools": [SEARCH], "tool_choice": {"type": "none"}},
    {"tools": [SEARCH], "tool_choice": "none"},
    {"tools": []},
    {},
]


@pytest.mark.parametrize(("fields", "text"), ONLY_OF_PROVIDERS)
async def test_a_search_of_the_web_is_answered_by_the_server(
    fields: dict[str, Any], text: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking("Ten results: ...")) as server:
        plain = await post(server.app, "/v1/messages", anthropic_body(**fields))
        stream = await post(server.app, "/v1/messages", anthropic_body(**fields, stream=True))

    for message in (Message.model_validate(plain.json), accumulated(stream.content)):
        assert [block.to_dict() for block in message.content] == [{"type": "text", "text": text}]
        assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == (
            "end_turn",
            0,
            0,
        )
    assert [name for name, _ in events(stream.content)][-2:] == ["message_delta", "message_stop"]
    assert server.engine.steps == 0, "the model is not asked"


@pytest.mark.parametrize("fields", NO_SEARCH)
async def test_the_model_answers_where_it_has_another_tool_or_may_use_none(
    fields: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking("so")) as server:
        answer = await post(server.app, "/v1/messages", anthropic_body(**fields))

    assert answer.status == 200
    assert server.engine.steps > 0


async def test_an_unknown_model_does_not_search_either(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("so")) as server:
        answer = await post(
            server.app, "/v1/messages", anthropic_body(model="gone", tools=[SEARCH])
        )

    assert answer.status == 404


@pytest.mark.parametrize(
    "kind",
    [
        "web_search",
        "web_search_preview",
        "file_search",
        "code_interpreter",
        "image_generation",
        "mcp",
    ],
)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/agents"])
async def test_tools_that_cannot_be_offered_are_refused_by_name(
    path: str, kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/responses": {"model": "default", "input": "x"},
        "/v1/chat/completions": openai_body(),
        "/v1/agents": {"id": "ada"},
    }
    async with running(served(FakeRunner())) as server:
        answer = await post(server.app, path, {**bodies[path], "tools": [{"type": kind}]})
        agents = await get(server.app, "/v1/agents")

    assert answer.status == 400
    assert answer.json["error"]["param"] == "tools"  # type: ignore[call-overload, index]
    assert answer.json["error"]["message"].startswith(f"tools: {kind}: not supported")  # type: ignore[call-overload, index]
    assert agents.json["total"] == 0, "no agent is made by a request that is refused"
