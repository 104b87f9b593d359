"""Calls that are demanded, in the format of each family: whatever a model draws is a call as its
tool defines it, and is read as it was written.
"""

import functools
import json
import random
from collections.abc import Mapping, Sequence

import attrs
import jsonschema
import pytest

from semantic_trio.adapters.text.calls import GENERIC
from semantic_trio.adapters.text.grammar import AnswerForm
from semantic_trio.adapters.text.guidance import CompiledGrammar
from semantic_trio.adapters.text.tally import CallTally
from semantic_trio.domain.conversation import (
    Calling,
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
)
from semantic_trio.domain.errors import InvalidRequestError
from tests.call_templates import TEMPLATES
from tests.parts import joined
from tests.unit.call_readings import ANY_TEMPLATE
from tests.unit.test_call_formats import VALUES
from tests.unit.test_grammar import GUIDANCE, spelled
from tests.vocabulary import END, byte_tokenizer

# What stands in JSON within arguments: ends of arguments and calls, and beginnings of others.
INNER = (
    "</parameter></function></tool_call>",
    "</parameter><parameter=content>",
    "</parameter></function></seed:tool_call>",
    "</arg_value></tool_call>",
    "</arg_value><arg_key>content</arg_key><arg_value>",
    "</parameter></invoke></minimax:tool_call>\",\"</parameter><parameter name='content'>",
    "</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜tool_calls>",
    "<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
    '<|"|>}<tool_call|>',
    "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "<|tool_call_end|><|tool_calls_section_end|>",
    '"}]</TOOLCALL>',
)
SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "content": {"type": "string"},
        "lines": {"type": "integer", "minimum": 0, "maximum": 999},
        "force": {"type": "boolean"},
        "mode": {"enum": ["read", "write", 7]},
        "size": {"anyOf": [{"type": "integer", "minimum": -5, "maximum": 5}, {"type": "null"}]},
        "code": {"type": "string", "pattern": "^[a-c]{1,3}$"},
        "note": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
        "either": {
            "oneOf": [
                {"type": "string", "maxLength": 6},
                {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
            ]
        },
        "ways": {"type": "array", "items": {"$ref": "#/$defs/way"}, "minItems": 1, "maxItems": 2},
        "deep": {"$ref": "#/$defs/deep"},
    },
    "required": ["path", "lines", "ways"],
    "additionalProperties": False,
    "$defs": {
        "way": {"enum": ["a", *INNER]},
        "deep": {
            "type": "object",
            "properties": {"x": {"type": "boolean"}, "y": {"type": "string", "maxLength": 4}},
            "required": ["x"],
        },
    },
}
WRITE = Tool("write_file", "Writes", json.dumps(SCHEMA))
LOOK = Tool(
    "look",
    "Looks",
    json.dumps(
        {"type": "object", "properties": {"at": {"enum": ["sea", "sky"]}}, "required": ["at"]}
    ),
)
LOOK_UP = Tool("look_up", "Looks up", '{"type": "object", "properties": {}}')
TOOLS = (WRITE, LOOK, LOOK_UP)
ASKED = (Message(Role.USER, (Text("go on"),)),)
CHOICES = {
    "any": ToolChoice(Calling.REQUIRED),
    "one": ToolChoice(Calling.REQUIRED, is_single=True),
    "named": ToolChoice(Calling.REQUIRED, "write_file"),
    "allowed": ToolChoice(Calling.REQUIRED, allowed=("look", "look_up")),
}
# Tokens of one byte make texts endless unless the dice prefer their ends.
LONGEST = 4000
# Answers drawn for each format and choice.
SEEDS = 4


@functools.cache
def grammar(name: str, conversation: Conversation) -> tuple[CompiledGrammar, str]:
    template = ANY_TEMPLATE[name]
    opening = template.call_opening(conversation)
    return AnswerForm(
        GUIDANCE, None, template.calls_of(conversation), conversation, opening
    ).compile(), opening


