"""What goes wrong, as clients of the Messages API act upon it: statuses, wording, headers.

What is hostile is refused with the field's name.
"""

import json
import threading
from typing import Any

import anthropic
import attrs
import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.common.json_decoding import IN_LOOP_BYTES, parsed
from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.testing import ByteCodec, FakeRunner
from tests.http.messages import LOOK, body, speaking
from tests.http.serving import Call, anthropic_body, get, listening, post, running, served

NO_RETRY = {"x-should-retry": "false"}


@attrs.frozen
class Case:
    """A request, and how it is refused."""

    status: int
    kind: str
    message: str
    fields: dict[str, object] = attrs.field(factory=dict)
    path: str = "/v1/messages"
    headers: dict[str, str] = attrs.field(factory=dict)
    settings: HttpSettings | None = None


# Clients match the words: `prompt is too long` compacts, `model:` names the model, `invalid
# x-api-key` asks for another key.
MATRIX = {
    "a prompt too long": Case(
        400,
        "invalid_request_error",
        "prompt is too long: 216 tokens > 100 maximum",
        anthropic_body("x" * 200),
    ),
    "a role that is none": Case(
        400,
        "invalid_request_error",
        "messages.1.role: 'tool' is not supported",
        {"messages": [{"role": "user", "content": ""}, {"role": "tool"}]},
    ),
    "a document of an unknown kind": Case(
        400,
        "invalid_request_error",
        "messages.0.content.0.source.type: 'papyrus' is not supported",
        {
            "messages": [
                {"role": "user", "content": [{"type": "document", "source": {"type": "papyrus"}}]}
            ]
        },
    ),
    "a missing field": Case(
        400, "invalid_request_error", "max_tokens: Field required", {"max_tokens": None}
    ),
    "no such model": Case(
        404, "not_found_error", "model: nope (served here: org/tiny)", {"model": "nope"}
    ),
    "no such path": Case(404, "not_found_error", "", path="/v1/messages/batches"),
    "a wrong key": Case(
        401,
        "authentication_error",
        "invalid x-api-key",
        headers={"x-api-key": "x"},
        settings=HttpSettings(api_key="k"),
    ),
    "another host": Case(403, "permission_error", "", headers={"host": "evil.example"}),
    "a body too large": Case(
        413,
        "request_too_large",
        "Request too large: the body may have 10 bytes",
        settings=HttpSettings(max_body_bytes=10),
    ),
}


@pytest.mark.parametrize("case", MATRIX.values(), ids=MATRIX)
async def test_what_cannot_help_to_repeat_is_not_repeated(
    case: Case, autojump_clock: trio.testing.MockClock
) -> None:
    asked = {
        key: value for key, value in anthropic_body(**case.fields).items() if value is not None
    }
    call = await post(
        served(FakeRunner(), case.settings, context_length=100).app,
        case.path,
        asked,
        **case.headers,
    )

    told: Any = call.json
    assert (call.status, told["type"], told["error"]["type"]) == (case.status, "error", case.kind)
    assert told["error"]["message"].startswith(case.message)
    assert case.message == "" or told["error"]["message"] == case.message
    assert told["request_id"] == call.answer_headers["request-id"]
    assert NO_RETRY.items() <= call.answer_headers.items()
    assert "retry-after" not in call.answer_headers


async def test_max_tokens_beyond_the_context_is_no_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("so")) as server:
        call = await post(server.app, "/v1/messages", body(max_tokens=128_000))

    assert call.status == 200


@pytest.mark.parametrize("path", ["/v1/v1/messages", "/v1/v1/messages/count_tokens"])
async def test_a_base_url_with_the_version_works(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking("so")) as server:
        call = await post(server.app, path, body())
        wrong = await post(server.app, path, {})

    assert call.status == 200
    assert wrong.json["type"] == "error"


@pytest.mark.parametrize(
    "path", ["/", "/v1/models", "/v1/v1/models", "/v1/models/org/tiny", "/v1/v1/models/org/tiny"]
)
async def test_clients_find_out_who_answers(path: str) -> None:
    app = served(FakeRunner()).app
    head, whole = await Call(app, "HEAD", path).run(), await get(app, path)

    assert (head.status, whole.status) == (200, 200)


async def test_a_model_tells_its_window() -> None:
    card = (await get(served(FakeRunner(), context_length=65_536).app, "/v1/models/tiny")).json

    assert (card["max_input_tokens"], card["max_tokens"]) == (65_536, 65_536)


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])
async def test_versions_and_betas_are_all_welcome(version: str) -> None:
    def ask(port: int) -> str | None:
        client = anthropic.Anthropic(
            base_url=f"http://127.0.0.1:{port}",
            api_key="x",
            default_headers={"anthropic-version": version},
        )
        with client:
            told = client.beta.messages.create(
                model="tiny",
                max_tokens=10,
                messages=[{"role": "user", "content": "hi"}],
                betas=["context-management-2025-06-27", "never-heard-of-2099-01-01"],
                context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            )
        return told.stop_reason

    async with listening(speaking("so")) as port:
        assert await trio.to_thread.run_sync(ask, port) == "end_turn"


