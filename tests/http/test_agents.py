"""Agents that clients make, look at, copy, pin, warm, close, delete and ask for reasons."""

import pytest
import trio
import trio.testing

from semantic_trio.testing import FakeRunner
from tests.http.agents import answer, create, delete, do, say, view
from tests.http.serving import Call, anthropic_body, get, openai_body, post, running, served

HOSTILE = ["..%2f", "a%00b", "x" * 10_000, "ünïcode", "a b", "a:b"]


async def test_an_agent_lives_from_its_creation_to_its_deletion(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        created = await post(
            server.app,
            "/v1/agents",
            {"id": "ada", "system": "Be brief.", "tools": [{"name": "look"}]},
        )
        cold = await view(server, "ada")
        await say(server, "ada")
        warm, listed = await view(server, "ada"), (await get(server.app, "/v1/agents")).json
        statuses = [
            await delete(server.app, "ada"),
            await delete(server.app, "ada"),
            (await get(server.app, "/v1/agents/ada")).status,
        ]

    assert (created.status, created.json) == (201, cold)
    assert (cold["state"], cold["tokens"], cold["named"], cold["has_tools"], cold["last_turn"]) == (
        "cold",
        0,
        True,
        True,
        None,
    )
    assert (warm["state"], warm["turns"], warm["messages"]) == ("warm", 1, 3)
    begun = 'system:<tools>[["look", "", "{}"]]</tools>\nsystem:Be brief.\nuser:hi\nassistant:'
    assert warm["bytes"] == 8 * warm["tokens"] == 8 * (len(begun) + 4), (
        "the last token is drawn and not read"
    )
    assert (listed["total"], listed["warm"], listed["data"]) == (1, 1, [warm])
    assert statuses == [204, 404, 404]


async def test_an_agent_without_an_id_gets_one(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        made = await Call(server.app, "POST", "/v1/agents").run()

    assert made.status == 201
    assert str(made.json["id"]).startswith("agent-")


async def test_of_many_who_make_one_agent_one_does(autojump_clock: trio.testing.MockClock) -> None:
    statuses: list[int] = []

    async def make() -> None:
        statuses.append((await post(server.app, "/v1/agents", {"id": "one"})).status)

    async with running(served(FakeRunner())) as server:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(make)
                nursery.start_soon(
                    post, server.app, "/v1/chat/completions", openai_body(session_id="one")
                )
        total = (await get(server.app, "/v1/agents")).json["total"]

    assert sorted(statuses) in ([201] + [409] * 9, [409] * 10)
    assert total == 1


async def test_a_fork_shares_what_was_and_goes_its_own_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(seconds_per_step=0.1))) as server:
        await create(server, id="parent", system="Be brief.")
        first = await say(server, "parent", "one")
        before = trio.current_time()
        forked = await do(server, "parent", "fork", id="child")
        assert trio.current_time() == before, "a fork is instant"
        again = await do(server, "parent", "fork", id="child")
        theirs, own = await say(server, "child", "two"), await say(server, "parent", "three")
        parent, child = await view(server, "parent"), await view(server, "child")

    assert (forked.status, answer(forked)["parent"], answer(forked)["messages"]) == (
        201,
        "parent",
        3,
    )
    assert answer(forked)["shared_blocks"] == answer(forked)["blocks"] > 0
    assert again.status == 409
    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"] - 1
    assert theirs["usage"]["cached_tokens"] >= known
    assert own["usage"]["cached_tokens"] >= known
    assert parent["shared_blocks"] == child["shared_blocks"] < parent["blocks"]


async def test_deleting_frees_what_nobody_else_has_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        for name in ("a", "b"):
            await create(server, id=name, system="s" * 64)
        await say(server, "a", "x" * 200)
        await say(server, "b", "y" * 32)
        both = server.engine.memory.store.pool.used
        a, b = await view(server, "a"), await view(server, "b")
        await delete(server.app, "a")
        await trio.sleep(1)
        held, after = set(server.runner.blocks), await view(server, "b")

    shared = a["shared_blocks"] * 16 * 8
    assert shared > 0
    assert both - server.engine.memory.store.pool.used == a["bytes"] - shared
    assert (after["bytes"], after["shared_blocks"]) == (b["bytes"], 0)
    assert held == server.engine.memory.expected().blocks


async def test_pins_have_a_bound_that_is_told_with_its_numbers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), budget_bytes=8 * 16 * 40)) as server:
        for name in ("a", "b"):
            await create(server, id=name)
            await say(server, name, name * 200)
        pinned, refused = await do(server, "a", "pin"), await do(server, "b", "pin")
        unpinned = await do(server, "a", "unpin")
        later = await do(server, "b", "pin")

    assert (pinned.status, pinned.json["pinned"], unpinned.json["pinned"]) == (200, True, False)
    assert refused.status == 400
    assert str(8 * 16 * 40) in refused.content.decode()
    assert later.status == 200