def delimiters(name: str) -> list[str]:
    """The texts of a format that a value may be taken for."""
    calls = ANY_TEMPLATE[name].capabilities.calls
    shape = calls.shape
    assert shape is not None
    found = [
        calls.head,
        calls.middle,
        shape.close,
        shape.again,
        calls.syntax.start,
        calls.syntax.end,
        '"',
        '"}',
        "]",
        "\n",
        "[1, 2]",
        "null",
        "\\u0041",
        "\\/",
    ]
    if (written := shape.arguments) is not None:
        found += [
            *written.text * 4,
            written.text[1].strip(),
            written.before,
            f"{written.before}content{written.text[0]}",
        ]
    return [one for one in found if one]


def walked(compiled: CompiledGrammar, seed: int, likes: Sequence[str], begin: str = "") -> str:
    """An answer drawn by dice that like some texts, and end the answer as soon as they may."""
    state, dice, drawn = compiled.start(), random.Random(seed), list[int]()
    demanded = len(encoded(begin))
    coming = [*encoded(begin)]
    for _ in range(LONGEST):
        mask = state.allowed()
        assert any(mask), "something may always come"
        if _holds(mask, END) and (not coming or len(drawn) >= demanded):
            return spelled(drawn)
        if not coming and likes and dice.random() < 0.3:
            coming = [*encoded(dice.choice(likes))]
        token = coming.pop(0) if coming else dice.choice(_tokens(mask))
        if not _holds(mask, token):
            assert len(drawn) >= demanded, (
                f"{spelled([token])!r} may not come after {spelled(drawn)!r}"
            )
            coming, token = [], dice.choice(_tokens(mask))
        state.take(token)
        drawn.append(token)
    raise AssertionError(f"no end: {bytes(drawn)[:200]!r}")


