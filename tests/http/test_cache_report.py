"""Every answer tells how much of its prompt was reused, and its usage counts each token of the
prompt once.
"""

import json
import re
from typing import Any

import pytest
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from semantic_trio.adapters.http.common.cache_report import cache_header
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.reuse import MissCause, Reuse, ReuseSource
from semantic_trio.testing import FakeRunner
from tests.http.messages import events
from tests.http.serving import Call, Served, anthropic_body, get, openai_body, post, running, served
from tests.http.test_chat import lines

HEADER = "x-semantic-cache"
RECURRENT = ModelCacheSpec(
    "recurrent",
    (LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=64),),
    block_tokens=16,
    row_slack_tokens=32,
)
BREAKPOINT = {"cache_control": {"type": "ephemeral"}}
BREAKPOINTS: list[dict[str, Any]] = [
    BREAKPOINT,
    {"system": [{"type": "text", "text": "be brief", **BREAKPOINT}]},
    {
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "text",
                        "text": "hi",
                        "cache_control": {"type": "ephemeral", "ttl": "1h"},
                    }
                ],
            }
        ]
    },
    {"tools": [{"name": "look", "input_schema": {}, **BREAKPOINT}]},
]


def figures(text: str) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    samples = (
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    )
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


async def scraped(server: Served) -> dict[tuple[str, ...], float]:
    return figures((await get(server.app, "/metrics")).content.decode())


def usage(call: Call) -> dict[str, int]:
    found: Any = call.json["usage"]
    return dict(found)


def read(one: dict[str, int]) -> int:
    return one["input_tokens"] + one["cache_read_input_tokens"] + one["cache_creation_input_tokens"]


def test_the_header_is_for_people_and_machines() -> None:
    assert (
        cache_header(Reuse(2013, 2044, ReuseSource.RAM, MissCause.DIVERGED, 12))
        == "reused=2013/2044; source=ram; cause=diverged; lost=12"
    )
    assert cache_header(Reuse(7, 8, ReuseSource.ROW)) == "reused=7/8; source=row"


