"""Who may ask, and what the log says of it."""

from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.testing import FakeRunner
from tests.http.serving import Call, anthropic_body, get, openai_body, post, running, served

KEY = "s3cret"
LOOPBACK = [
    "localhost",
    "localhost:8000",
    "127.0.0.1:1",
    "127.0.0.53",
    "[::1]:8000",
    "app.localhost:3000",
    "LOCALHOST.",
    "",
]
FOREIGN = [
    "evil.com",
    "evil.com:8000",
    "127.0.0.1.evil.com",
    "localhost.evil.com",
    "192.168.1.5",
    "[::2]",
    "[",
    "a@localhost@evil.com",
]


@pytest.mark.parametrize("host", LOOPBACK)
async def test_loopback_names_are_ours(host: str) -> None:
    assert (await get(served(FakeRunner()).app, "/v1/models", host=host)).status == 200


@pytest.mark.parametrize("host", FOREIGN)
async def test_foreign_names_are_refused(host: str) -> None:
    """A page that rebinds its own name to this machine sends that name."""
    call = await get(served(FakeRunner()).app, "/v1/models", host=host)
    assert call.status == 403
    assert b"error" in call.content


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        (HttpSettings(host="192.168.1.5"), "192.168.1.5:8000", 200),
        (HttpSettings(allowed_hosts=("box.lan",)), "BOX.lan:8000", 200),
        (HttpSettings(allow_remote=True, host="0.0.0.0"), "anything.lan", 200),
        (
            HttpSettings(allow_remote=True, host="0.0.0.0", allowed_hosts=("box.lan",)),
            "anything.lan",
            403,
        ),
        (HttpSettings(allow_remote=True, host="::", allowed_hosts=("box.lan",)), "box.lan", 200),
    ],
)
async def test_names_can_be_allowed(settings: HttpSettings, host: str, status: int) -> None:
    assert (await get(served(FakeRunner(), settings).app, "/v1/models", host=host)).status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("vscode-webview://abc", 200),
        ("https://evil.com", 403),
        ("null", 403),
        ("http://127.0.0.1", 200),
    ],
)
async def test_pages_from_elsewhere_are_refused(origin: str, status: int) -> None:
    """A page cannot read our answers, but could make us work: simple requests need no preflight."""
    async with running(served(FakeRunner())) as server:
        assert (
            await post(server.app, "/v1/messages", anthropic_body(), origin=origin)
        ).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": KEY}, 200),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer {KEY}"}, 200),
        ({"x-api-key": "wrong", "authorization": f"Bearer {KEY}"}, 200),
        ({"x-api-key": KEY, "authorization": "Bearer wrong"}, 200),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": "wröng"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": KEY}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
    ],
)
async def test_a_key_opens_from_either_header(headers: dict[str, str], status: int) -> None:
    app = served(FakeRunner(), HttpSettings(api_key=KEY)).app
    call = await get(app, "/v1/models", **{"anthropic-version": "2023-06-01"}, **headers)

    assert call.status == status
    if status == 401:
        assert call.json["error"] == {
            "type": "authentication_error",
            "message": "invalid x-api-key",
        }
        assert call.answer_headers["x-should-retry"] == "false"


async def test_clients_of_openai_are_told_where_a_key_goes() -> None:
    app = served(FakeRunner(), HttpSettings(api_key=KEY)).app
    openai, anthropic = [
        await post(app, path, {}, authorization="Bearer wrong")
        for path in ("/v1/chat/completions", "/v1/messages")
    ]

    told = "missing or wrong API key: send it as Authorization: Bearer or x-api-key"
    assert openai.json["error"] == {
        "message": told,
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert anthropic.json["error"] == {
        "type": "authentication_error",
        "message": "invalid x-api-key",
    }


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health/live", 200),
        ("/healthz", 200),
        ("/health/ready", 503),
        ("/", 401),
        ("/metrics", 401),
        ("/admin/batch-window", 401),
    ],
)
async def test_only_probes_are_open(path: str, status: int) -> None:
    assert (await get(served(FakeRunner(), HttpSettings(api_key=KEY)).app, path)).status == status


