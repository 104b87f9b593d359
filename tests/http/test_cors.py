"""Web pages: preflights are answered, and pages of admitted origins may read every answer."""

import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.testing import FakeRunner
from tests.http.serving import Call, anthropic_body, get, openai_body, post, running, served

PAGE = "http://localhost:3000"
KEYED = HttpSettings(api_key="k", allowed_origins=("https://chat.example.com", "null"))
ADMITTED = [
    PAGE,
    "https://app.localhost",
    "app://obsidian.md",
    "vscode-webview://abc",
    "https://chat.example.com",
    "null",
]
FOREIGN = [
    "https://evil.example",
    "http://chat.example.com",
    "https://chat.example.com.evil.example",
    "http://localhost.evil.example",
]


def preflight(path: str, origin: str, settings: HttpSettings = KEYED, **headers: str) -> Call:
    asked = {"origin": origin, "access-control-request-method": "POST", **headers}
    return Call(served(FakeRunner(), settings).app, "OPTIONS", path, headers=asked)


@pytest.mark.parametrize("origin", ADMITTED)
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/messages", "/v1/agents/ada/generate", "/nothing"]
)
async def test_a_preflight_of_an_admitted_page_needs_no_key(path: str, origin: str) -> None:
    call = await preflight(
        path,
        origin,
        **{"access-control-request-headers": "authorization,content-type,x-stainless-os"},
    ).run()

    assert (call.status, call.content, call.is_complete) == (204, b"", True)
    assert call.answer_headers["access-control-allow-origin"] == origin
    assert (
        call.answer_headers["access-control-allow-headers"]
        == "authorization,content-type,x-stainless-os"
    )
    assert {"GET", "POST", "PUT", "DELETE"} <= set(
        call.answer_headers["access-control-allow-methods"].split(", ")
    )
    assert "access-control-allow-private-network" not in call.answer_headers


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_preflight_of_another_page_is_refused(origin: str) -> None:
    call = await preflight("/v1/messages", origin).run()

    assert call.status == 403
    assert not [name for name in call.answer_headers if name.startswith("access-control-")]
    assert b"allowed_origins" in call.content


async def test_a_file_is_a_page_from_elsewhere_unless_it_is_allowed() -> None:
    assert (await preflight("/v1/messages", "null", HttpSettings()).run()).status == 403


async def test_a_preflight_to_a_foreign_name_is_refused() -> None:
    assert (await preflight("/v1/messages", PAGE, host="evil.example").run()).status == 403


async def test_a_page_of_a_public_site_may_ask_for_this_machine() -> None:
    call = await preflight(
        "/v1/messages",
        "https://chat.example.com",
        **{"access-control-request-private-network": "true"},
    ).run()

    assert call.answer_headers["access-control-allow-private-network"] == "true"


async def test_headers_that_are_no_names_are_not_sent_back() -> None:
    call = await preflight(
        "/v1/messages", PAGE, **{"access-control-request-headers": "a\r\nset-cookie: b"}
    ).run()

    assert call.status == 204
    assert "access-control-allow-headers" not in call.answer_headers


@pytest.mark.parametrize(
    "headers", [{}, {"origin": PAGE}, {"access-control-request-method": "POST"}]
)
async def test_options_that_are_no_preflight_are_no_method_of_a_route(
    headers: dict[str, str],
) -> None:
    assert (
        await Call(served(FakeRunner()).app, "OPTIONS", "/v1/messages", headers=headers).run()
    ).status == 405


@pytest.mark.parametrize("origin", ADMITTED)
async def test_an_admitted_page_may_read_answers_streams_and_errors(
    origin: str, autojump_clock: trio.testing.MockClock
) -> None:
    asked = {"origin": origin, "x-api-key": "k"}
    async with running(served(FakeRunner(), KEYED)) as server:
        calls = [
            await post(server.app, "/v1/messages", anthropic_body(), **asked),
            await post(server.app, "/v1/messages", anthropic_body(stream=True), **asked),
            await post(server.app, "/v1/chat/completions", openai_body(stream=True), **asked),
            await post(server.app, "/v1/responses", {}, **asked),
            await post(server.app, "/v1/messages", anthropic_body(), origin=origin),
            await get(server.app, "/nothing", **asked),
            await get(server.app, "/metrics", **asked),
        ]

    assert [call.status for call in calls] == [200, 200, 200, 400, 401, 404, 200]
    for call in calls:
        assert call.answer_headers["access-control-allow-origin"] == origin
        assert {"request-id", "retry-after", "x-semantic-cache"} <= set(
            call.answer_headers["access-control-expose-headers"].split(", ")
        )
        assert call.answer_headers["vary"] == "origin"


async def test_a_program_that_is_no_page_gets_no_such_headers() -> None:
    call = await get(served(FakeRunner()).app, "/v1/models")

    assert call.answer_headers["vary"] == "origin"
    assert not [name for name in call.answer_headers if name.startswith("access-control-")]