async def test_what_was_warmed_is_not_read_again(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        agent = await create(server, system="s" * 100)
        warmed = answer(await do(server, agent, "warm"))
        first = await say(server, agent, "one")
        await do(server, agent, "close")
        cold = await view(server, agent)
        await do(server, agent, "warm")
        second = await say(server, agent, "two")

    assert warmed["tokens"] == len("system:\nuser:") + 100
    assert first["usage"]["cached_tokens"] == warmed["tokens"]
    assert (cold["state"], cold["bytes"], cold["messages"]) == ("cold", 0, 3)
    assert second["usage"]["prompt_tokens"] - second["usage"]["cached_tokens"] == len(
        "two\nassistant:"
    )


async def test_an_agent_of_a_client_that_keeps_the_conversation_is_warmed_by_its_history(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        await post(server.app, "/v1/chat/completions", openai_body("x" * 100, session_id="s"))
        before = await view(server, "s")
        await do(server, "s", "close")
        warmed = answer(await do(server, "s", "warm"))
        after = await view(server, "s")

    assert warmed["tokens"] == before["tokens"] == after["tokens"]
    assert (warmed["cache"]["reused"], after["state"]) == (0, "warm")


async def test_the_last_turn_shows_both_sides_of_a_divergence_and_nobody_elses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    common, secret = "c" * 64, "the other one's secret"
    async with running(served(FakeRunner())) as server:
        none = await get(server.app, "/v1/agents/a/last-turn")
        await post(
            server.app,
            "/v1/chat/completions",
            openai_body(f"{common} today is Monday", session_id="a"),
        )
        await post(
            server.app, "/v1/chat/completions", openai_body(f"{common} {secret}", session_id="b")
        )
        await post(
            server.app,
            "/v1/chat/completions",
            openai_body(f"{common} the other one's so", session_id="a"),
        )
        told = await get(server.app, "/v1/agents/a/last-turn")

    turn = answer(told)
    assert none.status == 404
    assert (turn["cause"], turn["left_at"]) == ("diverged", len(f"user:{common} t"))
    assert turn["reused"] == len(f"user:{common} the other one's s"), "another's blocks are used"
    assert turn["stored_text"].startswith("c" * 14 + " today is Monday")
    assert turn["prompt_text"].startswith("c" * 14 + " the other one's")
    assert "secret" not in told.content.decode()


async def test_who_is_nobody_is_not_taken_for_a_named_agent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Else what it says would be shown as the named one's."""
    async with running(served(FakeRunner())) as server:
        await create(server, id="a", system="s" * 64)
        await do(server, "a", "warm")
        theirs = [{"role": "system", "content": "s" * 64}, {"role": "user", "content": "my secret"}]
        reused = await post(server.app, "/v1/chat/completions", openai_body(messages=theirs))
        await say(server, "a", "hello")
        told = await get(server.app, "/v1/agents/a/last-turn")

    assert reused.json["usage"]["prompt_tokens_details"]["cached_tokens"] > 64  # type: ignore[index]
    assert told.json["cause"] is None
    assert "secret" not in told.content.decode()


async def test_an_agent_that_has_had_no_turn_has_none_to_tell(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        await create(server, id="a")
        call = await get(server.app, "/v1/agents/a/last-turn")

    assert (call.status, call.json["reused"], call.json["prompt_tokens"], call.json["cause"]) == (
        200,
        0,
        0,
        None,
    )


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_ids_that_are_none_are_refused_wherever_they_stand(
    hostile: str, autojump_clock: trio.testing.MockClock
) -> None:
    given = hostile.replace("%2f", "/").replace("%00", "\0")
    async with running(served(FakeRunner())) as server:
        calls = [
            await post(server.app, "/v1/agents", {"id": given}),
            await post(server.app, "/v1/chat/completions", openai_body(session_id=given)),
            await post(server.app, "/v1/messages", anthropic_body(session_id=given)),
        ]
        in_path = [
            await get(server.app, f"/v1/agents/{given}"),
            await do(server, given, "generate", message="hi"),
        ]
        total = (await get(server.app, "/v1/agents")).json["total"]

    assert [call.status for call in calls] == [400] * 3
    assert calls[0].json["error"]["param"] == "id"  # type: ignore[index]
    assert calls[1].json["error"]["param"] == "session_id"  # type: ignore[index]
    assert {call.status for call in in_path} <= ({400, 404} if "/" in given else {400}), (
        "a slash makes it another path"
    )
    assert total == 0


async def test_unknown_agents_are_not_made_by_being_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        statuses = [
            (await do(server, "nobody", what, message="hi")).status
            for what in ("generate", "warm", "fork", "pin", "unpin", "close")
        ]
        theirs = await post(
            server.app, "/v1/agents/nobody/warm", {}, **{"anthropic-version": "2023-06-01"}
        )

    assert statuses == [404] * 6
    assert theirs.json["error"]["type"] == "not_found_error"  # type: ignore[index]
