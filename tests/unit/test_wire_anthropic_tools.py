"""Tools, thoughts and cache breakpoints of a Messages request, and its numbers."""

from typing import Any

import pytest

from semantic_trio.adapters.http.anthropic.request import MessagesRequest, generation_params
from semantic_trio.adapters.http.anthropic.thinking import Display, display_of
from semantic_trio.adapters.http.common.faults import Fault, fault_of
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.protocol import Protocol
from semantic_trio.domain.conversation import (
    Calling,
    Role,
    Tool,
    ToolChoice,
)
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.generation import API_SAMPLING, SamplingParams
from tests.unit.wire_messages import block, meaning, request

# -------------------------------------------------------------------------------------------- tools


LOOK = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"b": {}, "a": {}}},
    "strict": True,
}


SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}


def test_tools_are_those_the_client_runs() -> None:
    tools = [
        LOOK,
        SEARCH,
        {
            "name": "late",
            "type": "custom",
            "input_schema": None,
            "defer_loading": True,
            "eager_input_streaming": True,
        },
        {"name": "plain"},
    ]
    assert meaning(tools=tools).conversation.tools == (
        Tool("look", "Looks.", '{"type": "object", "properties": {"b": {}, "a": {}}}'),
        Tool("late", is_deferred=True),
        Tool("plain"),
    )


CHOICES: list[tuple[dict[str, Any] | None, ToolChoice]] = [
    (None, ToolChoice()),
    ({"type": "auto"}, ToolChoice()),
    ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(is_single=True)),
    ({"type": "any"}, ToolChoice(Calling.REQUIRED)),
    ({"type": "none"}, ToolChoice(Calling.NONE)),
    ({"type": "tool", "name": "look"}, ToolChoice(Calling.REQUIRED, "look", is_single=True)),
    (
        {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
        ToolChoice(Calling.REQUIRED, "look", is_single=True),
    ),
    ({"type": "tool", "name": "web_search"}, ToolChoice()),
]


@pytest.mark.parametrize(("choice", "means"), CHOICES)
def test_choices_are_understood(choice: Any, means: ToolChoice) -> None:
    assert meaning(tools=[LOOK, SEARCH], tool_choice=choice).conversation.choice == means


def test_without_tools_nothing_has_to_be_called() -> None:
    assert meaning(tool_choice={"type": "any"}).conversation.choice == ToolChoice()


BAD_TOOLS: list[tuple[dict[str, Any], str]] = [
    ({"tools": [LOOK, 3]}, "tools.1: Expected `object`, got `int`"),
    ({"tools": [{"input_schema": {}}]}, "tools.0.name: Field required"),
    ({"tools": [{"name": "", "input_schema": {}}]}, "tools.0.name: Expected `str` of length >= 1"),
    (
        {"tools": [{"name": "x", "input_schema": []}]},
        "tools.0.input_schema: Input should be an object",
    ),
    (
        {"tools": [{"name": "x", "defer_loading": 3}]},
        "tools.0.defer_loading: Expected `bool | null`, got `int`",
    ),
    ({"tools": {}}, "tools: Expected `array | null`, got `object`"),
    (
        {"tools": [LOOK], "tool_choice": {"type": "tool", "name": "x"}},
        "tool_choice: Tool 'x' not found in provided tools",
    ),
    ({"tools": [LOOK], "tool_choice": {"type": "tool"}}, "tool_choice.name: Field required"),
    ({"tools": [LOOK], "tool_choice": {"type": "all"}}, "tool_choice.type: 'all' is not supported"),
    ({"thinking": {"budget_tokens": 3}}, "thinking.type: Field required"),
]


@pytest.mark.parametrize(("fields", "told"), BAD_TOOLS)
def test_a_bad_tool_or_choice_is_named(fields: dict[str, Any], told: str) -> None:
    with pytest.raises((Fault, InvalidRequestError)) as caught:
        meaning(**fields)
    assert fault_of(caught.value, Protocol.ANTHROPIC).message == told


# ------------------------------------------------------------------ thoughts and where caches break


@pytest.mark.parametrize(
    ("thinking", "thinks", "display"),
    [
        (None, False, Display.NONE),
        ({"type": "disabled"}, False, Display.NONE),
        ({"type": "adaptive"}, True, Display.SHOWN),
        ({"type": "adaptive", "display": "omitted"}, True, Display.OMITTED),
        ({"type": "enabled", "budget_tokens": 31999, "display": "updates"}, True, Display.SHOWN),
        ({"type": "between_tools"}, True, Display.SHOWN),
    ],
)
def test_thinking_is_wanted_where_it_is_asked_for(
    thinking: Any, thinks: bool, display: Display
) -> None:
    assert meaning(thinking=thinking).conversation.thinks is thinks
    assert display_of(request(thinking=thinking).thinking) is display