def _holds(mask: bytes, token: int) -> bool:
    return bool(mask[token // 8] >> token % 8 & 1)


def _tokens(mask: bytes) -> list[int]:
    return [
        at * 8 + bit for at, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1
    ]


@functools.cache
def encoded(text: str) -> tuple[int, ...]:
    return tuple(byte_tokenizer().encode(text).ids)


def read(name: str, conversation: Conversation, answer: str, opening: str) -> list[Part]:
    reader = ANY_TEMPLATE[name].reader(conversation, opening, CallTally(is_quiet=True))
    return joined([*reader.push(answer), *reader.finish()])


@pytest.mark.exhaustive
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_demanded_call_is_made_in_the_format_of_the_model_and_is_read_as_it_was_written(
    name: str, choice: str
) -> None:
    conversation = Conversation(ASKED, TOOLS, CHOICES[choice])
    compiled, opening = grammar(name, conversation)
    known = {tool.name: json.loads(tool.parameters) for tool in TOOLS}

    assert ANY_TEMPLATE[name].calls_of(conversation) is ANY_TEMPLATE[name].capabilities.calls, (
        "no other wording is asked for"
    )
    for seed in range(SEEDS):
        parts = read(name, conversation, walked(compiled, seed, delimiters(name)), opening)
        assert parts
        assert choice == "any" or len(parts) == 1 or choice == "allowed"
        for part in parts:
            assert isinstance(part, ToolCall), seed
            assert part.name in {"named": {"write_file"}, "allowed": {"look", "look_up"}}.get(
                choice, set(known)
            )
            jsonschema.validate(json.loads(part.arguments), known[part.name])


TEXTS = Tool(
    "note",
    "Notes",
    (
        '{"type": "object", "properties": {"text": {"type": "string"}, "title": {"type": '
        '"string"}}, "required": ["text"]}'
    ),
)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_may_hold_all_but_the_delimiters_of_arguments(name: str) -> None:
    """A text is either demanded as the model writes it, and read unchanged, or cannot be drawn at
    all.
    """
    conversation = Conversation(ASKED, (TEXTS,), ToolChoice(Calling.REQUIRED, "note"))
    compiled, opening = grammar(name, conversation)
    shape = ANY_TEMPLATE[name].capabilities.calls.shape
    assert shape is not None
    for value in VALUES:
        if len(value) > 400:
            continue
        given = {"text": value, "title": "t"}
        written = (
            shape.arguments.written(given).removeprefix(
                ANY_TEMPLATE[name].capabilities.calls.middle
            )
            if shape.arguments
            else _compact(given)
        )
        if any(
            barred in value
            for barred in (
                shape.arguments.barred if shape.arguments and not shape.arguments.is_quoted else ()
            )
        ):
            with pytest.raises(AssertionError, match="may not come"):
                walked(compiled, 1, delimiters(name), written)
            continue
        [call] = read(name, conversation, walked(compiled, 1, delimiters(name), written), opening)
        assert isinstance(call, ToolCall)
        assert json.loads(call.arguments)["text"] == value


def _compact(given: Mapping[str, object]) -> str:
    return json.dumps(given, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TEMPLATES)
def test_strict_tools_and_allowed_tools_are_held_in_the_format_of_the_model(name: str) -> None:
    calls = ANY_TEMPLATE[name].capabilities.calls
    strict = [attrs.evolve(tool, is_strict=True) for tool in TOOLS]
    conversation = Conversation(ASKED, tuple(strict), ToolChoice(allowed=("write_file", "look_up")))
    compiled = AnswerForm(GUIDANCE, None, calls, conversation, "").compile()

    assert walked(compiled, 1, (), "I say what I like.") == "I say what I like."
    for seed in range(SEEDS):
        # where no delimiter begins a call, it comes first
        said = "" if name == "llama" else "Well. "
        parts = read(
            name,
            conversation,
            walked(compiled, seed, delimiters(name), f"{said}{calls.head}write_file"),
            "",
        )
        call = next(part for part in parts if isinstance(part, ToolCall))
        jsonschema.validate(json.loads(call.arguments), SCHEMA)
    assert calls.shape is not None
    with pytest.raises(AssertionError, match="may not come"):
        walked(
            compiled,
            1,
            (),
            (
                f"{calls.head}"
                f"look{calls.shape.arguments.lead if calls.shape.arguments else calls.middle}"
            ),
        )


@pytest.mark.parametrize("name", ["a b", 'a"b', "x>y"])
def test_a_tool_that_the_format_cannot_name_is_demanded_in_another_one(name: str) -> None:
    conversation = Conversation(ASKED, (Tool(name, "", "{}"),), ToolChoice(Calling.REQUIRED))

    assert ANY_TEMPLATE["qwen_xml"].calls_of(conversation) is GENERIC
    assert (
        ANY_TEMPLATE["hermes"].calls_of(conversation) is ANY_TEMPLATE["hermes"].capabilities.calls
    )


@pytest.mark.parametrize(
    ("schema", "begin", "after"),
    [
        ({"type": "string"}, '{"a": </x>', "\n"),
        ({"type": "string", "minLength": 2}, "a", "bc"),
        ({"type": "string", "pattern": "^[0-9]/[0-9]$"}, "1/", "2"),
        ({"type": "string", "pattern": "b"}, "ab", "\n"),
        ({"type": "string", "pattern": "(?=x)x"}, "y", "\n"),
        ({"type": ["string", "null"]}, "null", "\n"),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, "ab", "c"),
        ({"anyOf": [{"type": "string"}, {"type": "object"}]}, "{", "}"),
        ({"$ref": "#/$defs/name"}, "ab", "c"),
        ({"$ref": "#/$defs/gone"}, "ab", "c"),
        ({"const": "x"}, "x", "\n"),
        ({"enum": ["x", 5]}, "5", "\n"),
        (True, "ab", "c"),
    ],
)
def test_values_are_held_to_their_schemas(schema: object, begin: str, after: str) -> None:
    tool = Tool(
        "f",
        "",
        json.dumps(
            {
                "type": "object",
                "properties": {"a": schema},
                "required": ["a"],
                "$defs": {"name": {"maxLength": 3, "type": "string"}},
            }
        ),
    )
    conversation = Conversation(ASKED, (tool,), ToolChoice(Calling.REQUIRED, "f"))
    compiled, _ = grammar("qwen_xml", conversation)

    assert walked(compiled, 1, ["\n</parameter>\n"], f"<parameter=a>\n{begin}{after}")


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ({"type": "integer"}, "x"),
        ({"type": "string", "maxLength": 3}, "abcd"),
        ({"type": "string", "pattern": "^[0-9]$"}, "a"),
        ({"type": "string", "minLength": 2}, "a\n</parameter>\n"),
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}, ' ["a'),
        ({"enum": ["x", 5]}, "y"),
        ({"type": "string"}, "</parameter>"),
        ({"type": "string"}, "<parameter="),
    ],
)
def test_values_that_their_schemas_forbid_cannot_come(schema: object, wrong: str) -> None:
    tool = Tool(
        "f", "", json.dumps({"type": "object", "properties": {"a": schema}, "required": ["a"]})
    )
    compiled, _ = grammar(
        "qwen_xml", Conversation(ASKED, (tool,), ToolChoice(Calling.REQUIRED, "f"))
    )

    with pytest.raises(AssertionError, match="may not come"):
        walked(compiled, 1, (), f"<parameter=a>\n{wrong}")


