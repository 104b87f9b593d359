"""Tools and tool choices mean the same in every API, whichever protocol's shape they have."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from semantic_trio.adapters.http.anthropic import request as anthropic
from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.openai.chat import request as openai
from semantic_trio.adapters.http.openai.responses import request as responses
from semantic_trio.adapters.http.openai.responses.request import ResponseRequest
from semantic_trio.domain.conversation import Calling, Conversation, Tool, ToolChoice
from semantic_trio.domain.errors import InvalidRequestError

SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
LOOK = {"name": "look", "description": "Looks.", "input_schema": SCHEMA}
HELLO = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


def by_messages(**fields: Any) -> Conversation:
    """The conversation of a Messages request."""
    return anthropic.generation_params(
        decode(json.dumps({**HELLO, **fields}).encode(), anthropic.MessagesRequest)
    ).conversation


def by_chat(**fields: Any) -> Conversation:
    """The conversation of a Chat Completions request."""
    return openai.generation_params(
        decode(json.dumps({**HELLO, **fields}).encode(), openai.ChatRequest)
    ).conversation


def by_responses(**fields: Any) -> Conversation:
    """The conversation of a Responses request."""
    return responses.generation_params(
        decode(json.dumps({"model": "m", **fields}).encode(), ResponseRequest), ()
    ).conversation


Meaning = Callable[..., Conversation]
every_api = pytest.mark.parametrize("meaning", [by_messages, by_chat, by_responses])

FUNCTION = {"name": "look", "description": "Looks.", "parameters": SCHEMA}
SHAPES = {
    "Chat Completions": {"type": "function", "function": FUNCTION},
    "Chat Completions without a type": {"function": FUNCTION},
    "Responses": {"type": "function", **FUNCTION},
    "Responses without a type": FUNCTION,
    "Messages": LOOK,
    "Messages with its type": {"type": "custom", **LOOK},
    "Messages with nulls": {**LOOK, "type": None, "cache_control": None},
}


@every_api
@pytest.mark.parametrize("shape", SHAPES)
def test_a_tool_is_read_in_the_shape_of_every_protocol(meaning: Meaning, shape: str) -> None:
    [tool] = meaning(tools=[SHAPES[shape]]).tools

    assert (tool.name, tool.description, json.loads(tool.parameters)) == ("look", "Looks.", SCHEMA)


@every_api
@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {**FUNCTION, "strict": True}},
        {"type": "function", **FUNCTION, "strict": True},
    ],
)
def test_a_strict_tool_is_strict_in_every_shape(meaning: Meaning, tool: dict[str, Any]) -> None:
    assert [one.is_strict for one in meaning(tools=[tool]).tools] == [True]


@every_api
def test_tools_that_a_provider_would_run_are_left_out(meaning: Meaning) -> None:
    assert [
        tool.name
        for tool in meaning(
            tools=[{"type": "web_search_20250305", "name": "web_search"}, LOOK]
        ).tools
    ] == ["look"]


@pytest.mark.parametrize("meaning", [by_chat, by_responses])
def test_a_tool_that_takes_text_stays_one(meaning: Meaning) -> None:
    [tool] = meaning(tools=[{"type": "custom", "name": "note"}]).tools

    assert tool == Tool(
        "note",
        "",
        '{"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}',
    )


CHOICES: list[tuple[Any, ToolChoice]] = [
    ("auto", ToolChoice()),
    ("none", ToolChoice(Calling.NONE)),
    ("required", ToolChoice(Calling.REQUIRED)),
    ("any", ToolChoice(Calling.REQUIRED)),
    ({"type": "auto"}, ToolChoice()),
    ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(is_single=True)),
    ({"type": "none"}, ToolChoice(Calling.NONE)),
    ({"type": "any"}, ToolChoice(Calling.REQUIRED)),
    ({"type": "required"}, ToolChoice(Calling.REQUIRED)),
    ({"type": "tool", "name": "look"}, ToolChoice(Calling.REQUIRED, "look", is_single=True)),
    ({"type": "function", "name": "look"}, ToolChoice(Calling.REQUIRED, "look", is_single=True)),
    (
        {"type": "function", "function": {"name": "look"}},
        ToolChoice(Calling.REQUIRED, "look", is_single=True),
    ),
]


@every_api
@pytest.mark.parametrize(("choice", "means"), CHOICES)
def test_a_choice_is_read_in_the_words_of_every_protocol(
    meaning: Meaning, choice: Any, means: ToolChoice
) -> None:
    assert meaning(tools=[LOOK], tool_choice=choice).choice == means


@every_api
def test_parallel_calls_are_switched_off_in_every_protocol(meaning: Meaning) -> None:
    assert meaning(tools=[LOOK], parallel_tool_calls=False).choice == ToolChoice(is_single=True)


ALLOWED = [
    {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "look"}, {"type": "web_search"}],
    },
    {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "look"}}],
        },
    },
]


@pytest.mark.parametrize("meaning", [by_chat, by_responses])
@pytest.mark.parametrize("choice", ALLOWED)
def test_allowed_tools_are_read_in_both_shapes(meaning: Meaning, choice: dict[str, Any]) -> None:
    assert meaning(tools=[LOOK], tool_choice=choice).choice == ToolChoice(
        Calling.REQUIRED, allowed=("look",)
    )


OF_PROVIDERS = [
    "web_search",
    "web_search_preview",
    "file_search",
    "code_interpreter",
    "image_generation",
    "mcp",
    "computer_use_preview",
    "namespace",
]


@pytest.mark.parametrize("meaning", [by_chat, by_responses])
@pytest.mark.parametrize("kind", OF_PROVIDERS)
def test_a_demanded_tool_that_a_provider_would_run_is_refused_by_name(
    meaning: Meaning, kind: str
) -> None:
    with pytest.raises(
        InvalidRequestError, match=f"tool_choice: {kind} cannot be called"
    ) as caught:
        meaning(tools=[LOOK, {"type": kind}], tool_choice={"type": kind})

    assert caught.value.field == "tool_choice"


@pytest.mark.parametrize("meaning", [by_chat, by_responses])
@pytest.mark.parametrize("choice", [None, "auto", {"type": "auto"}])
def test_tools_none_of_which_can_be_offered_are_refused_by_name(
    meaning: Meaning, choice: Any
) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"tools: web_search, function without a name: not supported"
    ):
        meaning(
            tools=[{"type": "web_search"}, {"type": "function", "function": {"name": ""}}],
            tool_choice=choice,
        )


@pytest.mark.parametrize("meaning", [by_chat, by_responses])
@pytest.mark.parametrize("choice", ["none", {"type": "none"}])
def test_tools_that_may_not_be_called_are_not_refused(meaning: Meaning, choice: Any) -> None:
    assert meaning(tools=[{"type": "web_search"}], tool_choice=choice).tools == ()


@pytest.mark.parametrize("options", [{}, {"search_context_size": "low"}])
def test_a_search_of_the_web_in_chat_is_refused_by_name(options: Any) -> None:
    with pytest.raises(
        InvalidRequestError,
        match="web_search_options: not supported: this server cannot search the web",
    ):
        by_chat(web_search_options=options)


@every_api
@pytest.mark.parametrize(
    "choice",
    [{"type": "function", "name": "fly"}, {"type": "function"}, {"type": "tool", "name": "fly"}],
)
def test_a_demanded_tool_that_is_not_offered_is_refused(
    meaning: Meaning, choice: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        meaning(tools=[LOOK], tool_choice=choice)

    assert caught.value.field.startswith("tool_choice")


@pytest.mark.parametrize(
    "tool", [{"type": "function"}, {"type": "function", "function": {}}, {"function": {"name": ""}}]
)
def test_a_function_without_a_name_is_refused_by_messages(tool: dict[str, Any]) -> None:
    with pytest.raises(Fault) as caught:
        by_messages(tools=[tool])

    assert (caught.value.field or "").startswith("tools.0")
