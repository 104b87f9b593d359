"""Adapters over HTTP: `MODEL:ADAPTER` names one, and what is computed with it is never reused
without it.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from semantic_trio.application.adapters import AdapterFiles, AdapterShelf
from semantic_trio.application.model_entry import ModelLimits
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.testing import FakeRunner
from tests.http.serving import (
    Call,
    Served,
    anthropic_body,
    get,
    in_line,
    openai_body,
    post,
    running,
    served,
)

LONG = "a long prompt of several blocks " * 8
BYTES = 1000
ADAPTERS = (
    AdapterFiles("french", Path("french")),
    AdapterFiles("german", Path("german")),
    AdapterFiles("other", Path("other"), "org/large", fits=False),
    AdapterFiles("damaged", Path("damaged")),
)


@attrs.define(eq=False)
class FakeLoader:
    """A loader of adapters without weights."""

    held: dict[bytes, str] = attrs.field(factory=dict)

    async def load_adapter(self, path: Path, name: str, digest: bytes) -> int:
        """See `AdapterLoader`."""
        await trio.sleep(1)
        if path == Path("damaged"):
            raise ModelNotFoundError(name, "the adapter has no adapters.safetensors")
        self.held[digest] = path.name
        return BYTES

    async def drop_adapter(self, digest: bytes) -> None:
        """See `AdapterLoader`."""
        await trio.sleep(1)
        self.held.pop(digest, None)


def digest(path: Path) -> bytes:
    return hashlib.sha256(path.name.encode()).digest()[:16]


def a_server(
    loader: FakeLoader | None = None,
    adapters: Sequence[AdapterFiles] = ADAPTERS,
    runner: FakeRunner | None = None,
    limits: ModelLimits | None = None,
) -> Served:
    return served(
        runner or FakeRunner(),
        limits_of_models=limits,
        shelf=AdapterShelf(lambda _: adapters, digest, in_line),
        loader=loader or FakeLoader(),
    )


async def text(server: Served, model: str, **headers: str) -> tuple[str, int]:
    """What a model answers to a long prompt, and how much of the prompt it had in its cache."""
    answer = await post(
        server.app, "/v1/messages", anthropic_body(LONG, model=model, temperature=0), **headers
    )
    assert answer.status == 200, answer.content
    usage = answer.json["usage"]
    return answer.json["content"][0]["text"], usage["cache_read_input_tokens"]  # type: ignore[index]


@pytest.mark.parametrize(
    "names",
    [
        ("org/tiny:german", "org/tiny"),
        ("org/tiny", "org/tiny:german"),
        ("org/tiny:german", "org/tiny:french"),
    ],
)
async def test_what_one_adapter_has_read_is_not_reused_with_another_or_without(
    names: tuple[str, str], autojump_clock: trio.testing.MockClock
) -> None:
    async with running(a_server()) as server:
        alone, _ = await text(server, names[1])
    async with running(a_server()) as server:
        await text(server, names[0])
        after, cached = await text(server, names[1])
        again, cached_again = await text(server, names[1])

    assert (after, cached) == (alone, 0)
    assert again == alone
    assert cached_again > 0


async def test_an_agent_keeps_the_memory_of_each_adapter_apart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    headers = {"x-agent-id": "ada"}
    async with running(a_server()) as server:
        first, _ = await text(server, "org/tiny:german", **headers)
        base, cached = await text(server, "org/tiny", **headers)
        second, cached_second = await text(server, "org/tiny:german", **headers)

    assert (first != base, cached) == (True, 0)
    assert second == first
    assert cached_second > 0


async def test_rows_of_several_adapters_run_in_one_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    names, answers = (
        ["org/tiny", "org/tiny:german", "org/tiny:french", "org/tiny:german"],
        dict[int, str](),
    )
    async with running(a_server()) as server:
        alone = [(await text(server, name))[0] for name in names]

    async def ask(number: int) -> None:
        answers[number], _ = await text(server, names[number])

    async with running(a_server()) as server, trio.open_nursery() as nursery:
        for number in range(len(names)):
            nursery.start_soon(ask, number)

    assert [answers[number] for number in range(len(names))] == alone


@pytest.mark.parametrize(
    "name", ["org/tiny:german", "tiny:german", "default:german", "claude-opus-4:german"]
)
@pytest.mark.parametrize(
    ("path", "body"), [("/v1/messages", anthropic_body), ("/v1/chat/completions", openai_body)]
)
async def test_ids_and_aliases_take_an_adapter(
    name: str, path: str, body: object, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(a_server()) as server:
        answer = await post(server.app, path, body(model=name))  # type: ignore[operator]

    assert (answer.status, answer.json["model"]) == (200, "org/tiny:german")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/tiny:none", "model: org/tiny:none (adapters of org/tiny: french, german, damaged)"),
        (
            "claude-opus-4:none",
            "model: org/tiny:none (adapters of org/tiny: french, german, damaged)",
        ),
        ("gone:german", "model: gone (served here: org/tiny)"),
        (
            "org/tiny:other",
            (
                "model: org/tiny:other (the adapter was trained on org/large; if that is this "
                "model, set"
            ),
        ),
        ("org/tiny:damaged", "model: org/tiny:damaged (the adapter has no adapters.safetensors)"),
    ],
)
async def test_an_adapter_that_is_not_there_is_a_404_that_says_why(
    name: str, message: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(a_server()) as server:
        answer = await post(server.app, "/v1/messages", anthropic_body(model=name))

    assert answer.status == 404
    assert answer.json["error"]["message"].startswith(message)  # type: ignore[index]


async def test_without_adapters_a_name_with_a_colon_is_what_it_was(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        answer = await post(server.app, "/v1/messages", anthropic_body(model="claude-opus-4:beta"))

    assert (answer.status, answer.json["model"]) == (200, "org/tiny")


async def test_models_are_listed_with_the_adapters_that_fit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server()) as server:
        listed = (await get(server.app, "/v1/models")).json["data"]
        one = await get(server.app, "/v1/models/org/tiny:german")
        none = await get(server.app, "/v1/models/org/tiny:none")

    assert [(entry["id"], entry["adapter"]) for entry in listed] == [  # type: ignore[attr-defined]
        ("org/tiny", None), ("org/tiny:french", "french"), ("org/tiny:german", "german"), ("org/tiny:damaged", "damaged")
    ]  # fmt: skip
    assert (one.status, one.json["id"], one.json["display_name"]) == (
        200,
        "org/tiny:german",
        "Tiny:german",
    )
    assert none.status == 404


async def test_an_adapter_is_unloaded_when_its_requests_are_over_and_loaded_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    loader, unloaded = FakeLoader(), list[Call]()

    async def unload() -> None:
        unloaded.append(await post(server.app, "/admin/models/unload", {"model": "tiny:german"}))

    async with running(a_server(loader)) as server, trio.open_nursery() as nursery:
        await text(server, "tiny:german")
        held = dict(loader.held)
        body = json.dumps(anthropic_body(model="tiny:german", max_tokens=300)).encode()
        call = Call(server.app, "POST", "/v1/messages", body, {"content-type": "application/json"})
        nursery.start_soon(call.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(unload)
        await trio.testing.wait_all_tasks_blocked()
        assert loader.held == held
        while not unloaded:
            await trio.sleep(1)
        after = dict(loader.held)
        again, _ = await text(server, "tiny:german")

    assert list(held.values()) == ["german"]
    assert (call.status, after) == (200, {})
    assert (unloaded[0].status, unloaded[0].json["model"], unloaded[0].json["bytes"]) == (
        200,
        "org/tiny:german",
        BYTES,
    )
    assert again


async def test_adapters_make_room_for_each_other_least_recently_used_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Two fit beside the model; one that answers stays."""
    names, loader = ("dutch", "french", "german"), FakeLoader()
    [alone] = a_server().state.registry.models.residents
    limits = ModelLimits(budget_bytes=alone.bytes + 2 * BYTES)
    server = a_server(loader, [AdapterFiles(name, Path(name)) for name in names], limits=limits)
    [model] = server.state.registry.models.residents
    held = list[list[str]]()
    async with running(server), trio.open_nursery() as nursery:
        for name in ("dutch", "french", "dutch", "german"):
            await text(server, f"org/tiny:{name}")
            held.append(sorted(loader.held.values()))
        bytes_held = model.bytes
        body = json.dumps(anthropic_body(model="tiny:dutch", max_tokens=300)).encode()
        call = Call(server.app, "POST", "/v1/messages", body, {"content-type": "application/json"})
        nursery.start_soon(call.run)
        await trio.testing.wait_all_tasks_blocked()
        await text(server, "org/tiny:french")
        beside = sorted(loader.held.values())

    assert held == [["dutch"], ["dutch", "french"], ["dutch", "french"], ["dutch", "german"]]
    assert bytes_held == limits.budget_bytes
    assert beside == ["dutch", "french"]
    assert call.status == 200


