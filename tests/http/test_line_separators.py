"""Characters that some readers take for the end of a line: events and JSON answers stay whole."""

import json
from typing import Any

import pytest
import trio
import trio.testing

from tests.http.messages import LOOK, call, speaking
from tests.http.serving import anthropic_body, get, openai_body, post, running

SEPARATORS = "a\u2028b\u2029c\x85d"
FUNCTION = {"type": "function", "function": {"name": "look", "parameters": LOOK["input_schema"]}}
RESPONSES_TOOL: dict[str, Any] = {
    "type": "function",
    "name": "look",
    "parameters": LOOK["input_schema"],
}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/messages": anthropic_body(
        max_tokens=100, tools=[LOOK], thinking={"type": "enabled", "budget_tokens": 50}
    ),
    "/v1/chat/completions": openai_body(max_tokens=100, tools=[FUNCTION]),
    "/v1/completions": {"model": "org/tiny", "prompt": SEPARATORS, "echo": True, "max_tokens": 100},
    "/v1/responses": {"model": "org/tiny", "input": SEPARATORS, "tools": [RESPONSES_TOOL]},
    "/v1/agents/a/generate": {"message": SEPARATORS},
}


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize(
    "says",
    [
        SEPARATORS,
        f"<think>{SEPARATORS}</think>x",
        call(at=SEPARATORS),
        f'<tool_call>{{"name": "look", "arguments": {{"at": "{SEPARATORS}"}}}}</tool_call>',
    ],
)
@pytest.mark.parametrize("path", REQUESTS)
async def test_every_event_and_answer_is_one_line(
    path: str, says: str, is_streamed: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking(says)) as server:
        await post(server.app, "/v1/agents", {"id": "a", "tools": [FUNCTION]})
        answer = await post(server.app, path, REQUESTS[path] | {"stream": is_streamed})

    text = answer.content.decode()
    assert answer.status == 200
    assert text.splitlines() == text.removesuffix("\n").split("\n")
    assert all(escape in text for escape in ("\\u2028", "\\u2029", "\\u0085"))
    for line in text.splitlines():
        if line.startswith(("data: {", "{")):
            json.loads(line.removeprefix("data: "))


async def test_what_an_error_quotes_is_one_line(autojump_clock: trio.testing.MockClock) -> None:
    async with running(speaking("x")) as server:
        answers = [
            await post(server.app, path, {**REQUESTS[path], "model": SEPARATORS})
            for path in ("/v1/messages", "/v1/chat/completions")
        ]

    assert [len(answer.content.decode().splitlines()) for answer in answers] == [1, 1]


async def test_a_stored_response_is_told_on_one_line(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(SEPARATORS)) as server:
        made = await post(server.app, "/v1/responses", {"model": "org/tiny", "input": SEPARATORS})
        told = await get(server.app, f"/v1/responses/{made.json['id']}")
        items = await get(server.app, f"/v1/responses/{made.json['id']}/input_items")

    assert told.content == made.content
    assert len(told.content.decode().splitlines()) == len(items.content.decode().splitlines()) == 1
    assert SEPARATORS in json.dumps(told.json, ensure_ascii=False)
    assert SEPARATORS in json.dumps(items.json, ensure_ascii=False)
