"""What a Messages request means."""

from typing import Any

import pytest

from semantic_trio.adapters.http.anthropic.request import MessagesRequest, generation_params
from semantic_trio.adapters.http.anthropic.thinking import signature
from semantic_trio.adapters.http.common.faults import Fault, fault_of
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.protocol import Protocol
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.domain.conversation import (
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from semantic_trio.domain.errors import InvalidRequestError
from tests.unit.wire_messages import block, call, meaning, said


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
