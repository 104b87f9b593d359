"""What goes wrong, in each protocol's statuses, envelopes and words."""

import json
from typing import Any

import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.common.faults import Fault, envelope, fault_of
from semantic_trio.adapters.http.common.protocol import Protocol
from semantic_trio.adapters.http.middleware.bodies import STALLED_SECONDS
from semantic_trio.adapters.http.middleware.response_sender import LINGER_SECONDS
from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.domain.errors import (
    DrainingError,
    GrammarError,
    InvalidRequestError,
    PoolExhaustedError,
)
from semantic_trio.testing import FakeRunner
from tests.http.serving import Call, anthropic_body, openai_body, post, running, served

BODIES = {"/v1/messages": anthropic_body, "/v1/chat/completions": openai_body}
# Of KV cache, of the fake model.
BYTES_OF_TOKEN = 8
NESTED = (
    b'{"model":"tiny","max_tokens":1,"messages":[{"role":"user","content":"x"}],"tools":'
    + b"[" * 50_000
    + b"]" * 50_000
    + b"}"
)

# (changed fields, the field that is named)
BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "user"}, 3]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0.type"),
    ({"model": 3}, "model"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -2}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 0.0}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_k": "all"}, "top_k"),
    ({"stream": "yes"}, "stream"),
]
BAD_ANTHROPIC: list[tuple[dict[str, Any], str]] = [
    (
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
        "messages.0.content.0.source.type",
    ),
    ({"system": 3}, "system"),
    ({"system": [{"type": "image"}]}, "system.0.type"),
    ({"stop_sequences": "x"}, "stop_sequences"),
    ({"stop_sequences": [3]}, "stop_sequences.0"),
    ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
]
BAD_OPENAI: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "user", "content": [{"type": 3}]}]}, "messages.0.content.0.type"),
    ({"n": 33}, "n"),
    ({"n": 0}, "n"),
    ({"response_format": "json"}, "response_format"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 3}}},
        "response_format.json_schema.schema",
    ),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"seed": "x"}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"stop": [3]}, "stop.0"),
    ({"logit_bias": {"5": "x"}}, "logit_bias"),
    ({"min_p": 2}, "min_p"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"stream_options": {"include_usage": 3}}, "stream_options.include_usage"),
    ({"messages": [{"role": "tool", "tool_call_id": 3}]}, "messages.0.tool_call_id"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
    ({"tool_choice": "sometimes"}, "tool_choice"),
    ({"stop": ["x"] * 65}, "stop"),
    ({"stop": "x" * 1001}, "stop"),
    ({"messages": [{"role": "user"}] * 20_001}, "messages"),
]


def told(call: Call) -> dict[str, Any]:
    """The error of an answer, after a look at its envelope."""
    envelope: dict[str, Any] = call.json
    if call.path.startswith("/v1/messages"):
        assert envelope["type"] == "error"
        assert envelope["request_id"] == call.answer_headers["request-id"]
    error: dict[str, Any] = envelope["error"]
    assert isinstance(error["message"], str)
    return error


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        *(
            (path, *bad)
            for path in BODIES
            for bad in BAD_FIELDS
            if "messages.0.content" != bad[1] or "content" in str(bad[0])
        ),
        *(("/v1/messages", *bad) for bad in BAD_ANTHROPIC),
        *(("/v1/chat/completions", *bad) for bad in BAD_OPENAI),
    ],
)
async def test_a_wrong_field_is_named(path: str, fields: dict[str, Any], field: str) -> None:
    call = await post(served(FakeRunner()).app, path, BODIES[path](**fields))

    assert call.status == 400
    assert call.answer_headers["x-should-retry"] == "false"
    error = told(call)
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"{field}: ")
    assert error.get("param", field) == field


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("/v1/messages", "max_tokens"),
        *((path, name) for path in BODIES for name in ("model", "messages")),
    ],
)
async def test_a_missing_field_is_named(path: str, missing: str) -> None:
    body = BODIES[path]()
    del body[missing]
    call = await post(served(FakeRunner()).app, path, body)

    assert call.status == 400
    assert told(call)["message"] == f"{missing}: Field required"