# ------------------------------------------------------------------------------------------ hostile


def raw(content: str, **fields: str) -> bytes:
    """A body around raw JSON."""
    more = "".join(f', "{name}": {value}' for name, value in fields.items())
    return f'{{"model": "tiny", "max_tokens": 5, "messages": [{content}]{more}}}'.encode()


def calling(arguments: str) -> bytes:
    """A body with the arguments of a call."""
    return raw(
        f'{{"role": "assistant", "content": [{{"type": "tool_use", "id": "t", "name": "look", '
        f'"input": {arguments}}}]}}'
    )


HI = '{"role": "user", "content": "hi"}'
DEEP = "[" * 10_000 + "]" * 10_000
REFUSED = {
    "deep arguments": (calling(DEEP), "nested too deeply"),
    "deep schemas": (
        raw(HI, tools=f'[{{"name": "x", "input_schema": {DEEP}}}]'),
        "nested too deeply",
    ),
    "deep nothing": (raw(HI, nothing=DEEP), "nested too deeply"),
    "bytes that are no text": (
        calling('{"a": "é"}').replace("é".encode(), b"\xff"),
        "messages.0.content.0.input: ",
    ),
    "a number for a message": (raw("3"), "messages.0: "),
    "null for content": (raw('{"role": "user", "content": null}'), "messages.0.content: "),
    "an object for content": (raw('{"role": "user", "content": {}}'), "messages.0.content: "),
    "a list for a block": (raw('{"role": "user", "content": [[]]}'), "messages.0.content.0: "),
    "a number for a type": (
        raw('{"role": "user", "content": [{"type": 3}]}'),
        "messages.0.content.0.type: ",
    ),
    "a number for a tool": (raw(HI, tools="[3]"), "tools.0: "),
    "a string for a choice": (raw(HI, tool_choice='"sometimes"'), "tool_choice: "),
    "a string for thinking": (raw(HI, thinking='"yes"'), "thinking: "),
    "a number for a breakpoint": (raw(HI, cache_control="3"), "cache_control: "),
}


HALVES = [
    calling('{"a": "\\ud800 "}'),
    raw('{"role": "user", "content": [{"type": "text", "text": "\\ud800 "}]}'),
    raw(HI, tools='[{"name": "x", "input_schema": {"\\ud800": 3}}]'),
]


@pytest.mark.parametrize("sent", HALVES)
async def test_half_a_character_is_nobodys_fault(
    sent: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    assert (await post(served(FakeRunner()).app, "/v1/messages/count_tokens", sent)).status == 200


@pytest.mark.parametrize(("sent", "told"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_what_is_hostile_is_refused_by_name(path: str, sent: bytes, told: str) -> None:
    """No virtual clock: what is large goes through a thread."""
    call = await post(served(FakeRunner()).app, path, sent)

    error: Any = call.json["error"]
    assert (call.status, error["type"]) == (400, "invalid_request_error")
    assert told in error["message"]
    assert len(error["message"]) < 200


TAKEN = {
    "a NUL": raw('{"role": "user", "content": "a\\u0000b"}'),
    "arguments with a NUL": calling('{"a": "\\u0000"}'),
    "numbers no machine has": calling('{"a": 1e999, "b": ' + "1" * 5_000 + "}"),
    "a key twice": calling('{"a": 1, "a": 2}'),
    "no content": raw('{"role": "user", "content": []}'),
    "tools of one name": raw(HI, tools=json.dumps([LOOK, LOOK])),
    "whole numbers with a point": raw(HI, max_tokens="32.0", tools=json.dumps([LOOK])),
}


@pytest.mark.parametrize("sent", TAKEN.values(), ids=TAKEN)
async def test_what_is_odd_is_answered(sent: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with running(speaking("so", context_length=20_000)) as server:
        call = await post(server.app, "/v1/messages", sent)

    assert call.status == 200


async def test_two_thousand_tools_are_counted() -> None:
    tools = [{"name": f"tool{at}", "input_schema": {"type": "object"}} for at in range(2_000)]
    call = await post(speaking("so").app, "/v1/messages/count_tokens", body(tools=tools))

    assert call.status == 200
    assert int(str(call.json["input_tokens"])) > 2_000


async def test_large_bodies_are_understood_beside_the_loop() -> None:
    here = threading.get_ident()

    assert await parsed(b"x" * IN_LOOP_BYTES, lambda body: threading.get_ident()) == here
    assert await parsed(b"x" * (IN_LOOP_BYTES + 1), lambda body: threading.get_ident()) != here


async def test_what_is_too_deep_for_a_template_is_the_clients_fault(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Deep(ByteCodec):
        def encode_prompt(self, *_: object) -> Any:
            raise RecursionError

    call = await post(served(FakeRunner(), codec=Deep()).app, "/v1/messages", anthropic_body())

    assert call.status == 400
    assert call.json["error"] == {
        "type": "invalid_request_error",
        "message": "the request is nested too deeply",
    }