async def test_requests_that_come_after_an_unload_do_not_hold_it_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """They load the same files again, and use them for longer than the unloading waits."""
    body = json.dumps(anthropic_body(model="tiny:german", max_tokens=300)).encode()

    slow = FakeRunner(seconds_per_step=0.1)

    async with running(a_server(runner=slow)) as server, trio.open_nursery() as nursery:

        def call() -> Call:
            headers = {"content-type": "application/json"}
            one = Call(server.app, "POST", "/v1/messages", body, headers)
            nursery.start_soon(one.run)
            return one

        async def unload() -> None:
            await post(server.app, "/admin/models/unload", {"model": "tiny:german"})
            ended.append(later.status)

        ended = list[int]()
        first = call()
        await trio.sleep(2)
        nursery.start_soon(unload)
        await trio.sleep(2)
        later = call()

    assert (first.status, later.status) == (200, 200)
    assert ended == [0], "the later request has not ended when the unloading has"


@pytest.mark.parametrize("name", ["org/tiny:german", "org/tiny:none", "gone:german"])
async def test_an_adapter_that_is_not_loaded_cannot_be_unloaded(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(a_server()) as server:
        answer = await post(server.app, "/admin/models/unload", {"model": name})

    assert answer.status == 404


async def test_requests_that_come_at_once_load_an_adapter_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server()) as server:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(text, server, "org/tiny:german")

        assert trio.current_time() - began < 2  # each load takes a second


