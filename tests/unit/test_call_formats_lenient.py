"""Calls that models write otherwise than their format."""

import json
from collections.abc import Sequence

import pytest
import structlog.testing

from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.tally import CallTally
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.domain.conversation import (
    Conversation,
    Part,
    Text,
    Tool,
)
from tests.unit.call_readings import ANY_TEMPLATE, TOOLS, called, pieces, read, told

LOOKED = ("srv.look", {"where": "here"})


def text_of(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Text))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (
            "qwen_xml",
            "<tool_call>\n<function=srv.look>\n<parameter=where>\nhere\n</function>\n</tool_call>",
        ),
        (
            "qwen_xml",
            "<tool_call>\n<function=srv.look>\n<parameter=where>\nhere\n</parameter>\n</tool_call>",
        ),
        (
            "qwen_xml",
            "<tool_call>\n<function=srv.look>\n<parameter=where>\nhere\n</parameter>\n</function>",
        ),
        (
            "qwen_xml",
            "<tool_call><function=srv.look><parameter=where>here</parameter></function></tool_call>",
        ),
        (
            "qwen_xml",
            "<function=srv.look>\n<parameter=where>\nhere\n</parameter>\n</function>\n</tool_call>",
        ),
        ("qwen_xml", "<function=srv.look>\n<parameter=where>\nhere\n</parameter>\n</function>"),
        (
            "qwen_xml",
            '<tool_call>\n{"name": "srv.look", "arguments": {"where": "here"}}\n</tool_call>',
        ),
        (
            "minimax",
            (
                '<invoke name="srv.look">\n<parameter '
                'name="where">here</parameter>\n</invoke>\n</minimax:tool_call>'
            ),
        ),
        ("glm", '<tool_call>{"name": "srv.look", "arguments": {"where": "here"}}</tool_call>'),
        (
            "deepseek v3.1",
            '<｜tool▁call▁begin｜>srv.look<｜tool▁sep｜>{"where": "here"}<｜tool▁call▁end｜>',
        ),
        (
            "deepseek v3",
            '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>srv.look\n```json\n{"where": "here",}\n```<｜tool▁call▁end｜>',
        ),
        ("llama", '<|python_tag|>{"name": "srv.look", "parameters": {"where": "here"}}'),
        ("llama", '{"type": "function", "name": "srv.look", "parameters": {"where": "here"}}'),
        ("hermes", '{"name": "srv.look", "arguments": {"where": "here"}}\n</tool_call>'),
        ("hermes", '{"name": "srv.look", "arguments": {"where": "here"}}'),
        ("llama", "[srv.look(where='here')]"),
        ("llama", '<|python_tag|>[srv.look(where="here")]'),
        ("lfm2", "<|tool_call_start|>[srv.look(where='here')]<|tool_call_end|>"),
        ("lfm2", '<|tool_call_start|>[srv.look(where="here")]'),
        (
            "hunyuan",
            '<tool_calls>[{"name": "srv.look", "arguments": {"where": "here"}}]</tool_calls>',
        ),
        ("granite", '<tool_call>[{"name": "srv.look", "arguments": {"where": "here"}}]'),
    ],
)
def test_a_call_that_differs_in_one_certain_way_is_a_call(name: str, answer: str) -> None:
    for size in (1, 9, len(answer)):
        parts = read(name, pieces(answer, size))
        assert called(parts) == [LOOKED], size
        assert text_of(parts) == ""


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (
            "qwen_xml",
            "<tool_call>\n<function=write_file>\n<parameter=path>\na\n<parameter=content>\nb\n</parameter>\n</function>\n</tool_call>",
        ),
        ("qwen_xml", "<tool_call>\n<function=srv.look>\n<parameter=where>\nhere\n</parameter>\n"),
        (
            "qwen_xml",
            "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n<parameter=a>\n2\n</parameter>\n</function>\n</tool_call>",
        ),
        ("qwen_xml", "Write <function=other> like this: <function=other>\n</function>"),
        ("qwen_xml", "The <tool_call> tag and the <function=srv.look> tag."),
        ("minimax", '<invoke name="other">\n</invoke>'),
        ("glm", "<tool_call>srv.look\n<arg_key>where</arg_key>\n<arg_value>here</tool_call>"),
        ("glm", "The `<tool_call>` tag is GLM's."),
        ("mistral", "The [TOOL_CALLS] token."),
        ("mistral heads", '[TOOL_CALLS]srv.look[ARGS]{"where": "he'),
        ("llama", '{"name": "other", "parameters": {}}'),
        ("llama", '{"name": "srv.look"}'),
        ("llama", '{"name": "srv.look", "parameters": {}, "age": 5}'),
        ("hermes", '{"name": "Bob", "arguments": {}}'),
        ("hermes", '{"name": "srv.look", "arguments": {}, "age": 5}'),
        ("llama", "[other(where='here')]"),
        ("llama", "[1, 2]"),
        ("lfm2", "<|tool_call_start|>[srv.look('here')]<|tool_call_end|>"),
        ("gemma4", "<|tool_call>call:srv.look{where:here there}<tool_call|>"),
        ("gemma4", "<|tool_call>call:srv.look{where:1e999}<tool_call|>"),
        ("llama", '{"name": "srv.look", "parameters": {"where": 1e999}}'),
        ("hermes", '<tool_call>\n{"name": "srv.look", "arguments": {"where": NaN}}\n</tool_call>'),
        ("llama", 'It is {"name": "srv.look", "parameters": {}}'),
        ("kimi_k2", "<|tool_calls_section_begin|> and more"),
    ],
)
def test_what_is_not_surely_a_call_is_text_as_it_was_written(name: str, answer: str) -> None:
    for size in (1, 9, len(answer)):
        parts = read(name, pieces(answer, size))
        assert text_of(parts) == answer
        assert called(parts) == []


