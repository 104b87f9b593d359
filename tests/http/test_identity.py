"""Who is taken to be speaking, on every protocol; and that nobody waits who need not."""

import json
from functools import partial

import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.common.identity import ANONYMOUS, Identity, identify
from semantic_trio.domain.agent import AGENT_ID, client_id
from semantic_trio.domain.errors import AgentNotFoundError, InvalidRequestError
from semantic_trio.testing import FakeRunner
from tests.http.serving import Call, Served, anthropic_body, openai_body, post, running, served

SUBAGENT = {"x-claude-code-agent-id": "sub"}
NESTED = "[" * 100_000


def test_the_first_of_the_names_that_are_given_counts() -> None:
    headers = {"x-agent-id": "header", "x-session-id": "session", **SUBAGENT}

    assert identify(
        headers, session_id="field", prompt_cache_key="key", user_id="user"
    ) == Identity("field", is_ordered=True)
    assert identify(headers, prompt_cache_key="key", user_id="user") == Identity("key")
    assert identify(headers, user_id="user") == Identity("header", is_ordered=True)
    assert identify(SUBAGENT | {"x-session-id": "session"}, user_id="user") == Identity("user.sub")
    assert identify({}) == ANONYMOUS


@pytest.mark.parametrize(
    "user_id",
    [
        json.dumps({"device_id": "d", "account_uuid": "", "session_id": "5e55"}),
        "user_1234_account__session_5e55",
        "5e55",
    ],
)
def test_the_session_is_found_in_every_form_of_user_id(user_id: str) -> None:
    assert identify(SUBAGENT, user_id=user_id) == Identity("5e55.sub")


@pytest.mark.parametrize("name", ["x-claude-code-session-id", "x-session-id"])
def test_the_session_may_be_in_a_header(name: str) -> None:
    assert identify(SUBAGENT | {name: "5e55"}) == Identity("5e55.sub")


@pytest.mark.parametrize(
    "user_id",
    [
        None,
        7,
        ["a"],
        {"session_id": "a"},
        "",
        "{",
        '{"session_id": 7}',
        "{" + NESTED,
        '{"a": ' + NESTED,
    ],
)
def test_a_session_without_a_subagent_names_nobody_whatever_it_is(user_id: object) -> None:
    assert identify({"x-session-id": "5e55"}, user_id=user_id) == ANONYMOUS
    assert identify({}, user_id=user_id) == ANONYMOUS


@pytest.mark.parametrize("foreign", ["a/b", "../../etc", "\0", "x" * 10_000, "ü", "a b"])
def test_foreign_ids_are_made_ids(foreign: str) -> None:
    made = [
        identify({}, prompt_cache_key=foreign),
        identify({}, prompt_cache_key=foreign + "!"),
        identify(SUBAGENT, user_id=foreign),
    ]

    assert all(AGENT_ID.fullmatch(one.agent or "") and not one.is_ordered for one in made)
    assert len({one.agent for one in made}) == 3
    assert identify({}, prompt_cache_key=foreign) == made[0]


def test_joined_ids_are_not_taken_for_each_other() -> None:
    one = identify({"x-claude-code-agent-id": "b.c"}, user_id="a")
    other = identify({"x-claude-code-agent-id": "c"}, user_id="a.b")

    assert one.agent != other.agent


