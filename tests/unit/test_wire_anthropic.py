"""What a Messages request means."""

import json
from typing import Any

import pytest

from semantic_trio.adapters.http.anthropic.request import MessagesRequest, generation_params
from semantic_trio.adapters.http.anthropic.thinking import Display, display_of, signature
from semantic_trio.adapters.http.common.faults import Fault, fault_of
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.protocol import Protocol
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.domain.conversation import (
    Calling,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.generation import API_SAMPLING, SamplingParams


def request(**fields: Any) -> MessagesRequest:
    """With these fields."""
    body = {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }
    return decode(json.dumps(body).encode(), MessagesRequest)


def meaning(**fields: Any) -> GenerationParams:
    """Of a request with these fields."""
    return generation_params(request(**fields))


def turns(said: GenerationParams) -> list[tuple[str, str]]:
    """Roles and texts."""
    return [(message.role.value, message.text) for message in said.conversation.messages]


def test_a_string_is_a_block_of_text() -> None:
    blocks = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    assert meaning(messages=[{"role": "user", "content": blocks}]) == meaning()


def test_system_messages_stay_where_they_stand() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "system", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "system", "content": [{"type": "text", "text": "d"}]},
    ]
    said = meaning(system="s", messages=messages)
    assert turns(said) == [
        ("system", "s"),
        ("user", "a"),
        ("system", "b"),
        ("assistant", "c"),
        ("system", "d"),
    ]


@pytest.mark.parametrize(
    "system",
    [
        "a\n\nb",
        [
            {"type": "text", "text": "a"},
            {"type": "text", "text": ""},
            {"type": "text", "text": "b"},
        ],
    ],
)
def test_the_system_prompt_is_the_first_message(system: Any) -> None:
    assert turns(meaning(system=system)) == [("system", "a\n\nb"), ("user", "hi")]


@pytest.mark.parametrize("system", [None, "", [], [{"type": "text", "text": ""}]])
def test_an_empty_system_prompt_is_none(system: Any) -> None:
    assert turns(meaning(system=system)) == [("user", "hi")]


