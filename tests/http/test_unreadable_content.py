"""Images and files over HTTP: the conversation goes on, and the answer's headers say what was not
read.
"""

from typing import Any

import pytest
import trio.testing

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.testing import FakeRunner
from tests.http.serving import Call, anthropic_body, openai_body, post, running, served

PNG = "iVBORw0KGgo="
IMAGES: dict[str, dict[str, Any]] = {
    "/v1/messages": anthropic_body(
        messages=[
            {
                "role": "user",
                "content": [
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                    }
                ],
            }
        ]
    ),
    "/v1/chat/completions": openai_body(
        messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
        ]
    ),
    "/v1/responses": {
        "model": "org/tiny",
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}],
        "max_output_tokens": 5,
    },
}
AGENT = {
    "message": {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
    "max_tokens": 5,
}


@pytest.mark.parametrize("path", IMAGES)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_answer_says_that_an_image_was_not_read(
    path: str, stream: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        call = await post(server.app, path, {**IMAGES[path], "stream": stream})
        plain = await post(server.app, "/v1/chat/completions", openai_body())

    assert (call.status, call.answer_headers["x-semantic-unread"]) == (200, "image=1")
    assert "x-semantic-unread" not in plain.answer_headers


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_is_told_of_an_image(
    stream: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        await post(server.app, "/v1/agents", {"id": "a"})
        call = await post(server.app, "/v1/agents/a/generate", {**AGENT, "stream": stream})

    assert (call.status, call.answer_headers["x-semantic-unread"]) == (200, "image=1")


@pytest.mark.parametrize("path", IMAGES)
async def test_an_image_is_refused_where_the_operator_wants_that(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner(), HttpSettings(refuse_unreadable=True))) as server:
        call = await post(server.app, path, IMAGES[path])
        assert server.engine.steps == 0

    assert call.status == 400
    assert "content.0: this model cannot see images" in message(call)


def message(call: Call) -> str:
    """The message of an error."""
    error: Any = call.json["error"]
    return str(error["message"])
