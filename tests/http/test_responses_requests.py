"""Requests of the Responses API in every shape that clients send."""

from typing import Any

import pytest
import trio
import trio.testing
from openai.types.responses import Response

from tests.http.messages import speaking
from tests.http.responses import LOOK, PATH, body, respond
from tests.http.serving import Call, get, post, running

IGNORED: list[dict[str, Any]] = [
    {
        "tools": [
            LOOK,
            {"type": "web_search"},
            {"type": "namespace", "name": "n", "description": "d", "tools": [LOOK]},
            {"type": "mcp"},
        ]
    },
    {"tools": [{"type": "web_search"}], "tool_choice": "none"},
    {
        "truncation": "auto",
        "service_tier": "flex",
        "user": "me",
        "stream_options": {"include_obfuscation": False},
        "max_tool_calls": 3,
    },
    {"reasoning": {"effort": "none", "summary": "auto"}, "text": {"verbosity": "high"}},
    {
        "input": [
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"role": "user", "content": "x", "id": "msg_1"},
        ]
    },
    {
        "input": [
            {"type": "local_shell_call", "action": {"type": "exec"}, "call_id": "c"},
            {"type": "local_shell_call_output", "output": "x"},
        ]
    },
    {
        "input": [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "x"}],
                "encrypted_content": "gAAA",
            }
        ]
    },
    {
        "input": [
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "refusal", "refusal": "no"}],
                "phase": "final_answer",
            }
        ]
    },
    {"input": [{"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "x"}]},
    {
        "input": [
            {
                "type": "custom_tool_call_output",
                "call_id": "c",
                "output": [{"type": "input_text", "text": "x"}],
            }
        ]
    },
    {
        "input": [
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [{"type": "input_image", "image_url": "data:"}],
            }
        ]
    },
    {"input": [], "previous_response_id": None, "conversation": None},
    {"input": None},
]


@pytest.mark.parametrize("fields", IGNORED)
async def test_what_is_not_for_this_server_is_left_out(
    fields: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking("Yes.")) as server:
        response = Response.model_validate((await post(server.app, PATH, body() | fields)).json)

    assert response.output_text == "Yes."


BAD: list[tuple[dict[str, Any], int, str | None]] = [
    ({"model": 3}, 400, "model"),
    ({"model": "nobody"}, 404, "model"),
    ({"input": 3}, 400, "input"),
    ({"input": [3]}, 400, "input.0"),
    ({"input": [{}]}, 400, "input.0.id"),
    ({"input": [{"role": "robot", "content": "x"}]}, 400, "input.0.role"),
    ({"input": [{"role": "user"}]}, 400, "input.0.content"),
    ({"input": [{"role": "user", "content": 3}]}, 400, "input.0.content"),
    ({"input": [{"role": "user", "content": [3]}]}, 400, "input.0.content.0"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        400,
        "input.0.content.0.text",
    ),
    ({"input": [{"type": "function_call", "name": "look"}]}, 400, "input.0.call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, 400, "input.0.output"),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": 3}]},
        400,
        "input.0.output",
    ),
    ({"input": [{"type": "item_reference", "id": "msg_nobody"}]}, 404, "input"),
    ({"input": [{"type": "item_reference", "id": "msg_" + "0" * 32 + "_0"}]}, 404, "input"),
    ({"input": [{"role": "user", "content": "x"}] * 20_001}, 400, "input"),
    ({"previous_response_id": "resp_nobody"}, 404, "previous_response_id"),
    ({"previous_response_id": "\0\ud800"}, 404, "previous_response_id"),
    ({"previous_response_id": 3}, 400, "previous_response_id"),
    ({"conversation": {"id": "conv_1"}}, 400, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, 400, "prompt"),
    ({"background": True, "store": False}, 400, "background"),
    ({"background": True, "stream": True}, 400, "background"),
    ({"max_output_tokens": 0}, 400, "max_output_tokens"),
    ({"temperature": 3}, 400, "temperature"),
    ({"metadata": {"a": 3}}, 400, "metadata"),
    ({"metadata": {"a" * 65: "x"}}, 400, None),
    ({"tools": [{"name": "x", "type": 3}]}, 400, "tools.0.type"),
    ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "other"}}, 400, "tool_choice"),
    (
        {
            "tools": [LOOK],
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []},
        },
        400,
        "tool_choice",
    ),
    ({"tool_choice": "sometimes"}, 400, "tool_choice"),
    ({"text": {"format": {"type": "xml"}}}, 400, "text.format.type"),
    ({"reasoning": {"effort": "lots"}}, 400, "reasoning.effort"),
]


BAD += [
    ({"prompt_cache_key": "x" * 1025}, 400, "prompt_cache_key"),
    ({"input": [{"type": "item_reference", "id": "x" * 513}]}, 400, "input.0.id"),
    (
        {"input": [{"type": "function_call", "name": "x" * 513, "call_id": "c"}]},
        400,
        "input.0.name",
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "x" * 513, "output": ""}]},
        400,
        "input.0.call_id",
    ),
    (
        {"input": [{"type": "custom_tool_call", "name": "x", "call_id": "x" * 513}]},
        400,
        "input.0.call_id",
    ),
    (
        {
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "x",
                    "schema": {"description": "x" * (16 << 20)},
                }
            }
        },
        400,
        "store",
    ),
]


@pytest.mark.parametrize(("fields", "status", "field"), BAD, ids=range(len(BAD)))
async def test_what_cannot_be_is_refused_by_name(
    fields: dict[str, Any], status: int, field: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking("Yes.")) as server:
        call = await post(server.app, PATH, body() | fields, **{"anthropic-version": "2023-06-01"})
        assert server.engine.steps == 0

    assert call.status == status
    error: Any = call.json["error"]
    assert field is None or error["param"].startswith(field)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["", "/cancel", "/input_items"])
async def test_what_nobody_has_answered_is_not_found(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking("Yes.")) as server:
        call = await (
            post(server.app, f"{PATH}/nobody{path}", b"")
            if path == "/cancel"
            else get(server.app, f"{PATH}/nobody{path}")
        )

    assert call.status == 404
    assert call.json["error"] == {
        "message": "Response with id 'nobody' not found.",
        "type": "invalid_request_error",
        "param": None,
        "code": "response_not_found",
    }


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("conversation", "conversation: conversations are not kept here: use previous_response_id"),
        ("prompt", "prompt: prompts are not kept here: send their text as instructions or input"),
    ],
)
@pytest.mark.parametrize("named", ["pmpt_1", {"id": "pmpt_1"}])
async def test_what_is_kept_elsewhere_is_refused_with_what_to_send_instead(
    field: str, told: str, named: object
) -> None:
    call = await post(speaking("Yes.").app, PATH, body() | {field: named})

    assert (call.status, call.json["error"]["message"]) == (400, told)  # type: ignore[index]


async def test_a_stored_response_is_not_streamed(autojump_clock: trio.testing.MockClock) -> None:
    async with running(speaking("Yes.")) as server:
        response = await respond(server)
        call = await Call(server.app, "GET", f"{PATH}/{response.id}", query=b"stream=true").run()

    assert call.status == 400