def test_a_mention_of_a_delimiter_holds_the_text_back_only_until_it_shows_to_be_one() -> None:
    reader = DelimiterReader(
        ThoughtDelimiters(), ANY_TEMPLATE["qwen_xml"].syntaxes_of(Conversation((), TOOLS)), TOOLS
    )

    assert text_of(reader.push("The <tool_call> tag")) == "The <tool_call> tag"


def test_an_answer_in_json_is_told_as_it_comes_unless_it_may_be_a_call() -> None:
    reader = DelimiterReader(
        ThoughtDelimiters(), ANY_TEMPLATE["hermes"].syntaxes_of(Conversation((), TOOLS)), TOOLS
    )

    assert reader.push('{"name": "srv.lo') == []
    assert text_of(reader.push('ndon", ')) == '{"name": "srv.london", '


def test_what_became_of_calls_is_counted_and_logged() -> None:
    tally = CallTally()
    answers = [
        '{"name": "srv.look", "arguments": {}}',
        '{"name": "srv.look", "arguments": {},}',
        '{"name": "srv.look", "arguments": {"a',
    ]
    with structlog.testing.capture_logs() as logs:
        for answer in answers:
            reader = DelimiterReader(
                ThoughtDelimiters(),
                ANY_TEMPLATE["hermes"].syntaxes_of(Conversation((), TOOLS)),
                TOOLS,
                tally=tally,
            )
            reader.push(f"<tool_call>{answer}</tool_call>")
            reader.finish()

    assert tally.counts == {("hermes", "read"): 1, ("hermes", "repaired"): 1, ("hermes", "text"): 1}
    assert [(line["log_level"], line["format"], line.get("repair")) for line in logs] == [
        ("info", "hermes", "trailing comma"),
        ("warning", "hermes", None),
    ]


def test_two_calls_in_one_section_are_two() -> None:
    one = "<function=srv.look>\n<parameter=where>\nhere\n</parameter>\n</function>\n"

    assert called(read("qwen_xml", [f"<tool_call>\n{one}{one}</tool_call>"])) == [LOOKED, LOOKED]


@pytest.mark.parametrize("inner", ["qwen_xml", "minimax", "glm", "seed"])
def test_a_value_may_show_whole_calls_of_its_own_format(inner: str) -> None:
    example = told(
        inner, ("srv.look", {"where": "a"}), ("write_file", {"path": "p", "content": "c\n"})
    )
    for value in (example, f"# Tools\n\n{example}\n", f"{example}\n{example}\nend"):
        given = {"path": "README.md", "content": value}
        assert called(read(inner, [told(inner, ("write_file", given))])) == [("write_file", given)]
        given = {"content": value, "path": "README.md"}
        assert called(read(inner, [told(inner, ("write_file", given), LOOKED)])) == [
            ("write_file", given),
            LOOKED,
        ]


@pytest.mark.parametrize(
    ("schema", "raw", "value"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "null", None),
        ({"type": ["string", "null"]}, "12345", "12345"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": "string"}, "null", "null"),
        ({"type": "string"}, '{"a": 1}', '{"a": 1}'),
        ({"oneOf": [{"type": "string"}, {"type": "array", "items": {}}]}, '["a"]', ["a"]),
        ({"oneOf": [{"type": "string"}, {"type": "array", "items": {}}]}, "[a", "[a"),
        ({"$ref": "#/$defs/size"}, "7", 7),
        ({"$ref": "#/$defs/name"}, "7", "7"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"const": True}, "true", True),
        ({"type": "integer"}, "5.0", 5),
        ({"type": "integer"}, "5.5", "5.5"),
        ({"type": "integer"}, "many", "many"),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "1", "1"),
        ({"type": "object"}, "{'a': None}", {"a": None}),
        ({"allOf": [{"type": ["string", "integer"]}, {"type": "integer"}]}, "3", 3),
        ({"properties": {"a": {}}}, '{"a": 1}', {"a": 1}),
        ({}, "5", "5"),
        ({}, "[5]", [5]),
        ({"$ref": "#/$defs/loop"}, "5", "5"),
    ],
)
def test_values_without_types_are_read_by_the_schema(
    schema: dict[str, object], raw: str, value: object
) -> None:
    definitions = {
        "size": {"type": "integer"},
        "name": {"type": "string"},
        "loop": {"$ref": "#/$defs/loop"},
    }
    tool = Tool(
        "f", "", json.dumps({"type": "object", "properties": {"a": schema}, "$defs": definitions})
    )
    answers = {
        "qwen_xml": (
            f"<tool_call>\n<function=f>\n<parameter=a>\n{raw}"
            "\n</parameter>\n</function>\n</tool_call>"
        ),
        "glm": f"<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{raw}</arg_value>\n</tool_call>",
        "minimax": (
            f'<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">{raw}'
            "</parameter>\n</invoke>\n</minimax:tool_call>"
        ),
    }
    for name, answer in answers.items():
        [(_, given)] = called(read(name, [answer], tools=[tool]))
        assert json.dumps(given) == json.dumps({"a": value})