async def test_every_answer_carries_an_id_and_sane_ones_of_callers_are_kept() -> None:
    app = served(FakeRunner()).app
    minted = await get(app, "/v1/models")
    kept = await get(app, "/v1/models", **{"x-request-id": "job-7.a_b"})
    replaced = await get(app, "/nothing", **{"x-request-id": "no spaces"})
    refused = await get(app, "/v1/models", host="evil.com")

    assert kept.answer_headers["request-id"] == kept.answer_headers["x-request-id"] == "job-7.a_b"
    for call in (minted, replaced, refused):
        assert call.answer_headers["request-id"].startswith("req_")


async def test_the_log_names_the_request_and_never_what_was_said() -> None:
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as lines:
        async with running(served(FakeRunner(), HttpSettings(api_key=KEY))) as server:
            call = await post(
                server.app, "/v1/messages", anthropic_body("my secret"), **{"x-api-key": KEY}
            )

    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["method"], line["path"], line["status"], line["outcome"]) == (
        "POST",
        "/v1/messages",
        200,
        "200",
    )
    assert line["request_id"] == call.answer_headers["request-id"]
    assert "secret" not in str(lines)
    assert KEY not in str(lines)


async def log_line(
    path: str, body: object, runner: FakeRunner | None = None, *, calls: int = 1, **headers: str
) -> tuple[dict[str, Any], Call]:
    """What the log says of the last of several equal requests, and its answer."""
    with structlog.testing.capture_logs() as lines:
        async with running(served(runner or FakeRunner(), HttpSettings(api_key=KEY))) as server:
            answers = [
                await post(server.app, path, body, **{"x-api-key": KEY, **headers})
                for _ in range(calls)
            ]
    return next(dict(line) for line in reversed(lines) if line["event"] == "request"), answers[-1]


TOO_LONG = "This model's maximum context length is 4096 tokens. However, your {} resulted in"
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


@pytest.mark.parametrize(
    ("path", "body", "error", "param"),
    [
        (
            CHAT,
            openai_body(temperature="hot"),
            "temperature: Expected `float | null`, got `str`",
            "temperature",
        ),
        (CHAT, {"model": "m"}, "messages: Field required", "messages"),
        (
            CHAT,
            openai_body(stop=["x"] * 65),
            "stop: at most 64 stop strings of at most 1000 characters",
            "stop",
        ),
        (CHAT, openai_body("x" * 5000), TOO_LONG.format("messages"), "messages"),
        (TEXT, {"model": "org/tiny", "prompt": "x" * 5000}, TOO_LONG.format("prompt"), "prompt"),
        (RESPONSES, {"model": "org/tiny", "input": "x" * 5000}, TOO_LONG.format("input"), "input"),
        (CHAT, b"{", "the body is not valid JSON: Input data was truncated", None),
        (
            RESPONSES,
            {"model": "m", "prompt": {"id": "p"}},
            "prompt: prompts are not kept here: ",
            "prompt",
        ),
        (
            "/v1/batches",
            {},
            "POST /v1/batches is not offered by this server; GET /openapi.json lists what is",
            None,
        ),
        ("/v1/models", {}, "The method is not allowed for the requested URL.", None),
    ],
)
async def test_the_log_says_why_a_request_was_refused(
    path: str, body: object, error: str, param: str | None
) -> None:
    line, call = await log_line(path, body)

    told: Any = call.json["error"]
    assert line["error"].startswith(error)
    assert line.get("param") == param == told["param"]
    assert told["message"].startswith(line["error"].removesuffix("…"))


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        (
            {"x-api-key": "wrong"},
            "missing or wrong API key: send it as Authorization: Bearer or x-api-key",
        ),
        (
            {"host": "evil.com"},
            (
                "requests for host 'evil.com' are not answered; name it in allowed_hosts if it is "
                "this server"
            ),
        ),
        ({"origin": f"https://{'x' * 300}.com"}, f"requests from pages of 'https://{'x' * 167}…"),
    ],
)
async def test_the_log_says_who_may_not_ask_in_a_short_line(
    headers: dict[str, str], error: str
) -> None:
    line, call = await log_line(CHAT, openai_body(), **headers)

    assert (line["status"], line["error"]) == (call.status, error)
    assert len(error) <= 200