async def test_plain_answers_carry_the_header_on_every_protocol(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        cold = await post(server.app, "/v1/messages", anthropic_body("x" * 90))
        warm = await post(server.app, "/v1/chat/completions", openai_body("x" * 90))
        await post(server.app, "/v1/agents", {"id": "a"})
        agent = await post(
            server.app, "/v1/agents/a/generate", {"message": "x" * 90, "max_tokens": 5}
        )
        counted = await post(server.app, "/v1/messages/count_tokens", anthropic_body("x" * 90))

    assert cold.answer_headers[HEADER] == "reused=0/106; source=none; cause=new; lost=0"
    assert warm.answer_headers[HEADER] == "reused=105/106; source=ram"
    assert agent.answer_headers[HEADER] == "reused=105/106; source=ram"
    assert HEADER not in counted.answer_headers


async def test_streams_end_with_what_the_header_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        await post(server.app, "/v1/messages", anthropic_body("x" * 90))
        theirs = await post(server.app, "/v1/messages", anthropic_body("x" * 90, stream=True))
        ours = await post(
            server.app,
            "/v1/chat/completions",
            openai_body("x" * 90, stream=True, stream_options={"include_usage": True}),
        )

    told = {"reused": 105, "prompt_tokens": 106, "source": "ram", "cause": None, "lost": 0}
    start, delta = (
        next(data for name, data in events(theirs.content) if name == wanted)
        for wanted in ("message_start", "message_delta")
    )
    chunk = json.loads(lines(ours.content)[-2])
    assert delta["semantic_cache"] == chunk["semantic_cache"] == told
    assert delta["usage"] == start["message"]["usage"] | {"output_tokens": 5}  # type: ignore[index]
    assert chunk["usage"]["prompt_tokens_details"] == {"cached_tokens": 105}


@pytest.mark.parametrize("fields", [{}, *BREAKPOINTS])
async def test_usage_adds_up_to_the_count_cold_and_warm(
    fields: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    body = anthropic_body(**fields)
    async with running(served(FakeRunner())) as server:
        counts = [await post(server.app, "/v1/messages/count_tokens", body)]
        cold, warm = (
            usage(await post(server.app, "/v1/messages", body)),
            usage(await post(server.app, "/v1/messages", body)),
        )
        counts.append(await post(server.app, "/v1/messages/count_tokens", body))

    assert {call.json["input_tokens"] for call in counts} == {read(cold)} == {read(warm)}
    assert (cold["cache_read_input_tokens"], warm["cache_read_input_tokens"]) == (0, read(warm) - 1)
    assert (cold["cache_creation_input_tokens"] > 0) == bool(fields), (
        "what is computed up to a breakpoint"
    )
    assert (warm["cache_creation_input_tokens"], warm["input_tokens"]) == (0, 1)


async def test_a_conversation_of_a_named_agent_is_counted_as_it_is_billed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        first = await post(server.app, "/v1/messages", anthropic_body("x" * 50, session_id="s"))
        said = first.json["content"][0]["text"]  # type: ignore[index]
        messages = [
            {"role": "user", "content": "x" * 50},
            {"role": "assistant", "content": said},
            {"role": "user", "content": "more"},
        ]
        body = anthropic_body(session_id="s", messages=messages)
        counted = await post(server.app, "/v1/messages/count_tokens", body)
        billed = usage(await post(server.app, "/v1/messages", body))

    assert counted.json["input_tokens"] == read(billed)
    assert billed["input_tokens"] <= len("\nuser:more\nassistant:") + 1


# What coding agents put behind the first user message: the project's environment.
LATE = {"role": "system", "content": "# Environment " + "e" * 200}
FIELDS: dict[str, dict[str, Any]] = {
    "/v1/messages": {"max_tokens": 5},
    "/v1/chat/completions": {"max_tokens": 5},
    "/v1/responses": {"max_output_tokens": 16, "store": False},
}


def opened(path: str, *texts: str) -> dict[str, Any]:
    """The first request of a session: what is shared, what the user says, and the environment
    behind it.
    """
    kind, messages = ("input_text", "input") if path == "/v1/responses" else ("text", "messages")
    content = [{"type": kind, "text": text} for text in ("# Project " + "p" * 100, *texts)]
    return {
        "model": "org/tiny",
        messages: [{"role": "user", "content": content}, LATE],
        **FIELDS[path],
    }


def reused(call: Call) -> tuple[int, int]:
    found = re.match(r"reused=(\d+)/(\d+)", call.answer_headers[HEADER])
    assert found is not None
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("path", FIELDS)
async def test_a_system_message_behind_the_first_user_message_is_read_once(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Although that message grows before it is answered, and another session says something else in
    it.
    """
    async with running(served(FakeRunner())) as server:
        asked, grown, other = [
            await post(server.app, path, opened(path, *texts))
            for texts in (["one"], ["one", "two"], ["three"])
        ]

    assert reused(asked)[0] == 0
    assert reused(grown)[0] >= reused(asked)[1] - len("\nassistant:")
    assert reused(other)[0] >= reused(asked)[1] - len("one\nassistant:")


async def test_a_model_that_cannot_begin_everywhere_begins_behind_the_late_system_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(spec=RECURRENT))) as server:
        calls = [
            await post(server.app, "/v1/messages", opened("/v1/messages", text))
            for text in ("one", "three")
        ]

    assert reused(calls[1])[0] == len(f"system:{LATE['content']}\n")


async def test_a_system_message_behind_the_first_user_message_is_counted_as_it_is_billed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    body = opened("/v1/messages", "one")
    body["messages"][1] = {
        "role": "system",
        "content": [{"type": "text", "text": LATE["content"], **BREAKPOINT}],
    }
    async with running(served(FakeRunner())) as server:
        counted = await post(server.app, "/v1/messages/count_tokens", body)
        billed = usage(await post(server.app, "/v1/messages", body))

    assert counted.json["input_tokens"] == read(billed)
    assert billed["input_tokens"] == len("assistant:"), (
        "the breakpoint stays behind all that is said"
    )


async def test_hits_misses_and_first_tokens_are_counted_by_what_was_remembered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
        for text in ("Monday", "Monday", "Tuesday"):
            await post(
                server.app, "/v1/chat/completions", openai_body("x" * 20 + text, session_id="a")
            )
        found = await scraped(server)

    assert found[("semantic_cache_hit_total",)] == 2
    assert found[("semantic_cache_miss_total", "new")] == 1
    assert found[("semantic_cache_miss_total", "diverged")] == 1
    assert found[("semantic_time_to_first_token_seconds_count", "cold", "interactive")] == 1
    assert found[("semantic_time_to_first_token_seconds_count", "ram", "interactive")] == 2


async def test_what_the_pool_holds_is_told_by_kind(autojump_clock: trio.testing.MockClock) -> None:
    async with running(
        served(FakeRunner(seconds_per_step=0.1), budget_bytes=8 * 16 * 100)
    ) as server:
        await post(server.app, "/v1/chat/completions", openai_body("x" * 200))
        idle = await scraped(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(post, server.app, "/v1/chat/completions", openai_body("y" * 50))
            await trio.sleep(0.25)
            busy = await scraped(server)

    pool = server.engine.memory.store.pool
    assert idle[("semantic_memory_used_bytes", "cache_blocks")] == 8 * (
        len("user:\nassistant:") + 200 + 4
    )
    assert (
        idle[("semantic_memory_used_bytes", "cache_rows")] == idle[("semantic_agents_active",)] == 0
    )
    assert (
        idle[("semantic_pool_utilization_ratio",)]
        == idle[("semantic_memory_used_bytes", "cache_blocks")] / pool.total_bytes
    )
    assert busy[("semantic_memory_used_bytes", "cache_rows")] > 0
    assert busy[("semantic_agents_active",)] == 1


async def test_token_histories_are_told_with_the_other_memory(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        for text in ("one", "two"):
            await post(server.app, "/v1/chat/completions", openai_body(text))
        text = server.metrics.exposition().decode()

    held = float(server.persistence.memory.token_histories.held_bytes)
    assert held > 1000
    assert f'semantic_memory_used_bytes{{kind="token_histories"}} {held}' in text
    assert "\nsemantic_token_histories 2.0\n" in text
    assert "\nsemantic_agents 2.0\n" in text


# An id that no key of a block spells by chance: keys are bytes and their digits are hexadecimal.
FIRST = "the-first-of-two-agents"


async def test_the_id_of_an_agent_that_made_room_for_others_is_nowhere(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), disk_bytes=1 << 24)) as server:
        server.engine.memory.agents.limit = 1
        await post(server.app, "/v1/chat/completions", openai_body("one"), **{"x-agent-id": FIRST})
        before = server.persistence.memory.token_histories.of_agent(FIRST)
        await post(server.app, "/v1/chat/completions", openai_body("two"), **{"x-agent-id": "eve"})
        after = (
            server.persistence.memory.token_histories.of_agent(FIRST),
            server.persistence.memory.token_histories.of_agent("eve"),
        )
        await trio.sleep(1)

    assert len(before) == 1
    assert [len(lines) for lines in after] == [0, 1]
    assert len(server.persistence.memory.token_histories) == 2
    # asserted by itself: pytest would compare long texts for minutes
    is_named = FIRST in repr(server.engine.memory.disk)
    assert not is_named


async def test_what_was_given_up_is_counted(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(), budget_bytes=8 * 16 * 30)) as server:
        for letter in "abcd":
            await post(server.app, "/v1/chat/completions", openai_body(letter * 200))
        found = await scraped(server)

    assert found[("semantic_eviction_total", "ram")] == server.engine.memory.store.evictions > 0
    assert found[("semantic_preemption_total", "memory")] == server.engine.scheduler.preemptions
    assert found[("semantic_memory_discrepancy_total",)] == 0


async def test_an_agent_whose_memory_made_room_for_others_is_told_that_it_was_evicted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """In the header, in its last turn and in the metrics; an agent whose memory is there is not."""
    async with running(served(FakeRunner(), budget_bytes=8 * 16 * 30)) as server:
        calls = [
            await post(
                server.app, "/v1/chat/completions", openai_body(agent * 200, session_id=agent)
            )
            for agent in "abcdeea"
        ]
        turn = (await get(server.app, "/v1/agents/a/last-turn")).json
        found = await scraped(server)

    there, gone = (call.answer_headers[HEADER].partition("; ")[2] for call in calls[-2:])
    assert there == "source=ram"
    assert "cause=evicted" in gone
    assert turn["cause"] == "evicted"
    assert found[("semantic_cache_miss_total", "evicted")] == 1
    assert found[("semantic_cache_miss_total", "new")] == len("abcde")


async def test_drafts_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        (
            server.engine.scheduler.speculation.most,
            server.engine.scheduler.speculation.pass_tokens,
        ) = 8, 32
        await post(
            server.app,
            "/v1/chat/completions",
            openai_body("abcd" * 50, frequency_penalty=-2.0, max_tokens=40),
        )
        steered = await scraped(server)
        await post(
            server.app,
            "/v1/chat/completions",
            openai_body("abcd" * 50, logit_bias={str(ord("e")): 100}, max_tokens=40),
        )
        found = await scraped(server)

    assert steered[("semantic_draft_tokens_total",)] == 0
    assert found[("semantic_draft_tokens_total",)] == server.engine.scheduler.speculation.drafted
    assert (
        found[("semantic_draft_tokens_total",)]
        >= found[("semantic_accepted_draft_tokens_total",)]
        > 20
    )


async def test_layers_that_are_no_attention_begin_again_at_the_end_of_the_system_prompt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(spec=RECURRENT))) as server:
        await post(server.app, "/v1/messages", anthropic_body("one", system="s" * 60))
        second = await post(server.app, "/v1/messages", anthropic_body("two", system="s" * 60))

    assert usage(second)["cache_read_input_tokens"] == len("system:\n") + 60
