"""Paths as base URLs that are a little wrong make them."""

import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.domain.embedding import EmbeddingForm
from semantic_trio.testing import FakeRunner
from tests.http.serving import Call, anthropic_body, get, openai_body, post, running, served

POSTED = {
    "/v1/chat/completions": openai_body(),
    "/v1/messages": anthropic_body(),
    "/v1/messages/count_tokens": anthropic_body(),
    "/v1/completions": {"model": "org/tiny", "prompt": "x", "max_tokens": 1},
    "/v1/embeddings": {"model": "org/tiny", "input": "x"},
    "/v1/rerank": {"model": "org/tiny", "query": "x", "documents": ["x"]},
    "/v1/responses": {"model": "org/tiny", "input": "x", "max_output_tokens": 1},
    "/v1/agents": {},
}
WRITTEN = ["{}/", "/v1{}", "/v1/v1{}", "/{}", "{}//", "//v1/{}", "{short}", "{short}/", "/{short}"]


@pytest.mark.parametrize("path", POSTED)
async def test_a_path_that_is_unambiguous_is_answered(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner(), embeds=EmbeddingForm(is_approximate=False))) as server:
        right = await post(server.app, path, POSTED[path])
        others = [
            await post(server.app, one.format(path, short=path.removeprefix("/v1")), POSTED[path])
            for one in WRITTEN
        ]

    assert {call.status for call in others} == {right.status} <= {200, 201}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/",
        "/models",
        "/models/",
        "//models",
        "/v1//models/org/tiny",
        "/models/org/tiny",
        "/models/tiny/",
        "/v1/v1/models//tiny",
    ],
)
async def test_models_are_found_on_such_paths(path: str) -> None:
    call = await get(served(FakeRunner()).app, path)

    assert call.status == 200
    assert b'"id":"org/tiny"' in call.content


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/api/chat", "/api/chat"),
        ("/v1", "/v1"),
        ("/v1/", "/v1"),
        ("/v1/v1", "/v1"),
        ("/v2/models", "/v2/models"),
        ("//v1//audio//speech/", "/v1/audio/speech"),
        ("/v1/chat", "/v1/chat"),
        ("/chat/completion", "/v1/chat/completion"),
    ],
)
async def test_another_path_is_named_and_is_json(path: str, named: str) -> None:
    app = served(FakeRunner()).app
    for call in (await get(app, path), await post(app, path, {})):
        error = call.json["error"]
        assert call.status == 404
        expected = (
            f"{call.method} {named} is not offered by this server; GET /openapi.json lists what is"
        )
        assert error["message"] == expected  # type: ignore[index]


@pytest.mark.parametrize(
    "path",
    [
        "//",
        "/health//live",
        "/health/live/",
        "/metrics/",
        "/v1/agents/a//b",
        "/v1/responses//",
        "/openapi.json/",
    ],
)
async def test_no_path_is_redirected(path: str) -> None:
    """A client that follows a redirect of a POST sends a GET without the body."""
    call = await Call(served(FakeRunner()).app, "GET", path).run()

    assert call.status not in range(300, 400)
    assert "location" not in call.answer_headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("OPTIONS", "*", 404), ("CONNECT", "host:80", 404), ("GET", "models", 200)],
)
async def test_a_path_without_a_slash_is_answered(method: str, path: str, status: int) -> None:
    assert (await Call(served(FakeRunner()).app, method, path).run()).status == status


async def test_a_path_that_is_spelled_otherwise_needs_the_same_key() -> None:
    app = served(FakeRunner(), HttpSettings(api_key="k")).app

    assert [
        (await get(app, path)).status
        for path in ("//v1/models", "/models", "//health/../v1/models", "//health/live")
    ] == [401, 401, 404, 200]


async def test_who_asks_for_another_model_is_told_which_are_served() -> None:
    app = served(FakeRunner()).app
    openai = await post(app, "/v1/chat/completions", openai_body(model="gpt-9"))
    anthropic = await post(app, "/v1/messages", anthropic_body(model="gpt-9"))

    message = openai.json["error"]["message"]  # type: ignore[index]
    assert message == "The model `gpt-9` does not exist: served here: org/tiny"
    assert anthropic.json["error"]["message"] == ("model: gpt-9 (served here: org/tiny)")  # type: ignore[index]


def test_no_path_is_made_from_the_name_of_a_route() -> None:
    rules = list(served(FakeRunner()).app.url_map.iter_rules())

    assert len(rules) > 1
    for rule in rules:
        with pytest.raises(NotImplementedError, match="no path is made"):
            rule.build(dict.fromkeys(rule.arguments, "x"))