async def test_vectors_and_created_agents_have_no_adapter(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server()) as server:
        answers = [
            await post(server.app, "/v1/embeddings", {"model": "org/tiny:german", "input": "a"}),
            await post(
                server.app,
                "/v1/rerank",
                {"model": "org/tiny:german", "query": "a", "documents": ["a"]},
            ),
            await post(server.app, "/v1/agents", {"model": "org/tiny:german"}),
        ]

    assert [answer.status for answer in answers] == [400] * 3
    assert all("without an adapter" in answer.json["error"]["message"] for answer in answers)  # type: ignore[index]


@pytest.mark.parametrize("path", ["generate", "warm"])
async def test_a_turn_by_the_agents_api_needs_no_adapter_that_the_agent_had_before(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The adapter may be unloaded by then: a row that named it could not be computed."""
    runner = FakeRunner()
    async with running(a_server(runner=runner)) as server:
        await text(server, "org/tiny:german", **{"x-agent-id": "ada"})
        before = len(runner.plans)
        call = await post(
            server.app, f"/v1/agents/ada/{path}", {"message": "and now?", "max_tokens": 3}
        )

    assert call.status == 200
    assert {start.adapter for plan in runner.plans[:before] for start in plan.open} == {
        digest(Path("german"))
    }
    assert {start.adapter for plan in runner.plans[before:] for start in plan.open} == {b""}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}),
        (
            "/v1/chat/completions",
            {"max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]},
        ),
        ("/v1/completions", {"max_tokens": 3, "prompt": "hi"}),
        ("/v1/responses", {"max_output_tokens": 3, "input": "hi"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_protocol_computes_with_the_adapter(
    path: str, body: dict[str, object], stream: bool, autojump_clock: trio.testing.MockClock
) -> None:
    runner = FakeRunner()
    async with running(a_server(runner=runner)) as server:
        call = await post(
            server.app,
            path,
            {"model": "org/tiny:german", "cache_salt": "mine", "stream": stream, **body},
        )

    assert call.status == 200
    assert {start.adapter for plan in runner.plans for start in plan.open} == {
        digest(Path("german"))
    }
    assert b"org/tiny:german" in call.content or path == "/v1/messages"