@pytest.mark.parametrize("path", [*BODIES, "/v1/completions", "/v1/embeddings", "/v1/responses"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", NESTED, b"{} {}"])
async def test_bad_json_is_a_400(path: str, body: bytes) -> None:
    call = await post(served(FakeRunner()).app, path, body)

    assert call.status == 400
    assert told(call)["type"] == "invalid_request_error"


async def test_a_prompt_that_is_too_long_is_told_in_the_words_clients_act_upon() -> None:
    app = served(FakeRunner(), context_length=20).app
    anthropic = await post(app, "/v1/messages", anthropic_body("x" * 20))
    openai = await post(app, "/v1/chat/completions", openai_body("x" * 20))

    assert (anthropic.status, told(anthropic)["message"]) == (
        400,
        "prompt is too long: 36 tokens > 20 maximum",
    )
    assert told(anthropic)["type"] == "invalid_request_error"
    assert openai.status == 400
    assert told(openai)["code"] == "context_length_exceeded"
    assert "maximum context length is 20 tokens" in told(openai)["message"]


async def test_an_unknown_model_is_a_404() -> None:
    app = served(FakeRunner()).app
    anthropic = await post(app, "/v1/messages", anthropic_body(model="gpt-9"))
    openai = await post(app, "/v1/chat/completions", openai_body(model="gpt-9"))

    assert (anthropic.status, told(anthropic)) == (
        404,
        {"type": "not_found_error", "message": "model: gpt-9 (served here: org/tiny)"},
    )
    assert (openai.status, told(openai)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [("/v1/messages", 529, "overloaded_error"), ("/v1/chat/completions", 429, "rate_limit_error")],
)
async def test_beyond_the_queue_is_overload(
    path: str, status: int, kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=1), rows=1, queue_limit=1)) as server,
        trio.open_nursery() as nursery,
    ):
        for _ in range(2):
            nursery.start_soon(post, server.app, path, BODIES[path]())
        await trio.sleep(0.1)
        call = await post(server.app, path, BODIES[path]())

    assert (call.status, told(call)["type"]) == (status, kind)
    assert int(call.answer_headers["retry-after"]) >= 1
    assert "x-should-retry" not in call.answer_headers


@pytest.mark.parametrize(
    ("protocol", "status", "kind"),
    [(Protocol.ANTHROPIC, 529, "overloaded_error"), (Protocol.OPENAI, 429, "rate_limit_error")],
)
def test_memory_that_others_have_is_overload_too(
    protocol: Protocol, status: int, kind: str
) -> None:
    fault = fault_of(PoolExhaustedError(wanted=2, free=1, total=3), protocol)

    error = json.loads(envelope(fault, protocol, "req_1"))["error"]
    assert (fault.status, error["type"]) == (status, kind)
    assert int(dict(fault.headers)["retry-after"]) >= 1
    assert "x-should-retry" not in dict(fault.headers)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/messages", "overloaded_error"), ("/v1/chat/completions", "server_error")],
)
async def test_while_draining_new_requests_are_told_to_come_back(path: str, kind: str) -> None:
    async with running(served(FakeRunner())) as server:
        await server.engine.drain(0)
        call = await post(server.app, path, BODIES[path]())

    assert (call.status, told(call)["type"]) == (503, kind)
    assert int(call.answer_headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/messages", "api_error"), ("/v1/chat/completions", "server_error")]
)
async def test_a_failed_step_is_a_500(path: str, kind: str) -> None:
    def fails(plan: object) -> None:
        runner.before_step = lambda plan: None
        raise RuntimeError("on fire")

    runner = FakeRunner(before_step=fails)
    async with running(served(runner)) as server:
        call = await post(server.app, path, BODIES[path]())
        again = await post(server.app, path, BODIES[path]())

    assert (call.status, told(call)["type"]) == (500, kind)
    assert again.status == 200


