"""A server answers before its model is loaded: it lives, and is not ready."""

import json

import pytest
import trio
from trio.testing import MockClock

from semantic_trio.adapters.http.middleware.response_sender import LINGER_SECONDS
from semantic_trio.adapters.http.middleware.starting import RETRY_SECONDS, StartingApp
from semantic_trio.testing import FakeRunner
from tests.http.serving import Call, anthropic_body, openai_body, served


async def asked(app: StartingApp, method: str, path: str, body: object = None) -> Call:
    return await Call(app, method, path, b"" if body is None else json.dumps(body).encode()).run()


@pytest.mark.parametrize(
    ("probe", "status", "word"),
    [("live", 200, "ok"), ("ready", 503, "unavailable"), ("startup", 503, "unavailable")],
)
async def test_probes_tell_the_phase_of_the_start(probe: str, status: int, word: str) -> None:
    app = StartingApp()
    app.phase = "loading the model"

    call = await asked(app, "GET", f"/health/{probe}")

    assert (call.status, call.json) == (status, {"status": word, "state": "loading the model"})


async def test_healthz_is_the_live_probe_before_the_model_is_loaded_and_after() -> None:
    app = StartingApp()
    before = await asked(app, "GET", "/healthz")
    app.app = served(FakeRunner()).app
    after = await asked(app, "GET", "/healthz")

    assert (
        (before.status, before.json["status"])
        == (after.status, after.json["status"])
        == (200, "ok")
    )


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/messages", anthropic_body()), ("/v1/chat/completions", openai_body())]
)
async def test_requests_are_refused_in_the_words_of_their_protocol_and_may_be_tried_again(
    path: str, body: object, autojump_clock: MockClock
) -> None:
    call = await asked(StartingApp("warming up"), "POST", path, body)

    error = call.json["error"]
    assert isinstance(error, dict)
    assert call.status == 503
    assert "warming up" in error["message"]
    assert error["type"] == ("overloaded_error" if path == "/v1/messages" else "server_error")
    assert call.answer_headers["retry-after"] == str(RETRY_SECONDS)
    assert call.answer_headers["connection"] == "close"
    assert "x-should-retry" not in call.answer_headers
    assert trio.current_time() < LINGER_SECONDS


async def test_requests_reach_the_application_once_there_is_one() -> None:
    app = StartingApp()
    before = await asked(app, "GET", "/v1/models")

    app.app = served(FakeRunner()).app
    after = await asked(app, "GET", "/v1/models")

    assert (before.status, after.status) == (503, 200)


async def test_websockets_are_closed_with_the_code_for_later() -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await StartingApp()({"type": "websocket"}, trio.sleep_forever, send)  # type: ignore[arg-type]

    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1013)]