SAID = "my secret"


@pytest.mark.parametrize(
    ("path", "body", "error", "param"),
    [
        (
            CHAT,
            openai_body(messages=[{"role": SAID, "content": "x"}]),
            "invalid_request_error",
            "messages.0.role",
        ),
        (CHAT, openai_body(model=SAID), "model_not_found", "model"),
        (
            CHAT,
            openai_body(tool_choice={"type": "function", "function": {"name": SAID}}),
            "invalid_request_error",
            "tool_choice",
        ),
        (
            TEXT,
            {"model": "org/tiny", "prompt": "x", "logit_bias": {SAID: SAID}},
            None,
            "logit_bias",
        ),
        (
            RESPONSES,
            {"model": "org/tiny", "previous_response_id": SAID},
            "previous_response_not_found",
            "previous_response_id",
        ),
        (
            RESPONSES,
            {"model": "org/tiny", "input": [{"type": "item_reference", "id": SAID}]},
            "not_found_error",
            "input",
        ),
        (RESPONSES, {"model": "org/tiny", "metadata": {SAID: 3}}, None, "metadata"),
        (
            "/v1/messages",
            anthropic_body(tool_choice={"type": "tool", "name": SAID}),
            "invalid_request_error",
            "tool_choice",
        ),
    ],
)
async def test_the_log_names_the_field_of_what_a_refusal_quotes_and_quotes_nothing(
    path: str, body: object, error: str | None, param: str
) -> None:
    line, call = await log_line(path, body)

    assert call.status in {400, 404}
    assert line["param"].startswith(param)
    assert error is None or line["error"] == error
    assert SAID not in str(line)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_the_log_says_how_a_generation_failed(is_streamed: bool) -> None:
    def fails(plan: object) -> None:
        raise RuntimeError("on fire")

    line, _ = await log_line(CHAT, openai_body(stream=is_streamed), FakeRunner(before_step=fails))

    assert line["outcome"] == ("aborted" if is_streamed else "500")
    assert line["error"].startswith("a step of the model failed: ")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {**openai_body("x" * 90), "n": 3}),
        (TEXT, {"model": "org/tiny", "prompt": ["x" * 90, "y" * 50], "n": 2, "max_tokens": 5}),
        (RESPONSES, {"model": "org/tiny", "input": "x" * 90, "max_output_tokens": 5}),
    ],
)
async def test_the_log_counts_tokens_as_the_answer_does(
    path: str, fields: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    line, call = await log_line(path, fields, calls=2)

    usage: Any = call.json["usage"]
    read, drawn = (
        ("input_tokens", "output_tokens")
        if path == RESPONSES
        else ("prompt_tokens", "completion_tokens")
    )
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage[read], usage[drawn])
    assert (
        line["reused"]
        == usage["input_tokens_details" if path == RESPONSES else "prompt_tokens_details"][
            "cached_tokens"
        ]
        > 0
    )


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_the_log_says_why_not_more_was_reused(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    def asked(text: str) -> dict[str, object]:
        return {
            "model": "org/tiny",
            "max_tokens": 5,
            "session_id": "a",
            "messages": [{"role": "user", "content": text}],
        }

    with structlog.testing.capture_logs() as lines:
        async with running(served(FakeRunner())) as server:
            for text in ("x" * 90, "x" * 90, "y" * 90):
                await post(server.app, path, asked(text))
    told = [dict(line) for line in lines if line["event"] == "request"]

    assert [line.get("cause") for line in told] == ["new", None, "diverged"]
    assert told[1]["reused"] > 0


async def test_the_log_says_each_cause_of_several_prompts_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    line, _ = await log_line(
        TEXT, {"model": "org/tiny", "prompt": ["x" * 90, "y" * 50], "max_tokens": 5}
    )

    assert line["cause"] == "new"


async def test_the_log_counts_no_tokens_where_none_were_read() -> None:
    line, _ = await log_line("/v1/messages/count_tokens", anthropic_body())
    behind, _ = await log_line(RESPONSES, {"model": "org/tiny", "input": "x", "background": True})

    assert not {"prompt_tokens", "reused", "completion_tokens", "cause", "error"} & {*line, *behind}