@pytest.mark.parametrize("path", [*BODIES, "/v1/messages/count_tokens"])
async def test_a_bug_says_no_more_than_that(path: str) -> None:
    class Broken:
        stop_tokens: frozenset[int] = frozenset()
        fingerprint = ""

        def encode_prompt(self, conversation: object) -> tuple[int, ...]:
            raise KeyError("secret")

        def decoder(self) -> None:
            raise AssertionError

    call = await post(served(FakeRunner(), codec=Broken()).app, path, anthropic_body())  # type: ignore[arg-type]

    assert call.status == 500
    assert told(call)["message"] == "internal error"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/v1/nothing", "GET", 404), ("/v1/messages", "GET", 405), ("/health/live", "POST", 405)],
)
@pytest.mark.parametrize("is_anthropic", [False, True])
async def test_unknown_paths_and_methods_have_an_envelope(
    path: str, method: str, status: int, is_anthropic: bool
) -> None:
    headers = {"anthropic-version": "2023-06-01"} if is_anthropic else {}
    call = await Call(served(FakeRunner()).app, method, path, headers=headers).run()

    assert call.status == status
    assert ("request_id" in call.json) == (is_anthropic or path.startswith("/v1/messages"))
    assert ("allow" in call.answer_headers) == (status == 405)


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (Fault(400, "two\nlines"), "two lines"),
        (InvalidRequestError("'my secret' is wrong", "stop"), "invalid_request_error"),
        (GrammarError("my secret"), "grammar_too_complex"),
        (DrainingError(5), "the server is shutting down"),
        (KeyError("my secret"), "internal error"),
    ],
)
def test_what_may_quote_a_request_is_logged_as_its_kind(error: Exception, logged: str) -> None:
    assert fault_of(error, Protocol.OPENAI).logged == logged


@pytest.mark.parametrize(
    "path",
    [
        "/v1/batches",
        "/v1/responses/compact",
        "/v1/responses/input_tokens",
        "/v1/messages/batches",
        "/v1/" + "x" * 200,
    ],
)
async def test_what_is_not_offered_is_a_404_that_says_so(path: str) -> None:
    call = await post(served(FakeRunner()).app, path, {})

    shown = path if len(path) <= 100 else f"{path[:99]}…"
    assert (call.status, told(call)["message"]) == (
        404,
        f"POST {shown} is not offered by this server; GET /openapi.json lists what is",
    )
    assert "allow" not in call.answer_headers


async def test_a_body_over_the_limit_is_a_413(autojump_clock: trio.testing.MockClock) -> None:
    app = served(FakeRunner(), HttpSettings(max_body_bytes=1024)).app
    declared = await post(
        app, "/v1/messages", anthropic_body("x" * 2000), **{"content-length": "2100"}
    )
    chunked = Call(app, "POST", "/v1/messages")
    chunked._pieces = [b"x" * 600, b"y" * 600, *[b"z" * 600] * 100]
    await chunked.run()

    for call in (declared, chunked):
        assert (call.status, told(call)["type"]) == (413, "request_too_large")
        assert call.answer_headers["x-should-retry"] == "false"
        assert call.is_complete


async def test_a_body_that_stalls_is_a_408(autojump_clock: trio.testing.MockClock) -> None:
    call = Call(served(FakeRunner()).app, "POST", "/v1/messages")
    call._pieces = []
    await call.run()

    assert (call.status, told(call)["type"]) == (408, "timeout_error")
    assert trio.current_time() == pytest.approx(STALLED_SECONDS + LINGER_SECONDS)


async def test_a_large_prompt_is_encoded_off_the_loop_and_answered() -> None:
    """No virtual clock here: a real thread is involved."""
    async with running(served(FakeRunner(), context_length=100_000)) as server:
        call = await post(server.app, "/v1/messages", anthropic_body("x" * 50_000))

    assert call.status == 200
    assert json.loads(call.content)["usage"]["input_tokens"] == 50_016


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [("/v1/messages", 529, "overloaded_error"), ("/v1/chat/completions", 429, "rate_limit_error")],
)
async def test_a_prompt_for_which_pins_leave_no_memory_is_overload(
    path: str, status: int, kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner(), budget_bytes=BYTES_OF_TOKEN * 640)) as server:
        await post(server.app, "/v1/agents", {"id": "ada"})
        await post(server.app, "/v1/agents/ada/generate", {"message": "x" * 200, "max_tokens": 5})
        pinned = await post(server.app, "/v1/agents/ada/pin", {})
        call = await post(server.app, path, BODIES[path]("y" * 500))
        stream = await post(server.app, path, BODIES[path]("y" * 500, stream=True))

    assert pinned.status == 200
    assert (call.status, told(call)["type"]) == (status, kind)
    assert int(call.answer_headers["retry-after"]) >= 1
    assert f'"{kind}"'.encode() in stream.content
