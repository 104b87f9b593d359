"""What an operator does with models while the server runs: load, unload, swap, aliases."""

import pytest
import trio.testing

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.testing import FakeRunner
from tests.http.serving import (
    Call,
    FakeHost,
    Served,
    anthropic_body,
    fake_model,
    get,
    openai_body,
    post,
    running,
    served,
)
from tests.http.test_operating import read

SMALL, LARGE = "org/small", "./models/large"
BYTES = 1 << 24


def a_server(settings: HttpSettings | None = None) -> Served:
    """A server of a main model, of one that requests may name, and of one on its disk."""
    names = ("org/tiny", SMALL, LARGE)
    host = FakeHost({name: lambda name=name: fake_model(name, FakeRunner()) for name in names})  # type: ignore[misc]
    return served(FakeRunner(), settings, host=host, others=(SMALL,))


async def served_models(server: Served) -> dict[str, object]:
    data = (await get(server.app, "/v1/models")).json["data"]
    assert isinstance(data, list)
    return {one["id"]: one["state"] for one in data}


async def test_a_model_is_loaded_beside_the_others_and_unloaded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server()) as server:
        loaded = await post(server.app, "/admin/models/load", {"model": LARGE})
        answer = await post(server.app, "/v1/messages", anthropic_body(model=LARGE))
        states = await served_models(server)
        unloaded = await post(server.app, "/admin/models/unload", {"model": LARGE})
        after = await served_models(server)

    assert (loaded.status, loaded.json) == (200, {"model": LARGE, "seconds": 1.0, "bytes": BYTES})
    assert (unloaded.status, unloaded.json) == (
        200,
        {"model": LARGE, "seconds": 0.0, "bytes": BYTES},
    )
    assert answer.json["model"] == LARGE
    assert states == {"org/tiny": "ready", SMALL: "absent", LARGE: "ready"}
    assert after == {"org/tiny": "ready", SMALL: "absent", LARGE: "absent"}


async def test_a_swap_changes_who_answers_for_the_main_model(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server()) as server:
        swapped = await post(server.app, "/admin/models/swap", {"model": LARGE})
        answers = [
            await post(server.app, "/v1/messages", anthropic_body(model=name))
            for name in ("default", "claude-opus-4", LARGE)
        ]
        gone = await post(server.app, "/v1/messages", anthropic_body(model="org/tiny"))
        samples = read(server.metrics)

    assert (swapped.status, swapped.json) == (200, {"model": LARGE, "seconds": 1.0, "bytes": BYTES})
    assert [answer.json["model"] for answer in answers] == [LARGE] * 3
    assert gone.json["error"] == {
        "type": "not_found_error",
        "message": f"model: org/tiny (served here: {LARGE}, {SMALL})",
    }
    assert (
        samples["semantic_model_swap_duration_seconds_count",],
        samples["semantic_model_swap_duration_seconds_sum",],
    ) == (1, 1.0)
    assert (samples["semantic_model_hit_total",], samples["semantic_model_miss_total",]) == (3, 0)


async def test_requests_are_counted_by_whether_their_model_was_loaded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server()) as server:
        for name in ("default", SMALL, SMALL, "unknown"):
            await post(server.app, "/v1/messages", anthropic_body(model=name))
            await post(server.app, "/v1/chat/completions", openai_body(model=name, stream=True))
        samples = read(server.metrics)

    assert (samples["semantic_model_hit_total",], samples["semantic_model_miss_total",]) == (5, 1)


@pytest.mark.parametrize("action", ["load", "unload", "swap"])
async def test_a_model_that_is_not_there_changes_nothing(
    action: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(a_server()) as server:
        call = await post(server.app, f"/admin/models/{action}", {"model": "gone"})
        answer = await post(server.app, "/v1/chat/completions", openai_body())
        states = await served_models(server)

    assert call.status == 404
    assert answer.status == 200
    assert states == {"org/tiny": "ready", SMALL: "absent"}


async def test_a_swap_that_fails_says_that_the_old_model_is_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = a_server()
    opener = server.state.registry.opener
    assert isinstance(opener, FakeHost)
    opener.failing.add(LARGE)
    async with running(server):
        call = await post(server.app, "/admin/models/swap", {"model": LARGE})
        answer = await post(server.app, "/v1/messages", anthropic_body())

    assert call.status == 409
    error = call.json["error"]
    assert isinstance(error, dict)
    assert error["code"] == "model_swap_failed"
    assert error["message"] == (
        f"{LARGE} cannot replace org/tiny: model: {LARGE} (its weights are damaged); after 2.0 "
        "s org/tiny is served again"
    )
    assert answer.json["model"] == "org/tiny"


async def test_aliases_are_set_listed_and_removed(autojump_clock: trio.testing.MockClock) -> None:
    async with running(a_server()) as server:
        path = "/admin/models/aliases"
        put = await Call(
            server.app, "PUT", path, b'{"alias": "claude-haiku*", "model": "org/small"}'
        ).run()
        answer = await post(server.app, "/v1/messages", anthropic_body(model="claude-haiku-4-5"))
        listed = await get(server.app, path)
        removed = await Call(server.app, "DELETE", f"{path}/claude-haiku*").run()
        again = await post(server.app, "/v1/messages", anthropic_body(model="claude-haiku-4-5"))

    assert put.json == listed.json == {"aliases": {"tiny": "org/tiny", "claude-haiku*": SMALL}}
    assert removed.json == {"aliases": {"tiny": "org/tiny"}}
    assert (answer.json["model"], again.json["model"]) == (SMALL, "org/tiny")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/admin/models/aliases", b'{"alias": "x", "model": "gone"}', 404),
        ("PUT", "/admin/models/aliases", b'{"alias": "org/tiny", "model": "org/small"}', 400),
        ("PUT", "/admin/models/aliases", b'{"alias": "x"}', 400),
        ("DELETE", "/admin/models/aliases/gone", b"", 404),
        ("POST", "/admin/models/load", b"{}", 400),
        ("POST", "/admin/models/swap", b"", 400),
    ],
)
async def test_what_cannot_be_is_refused(method: str, path: str, body: bytes, status: int) -> None:
    server = a_server()

    assert (await Call(server.app, method, path, body).run()).status == status
    assert server.state.registry.names.aliases == {"tiny": "org/tiny"}


@pytest.mark.parametrize("path", ["load", "unload", "swap", "aliases"])
@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        (HttpSettings(api_key="s3cret"), {}, 401),
        (HttpSettings(), {"origin": "https://evil.com"}, 403),
        (HttpSettings(), {"host": "evil.com"}, 403),
    ],
)
async def test_only_the_operator_changes_models(
    path: str, settings: HttpSettings, headers: dict[str, str], status: int
) -> None:
    server = a_server(settings)
    method = "PUT" if path == "aliases" else "POST"
    body = b'{"alias": "x", "model": "org/small"}'

    assert (
        await Call(server.app, method, f"/admin/models/{path}", body, headers).run()
    ).status == status
    assert server.state.registry.names.aliases == {"tiny": "org/tiny"}
