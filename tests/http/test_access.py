"""Who may ask."""

import pytest
import structlog.testing

from semantic_trio.adapters.http.state import HttpSettings
from semantic_trio.testing import FakeRunner
from tests.http.serving import anthropic_body, get, post, running, served

KEY = "s3cret"
LOOPBACK = ["localhost", "localhost:8000", "127.0.0.1:1", "127.0.0.53", "[::1]:8000", "app.localhost:3000", "LOCALHOST.", ""]
FOREIGN = ["evil.com", "evil.com:8000", "127.0.0.1.evil.com", "localhost.evil.com", "192.168.1.5", "[::2]", "[", "a@localhost@evil.com"]


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
        (HttpSettings(allow_remote=True, host="0.0.0.0", allowed_hosts=("box.lan",)), "anything.lan", 403),
        (HttpSettings(allow_remote=True, host="::", allowed_hosts=("box.lan",)), "box.lan", 200),
    ],
)
async def test_names_can_be_allowed(settings: HttpSettings, host: str, status: int) -> None:
    assert (await get(served(FakeRunner(), settings).app, "/v1/models", host=host)).status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:3000", 200), ("vscode-webview://abc", 200), ("https://evil.com", 403), ("null", 403), ("http://127.0.0.1", 200)],
)
async def test_pages_from_elsewhere_are_refused(origin: str, status: int) -> None:
    """A page cannot read our answers, but could make us work: simple requests need no preflight."""
    async with running(served(FakeRunner())) as server:
        assert (await post(server.app, "/v1/messages", anthropic_body(), origin=origin)).status == status


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
        assert call.json["error"] == {"type": "authentication_error", "message": "invalid x-api-key"}
        assert call.answer_headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("path", "status"), [("/health/live", 200), ("/health/ready", 503), ("/", 401), ("/metrics", 401), ("/admin/batch-window", 401)]
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
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with running(served(FakeRunner(), HttpSettings(api_key=KEY))) as server:
            call = await post(server.app, "/v1/messages", anthropic_body("my secret"), **{"x-api-key": KEY})

    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["method"], line["path"], line["status"], line["outcome"]) == ("POST", "/v1/messages", 200, "200")
    assert line["request_id"] == call.answer_headers["request-id"]
    assert "secret" not in str(lines)
    assert KEY not in str(lines)