FIVE_MINUTES, AN_HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}


def marked(text: str, control: dict[str, Any] | None) -> dict[str, Any]:
    """A block of text with a breakpoint."""
    return block("text", text=text, cache_control=control)


RANKS: list[tuple[dict[str, Any], list[Rank | None]]] = [
    ({}, [None, None]),
    ({"cache_control": FIVE_MINUTES}, [None, Rank.MARKED]),
    ({"system": [marked("s", FIVE_MINUTES), marked("t", None)]}, [Rank.MARKED, None, None]),
    ({"system": "s", "tools": [{**LOOK, "cache_control": AN_HOUR}]}, [Rank.LONG, None, None]),
    ({"tools": [{**LOOK, "cache_control": {**FIVE_MINUTES, "ttl": "5m"}}]}, [Rank.MARKED, None]),
    (
        {
            "messages": [
                {"role": "user", "content": [marked("a", AN_HOUR), marked("b", FIVE_MINUTES)]}
            ]
        },
        [Rank.LONG],
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [block("something_new", cache_control=FIVE_MINUTES)]}
            ],
            "cache_control": AN_HOUR,
        },
        [Rank.LONG],
    ),
]


@pytest.mark.parametrize(("fields", "ranks"), RANKS)
def test_breakpoints_are_ranks_of_messages(
    fields: dict[str, Any], ranks: list[Rank | None]
) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert [
        message.rank
        for message in meaning(**{"messages": messages, **fields}).conversation.messages
    ] == ranks


# ------------------------------------------------------------------------------------------ numbers


def test_sampling_defaults_to_temperature_one_and_is_honoured() -> None:
    assert in_force() == API_SAMPLING == SamplingParams(temperature=1.0)
    said = in_force(temperature=0.5, top_p=0.9, top_k=7)
    assert (said.temperature, said.top_p, said.top_k, said.min_p) == (0.5, 0.9, 7, 0.0)
    assert in_force(temperature=0).is_greedy
    assert in_force(temperature=1e-300).is_greedy  # dividing by it overflows
    assert in_force(top_p=0).top_p > 0


def in_force(**fields: object) -> SamplingParams:
    return meaning(**fields).sampling.params(API_SAMPLING)


def test_nulls_are_absent_fields() -> None:
    nulls = dict.fromkeys(["temperature", "top_p", "top_k", "stop_sequences", "stream", "system"])
    assert meaning(**nulls) == meaning()


def test_order_is_kept() -> None:
    messages = [
        {"role": role, "content": str(i)} for i, role in enumerate(["user", "assistant"] * 5)
    ]
    said = meaning(messages=messages)
    assert [message.text for message in said.conversation.messages] == [str(i) for i in range(10)]
    assert said.conversation.messages[1].role is Role.ASSISTANT


def test_whole_numbers_may_have_a_point() -> None:
    assert meaning(max_tokens=32.0, top_k=7.0) == meaning(max_tokens=32, top_k=7)
    assert meaning(max_tokens=3.2e1, temperature=0.5, stop_sequences=["1.0"]) == meaning(
        max_tokens=32, temperature=0.5, stop_sequences=["1.0"]
    )


def test_a_conversation_has_20_000_messages_at_most() -> None:
    with pytest.raises(Fault, match="messages"):
        request(messages=[{"role": "user", "content": "hi"}] * 20_001)


@pytest.mark.parametrize("limit", ["32.5", "1e400", "-1e400", "32."])
def test_what_is_no_whole_number_is_refused_by_name_or_is_no_json(limit: str) -> None:
    with pytest.raises(Fault) as caught:
        decode(
            b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": %s}'
            % limit.encode(),
            MessagesRequest,
        )

    assert caught.value.status == 400


def test_beside_whole_numbers_with_a_point_arguments_of_calls_stay_as_they_were_written() -> None:
    given = '{"a": 1e999999, "b": "1.0 \\" 2.0", "c": 0.12345678901234567890}'
    call = f'{{"type": "tool_use", "id": "1", "name": "f", "input": {given}}}'
    body = (
        f'{{"model": "m", "max_tokens": 32.0, "messages": [{{"role": "assistant", "content": '
        f"[{call}]}}]}}"
    )

    said = generation_params(decode(body.encode(), MessagesRequest))

    assert said.max_tokens == 32
    assert said.conversation.messages[0].calls[0].arguments == given