@pytest.mark.parametrize("hostile", ["../a", "a\0", "x" * 10_000, "ü", "", "a\n"])
def test_ids_of_ours_that_are_none_are_refused_by_name(hostile: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        identify({}, session_id=hostile)
    assert refused.value.field == "session_id"
    if hostile:
        with pytest.raises(InvalidRequestError) as refused:
            identify({"x-agent-id": hostile})
        assert refused.value.field == "X-Agent-ID"


async def names_after(
    server: Served, path: str, body: dict[str, object], **headers: str
) -> set[str]:
    assert (await post(server.app, path, body, **headers)).status == 200
    return {agent.id for agent in server.engine.memory.agents}


async def test_every_way_to_name_an_agent_reaches_its_memory(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        chat, messages = "/v1/chat/completions", "/v1/messages"
        assert await names_after(server, chat, openai_body(session_id="a")) == {"a"}
        assert await names_after(server, messages, anthropic_body(session_id="b")) == {"a", "b"}
        assert await names_after(server, chat, openai_body(prompt_cache_key="c")) == {"a", "b", "c"}
        assert await names_after(server, messages, anthropic_body(), **{"x-agent-id": "d"}) == {
            "a",
            "b",
            "c",
            "d",
        }
        sub = await names_after(
            server, messages, anthropic_body(metadata={"user_id": "u_session_s"}), **SUBAGENT
        )

    assert sub == {"a", "b", "c", "d", "s.sub"}


async def test_a_weird_header_is_refused_and_a_weird_user_id_ignored(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        refused = await post(server.app, "/v1/messages", anthropic_body(), **{"x-agent-id": "../a"})
        ignored = await post(server.app, "/v1/messages", anthropic_body(metadata={"user_id": [1]}))

    assert (refused.status, ignored.status) == (400, 200)
    assert refused.json["error"]["message"].startswith("X-Agent-ID: ")  # type: ignore[index]


@pytest.mark.parametrize(
    ("fields", "headers", "waits"),
    [
        ({"session_id": "a"}, {}, True),
        ({}, {"x-agent-id": "a"}, True),
        ({"prompt_cache_key": "a"}, {}, False),
        ({}, {"x-session-id": "s", **SUBAGENT}, False),
        ({}, {}, False),
    ],
)
async def test_who_is_named_explicitly_speaks_in_order(
    fields: dict[str, object],
    headers: dict[str, str],
    waits: bool,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended: list[float] = []

    async def ask(text: str) -> None:
        await post(
            server.app,
            "/v1/chat/completions",
            openai_body(text, max_tokens=10, **fields),
            **headers,
        )
        ended.append(trio.current_time())

    async with (
        running(served(FakeRunner(seconds_per_step=0.1))) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ask, "one")
        nursery.start_soon(ask, "two")

    assert (ended[1] > ended[0] + 0.9) == waits


async def test_nobody_in_a_client_session_waits_for_anothers_generation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The main conversation, four sub-agents, a title and 25 token counts at once, as a coding
    agent's client sends them.
    """
    seconds: dict[str, float] = {}

    async def ask(name: str, path: str, system: str, max_tokens: int, **headers: str) -> None:
        began = trio.current_time()
        body = anthropic_body(
            name,
            system=system,
            max_tokens=max_tokens,
            metadata={"user_id": '{"session_id": "5e55"}'},
        )
        call: Call = await post(
            server.app, path, body, **{"x-claude-code-session-id": "5e55", **headers}
        )
        assert call.status == 200
        seconds[name] = trio.current_time() - began

    async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
        await ask("alone", "/v1/messages", "another system prompt", 20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "main", "/v1/messages", "main", 20)
            nursery.start_soon(ask, "title", "/v1/messages", "make a title", 20)
            for i in range(4):
                sub = {"x-claude-code-agent-id": f"sub{i}"}
                nursery.start_soon(
                    partial(ask, f"sub{i}", "/v1/messages", f"{i} sub-agent", 20, **sub)
                )
            for i in range(25):
                nursery.start_soon(ask, f"count{i}", "/v1/messages/count_tokens", "main", 20)

    alone = seconds.pop("alone")
    counts = {name: taken for name, taken in seconds.items() if name.startswith("count")}
    assert set(counts.values()) == {0.0}
    assert len(counts) == 25
    assert {name: taken for name, taken in seconds.items() if name not in counts} == pytest.approx(
        dict.fromkeys(seconds.keys() - counts.keys(), alone)
    )
    assert {agent.id for agent in server.engine.memory.agents if agent.is_named} <= {
        f"5e55.sub{i}" for i in range(4)
    }


# -------------------------------------------------------------------------- ids of the server's own


@pytest.mark.parametrize(
    "own", [".auto-0123456789abcdef01234567", ".id-0123456789abcdef0123456789abcdef", ".x"]
)
async def test_no_client_gives_an_agent_an_id_of_the_servers_own(
    own: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        refused = [
            await post(server.app, "/v1/messages", anthropic_body(session_id=own)),
            await post(server.app, "/v1/chat/completions", openai_body(session_id=own)),
            await post(server.app, "/v1/chat/completions", openai_body(), **{"x-agent-id": own}),
            await post(server.app, "/v1/agents", {"id": own}),
        ]
        await post(server.app, "/v1/agents", {"id": "ada"})
        refused.append(await post(server.app, "/v1/agents/ada/fork", {"id": own}))
        agents = [agent.id for agent in server.engine.memory.agents]

    assert {call.status for call in refused} == {400}
    assert agents == ["ada"]


def test_a_key_that_looks_like_an_id_of_the_servers_own_is_hashed() -> None:
    hashed = identify({}, prompt_cache_key="a b").agent
    assert hashed is not None
    assert hashed.startswith(".")

    again = identify({}, prompt_cache_key=hashed).agent

    assert again != hashed
    assert AGENT_ID.fullmatch(again or "")


async def test_an_agent_without_a_name_has_an_id_that_no_client_can_choose(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        await post(server.app, "/v1/chat/completions", openai_body())
        [agent] = server.engine.memory.agents
        shown = await Call(server.app, "GET", f"/v1/agents/{agent.id}").run()
        talked = await post(
            server.app, f"/v1/agents/{agent.id}/generate", {"message": "two", "max_tokens": 3}
        )

    with pytest.raises(InvalidRequestError, match="dot"):
        client_id(agent.id)
    assert (shown.status, talked.status) == (200, 200)


async def test_a_turn_of_an_agent_without_a_name_that_is_gone_makes_no_other_of_its_id(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        await post(server.app, "/v1/chat/completions", openai_body())
        [agent] = server.engine.memory.agents
        server.engine.memory.delete(agent)

        with pytest.raises(AgentNotFoundError):
            server.engine.memory.get_or_create(agent.id)