def test_unknown_fields_are_ignored() -> None:
    fields = {
        "metadata": {"user_id": "x"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "safeguards": 3,
        "container": None,
        "mcp_servers": [{}],
    }
    assert meaning(**fields) == meaning()


# ----------------------------------------------------------------------------------- content blocks


def block(kind: str, **fields: Any) -> dict[str, Any]:
    """A block of content."""
    return {"type": kind, **fields}


def call(call_id: str = "t1", **arguments: Any) -> dict[str, Any]:
    """A call of a tool."""
    return block("tool_use", id=call_id, name="look", input=arguments)


def said(*blocks: dict[str, Any], role: str = "user") -> tuple[Part, ...]:
    """The parts of the last of two messages; the first calls `t1` and `t2`."""
    messages = [
        {"role": "assistant", "content": [call(), call("t2")]},
        {"role": role, "content": list(blocks)},
    ]
    return meaning(messages=messages).conversation.messages[-1].parts


def test_thoughts_of_earlier_turns_are_kept() -> None:
    thought = block("thinking", thinking="hm", signature="x")
    assert said(
        thought, block("redacted_thinking", data="y"), block("text", text="so"), role="assistant"
    ) == (Thinking("hm"), Text("so"))


def test_a_thought_that_was_not_shown_comes_back_in_its_signature() -> None:
    hidden = "hm é😀\n"
    assert said(block("thinking", thinking="", signature=signature(hidden)), role="assistant") == (
        Thinking(hidden),
    )
    assert signature() != signature()


@pytest.mark.parametrize(
    "signed",
    [
        "",
        "EqQBCgIYAhIM",
        "semantic-trio",
        "semantic-trio.1.a",
        "semantic-trio.1./w==",
        "semantic-trio.1._w==",
        None,
    ],
)
def test_other_signatures_hold_no_thought(signed: str | None) -> None:
    assert said(block("thinking", thinking="", signature=signed), role="assistant") == ()


def test_a_call_keeps_its_arguments_as_they_were_written() -> None:
    arguments = '{"b": 1.50, "a": [123456789012345678901234567890, "\\u00e9"]}'
    body = f"""{{"model": "m", "max_tokens": 1, "messages": [{{"role": "assistant", "content":
        [{{"type": "tool_use", "id": "t1", "name": "f", "input": {arguments}}}]}}]}}"""
    (message,) = generation_params(decode(body.encode(), MessagesRequest)).conversation.messages
    assert message.parts == (ToolCall("t1", "f", arguments),)


RESULTS: list[tuple[Any, ToolResult]] = [
    ("sun", ToolResult("t1", "sun")),
    (None, ToolResult("t1", "")),
    ([], ToolResult("t1", "")),
    ([block("text", text="a"), block("text", text="b")], ToolResult("t1", "a\n\nb")),
    (
        [block("tool_reference", tool_name="x"), block("tool_reference", tool_name="y")],
        ToolResult("t1", "", loads=("x", "y")),
    ),
    (
        [block("image", source={"type": "base64", "media_type": "image/png", "data": "AAAA"})],
        ToolResult("t1", "[an image; this model cannot see images]"),
    ),
    (
        [block("search_result", source="u", title="t", content=[block("text", text="a")])],
        ToolResult("t1", "t\nu\n\na"),
    ),
    (
        [block("document", source=block("text", media_type="text/plain", data="a"), title="t")],
        ToolResult("t1", "t\n\na"),
    ),
    ([block("something_new", x=1), block("text", text="a")], ToolResult("t1", "a")),
]


@pytest.mark.parametrize(("content", "result"), RESULTS)
def test_results_are_read_in_every_shape(content: Any, result: ToolResult) -> None:
    assert said(block("tool_result", tool_use_id="t1", content=content)) == (result,)


def test_results_may_be_errors_and_come_in_any_order_with_text_between() -> None:
    parts = said(
        block("tool_result", tool_use_id="t2", content="b"),
        block("text", text="go on"),
        block("tool_result", tool_use_id="t1", is_error=True),
    )
    assert parts == (ToolResult("t2", "b"), Text("go on"), ToolResult("t1", "", is_error=True))


def test_a_result_whose_call_is_gone_is_text() -> None:
    assert said(block("tool_result", tool_use_id="t3", content="c")) == (Text("c"),)


def test_ids_of_calls_may_repeat_as_other_servers_let_them() -> None:
    messages = [
        {"role": "assistant", "content": [call(), call()]},
        {"role": "user", "content": [block("tool_result", tool_use_id="t1")] * 2},
    ]
    assert [len(message.parts) for message in meaning(messages=messages).conversation.messages] == [
        2,
        2,
    ]


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
@pytest.mark.parametrize(
    "kind",
    [
        "server_tool_use",
        "web_search_tool_result",
        "mcp_tool_use",
        "container_upload",
        "something_new",
    ],
)
def test_what_other_servers_have_run_is_left_out(role: str, kind: str) -> None:
    assert said(
        block(kind, content={"type": "error"}, id=3), block("text", text="a"), role=role
    ) == (Text("a"),)


def test_documents_of_text_are_text() -> None:
    assert said(block("document", source=block("text", data="a"), title="t", context="c")) == (
        Text("t\n\nc\n\na"),
    )
    assert said(block("document", source=block("content", content="a"), title=None)) == (Text("a"),)
    assert said(
        block(
            "document",
            source=block("content", content=[block("text", text="a"), block("text", text="b")]),
        )
    ) == (Text("a\n\nb"),)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "user",
        block("document", source=block("papyrus")),
        "messages.1.content.0.source.type: 'papyrus' is not supported",
    ),
    (
        "user",
        block("document", source=block("url")),
        "messages.1.content.0.source.url: Field required",
    ),
    ("user", block("document"), "messages.1.content.0.source: Field required"),
    (
        "user",
        block("tool_result", tool_use_id="t1", content=[3]),
        "messages.1.content.0.content.0: Expected `object`, got `int`",
    ),
    (
        "user",
        block("tool_result", tool_use_id="t1", content=[block("text")]),
        "messages.1.content.0.content.0.text: Field required",
    ),
    ("user", block("tool_result", content="x"), "messages.1.content.0.tool_use_id: Field required"),
    (
        "user",
        block("tool_result", tool_use_id="t1", content=3),
        "messages.1.content.0.content: Expected `str | array | null`, got `int`",
    ),
    ("user", call(), "messages.1.content.0.type: 'tool_use' blocks are not for this place"),
    (
        "assistant",
        block("tool_result", tool_use_id="t1"),
        "messages.1.content.0.type: 'tool_result' blocks are not for this place",
    ),
    (
        "system",
        block("search_result"),
        "messages.1.content.0.type: 'search_result' blocks are not for this place",
    ),
    (
        "assistant",
        block("tool_use", id="t", name="n"),
        "messages.1.content.0.input: Field required",
    ),
    (
        "assistant",
        block("tool_use", id="t", name="n", input=[]),
        "messages.1.content.0.input: Input should be an object",
    ),
    (
        "assistant",
        block("tool_use", id=3, name="n", input={}),
        "messages.1.content.0.id: Expected `str`, got `int`",
    ),
    (
        "user",
        block("text", text="x", cache_control=3),
        "messages.1.content.0.cache_control: Expected `object | null`, got `int`",
    ),
    ("user", {"type": 3}, "messages.1.content.0.type: Expected `str`, got `int`"),
]


@pytest.mark.parametrize(("role", "content", "told"), REFUSED)
def test_a_block_that_cannot_be_taken_is_named(
    role: str, content: dict[str, Any], told: str
) -> None:
    with pytest.raises((Fault, InvalidRequestError)) as caught:
        said(content, role=role)
    assert fault_of(caught.value, Protocol.ANTHROPIC).message == told


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