@pytest.mark.parametrize(
    ("parameters", "begin", "is_right"),
    [
        ({"type": "object"}, "<parameter=any_name>\n[1]", True),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            "<parameter=any_name>\n1\n",
            True,
        ),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            "<parameter=any_name>\nx",
            False,
        ),
        ({"type": "object", "additionalProperties": False}, "<parameter=", False),
        ({"type": "object", "properties": {}, "required": ["a"]}, "</function>", False),
        ({"type": "object", "properties": {}, "required": ["a"]}, "<parameter=a>\nx", True),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]},
            "<parameter=b>\n1",
            True,
        ),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]},
            "<parameter=a>\n1\n</parameter>\n</function>",
            False,
        ),
    ],
)
def test_names_of_arguments_are_those_of_the_schema(
    parameters: object, begin: str, is_right: bool
) -> None:
    conversation = Conversation(
        ASKED, (Tool("f", "", json.dumps(parameters)),), ToolChoice(Calling.REQUIRED, "f")
    )
    compiled, _ = grammar("qwen_xml", conversation)

    if is_right:
        assert walked(compiled, 1, ["\n</parameter>\n"], begin)
    else:
        with pytest.raises(AssertionError, match="may not come"):
            walked(compiled, 1, (), begin)


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"enum": []},
        {"type": "integer", "minimum": 5, "maximum": 2},
        {"enum": [f"w{n}" for n in range(6000)]},
    ],
)
def test_a_tool_with_an_argument_that_nothing_satisfies_is_left_out(schema: object) -> None:
    broken = Tool(
        "broken", "", json.dumps({"type": "object", "properties": {"a": schema}, "required": ["a"]})
    )
    compiled, _ = grammar(
        "qwen_xml", Conversation(ASKED, (broken, LOOK), ToolChoice(Calling.REQUIRED))
    )

    assert walked(compiled, 1, (), "look").startswith("look>")
    with pytest.raises(AssertionError, match="may not come"):
        walked(compiled, 1, (), "broken")
    with pytest.raises(InvalidRequestError, match="'broken' cannot be called"):
        grammar(
            "qwen_xml", Conversation(ASKED, (broken, LOOK), ToolChoice(Calling.REQUIRED, "broken"))
        )


def test_an_argument_that_nothing_satisfies_is_left_out_where_it_is_not_required() -> None:
    tool = Tool(
        "f",
        "",
        json.dumps(
            {
                "type": "object",
                "properties": {"a": False, "b": {"anyOf": [{"enum": []}, {"type": "boolean"}]}},
            }
        ),
    )
    compiled, _ = grammar(
        "qwen_xml", Conversation(ASKED, (tool,), ToolChoice(Calling.REQUIRED, "f"))
    )

    assert walked(compiled, 1, (), "<parameter=b>\ntrue\n")
    with pytest.raises(AssertionError, match="may not come"):
        walked(compiled, 1, (), "<parameter=a>")
