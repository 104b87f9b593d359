"""Whatever a model draws: where a form is demanded, its answer has that form."""

import json
import random
from collections.abc import Sequence

import attrs
import jsonschema
import pytest
import structlog.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_trio.adapters.text.calls import CallFormat
from semantic_trio.adapters.text.grammar import AnswerForm
from semantic_trio.adapters.text.guidance import CompiledGrammar, Guidance
from semantic_trio.adapters.text.lark import Lark
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.thinking import HERMES_THINKS, ThoughtDelimiters
from semantic_trio.domain.conversation import (
    Calling,
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)
from semantic_trio.domain.errors import InvalidRequestError
from tests.parts import joined
from tests.schemas import Schema, bounded, bounded_objects
from tests.unit.test_template_calls import ANY_TEMPLATE
from tests.vocabulary import END, byte_tokenizer

GUIDANCE = Guidance.of(byte_tokenizer(), {END})
ASKED = (Message(Role.USER, (Text("go on"),)),)
LOOK = Tool(
    "look",
    "",
    json.dumps(
        {"type": "object", "properties": {"at": {"enum": ["sea", "sky"]}}, "required": ["at"]}
    ),
)
WAIT = Tool(
    "wait",
    "",
    json.dumps(
        {
            "type": "object",
            "properties": {"seconds": {"type": "integer", "minimum": 0, "maximum": 99}},
        }
    ),
)
TOOLS = (LOOK, WAIT)
CHOICES = [
    ToolChoice(Calling.REQUIRED),
    ToolChoice(Calling.REQUIRED, "wait"),
    ToolChoice(Calling.REQUIRED, allowed=("look",)),
]
LOOK_AROUND = {"type": "string", "pattern": "(?=x)x", "maxLength": 2}


def spelled(tokens: Sequence[int]) -> str:
    return b"".join(GUIDANCE.token_bytes(token) for token in tokens).decode()


def walked(grammar: CompiledGrammar, seed: int, begin: str = "", longest: int = 2000) -> str:
    """An answer drawn by dice, which end it as soon as it may; it begins as it is told to."""
    state, dice, drawn = grammar.start(), random.Random(seed), list[int]()
    told = byte_tokenizer().encode(begin).ids
    while len(drawn) < longest:
        mask = state.allowed()
        allowed = [token for token in range(len(mask) * 8) if mask[token // 8] >> token % 8 & 1]
        assert allowed, "something may always come"
        if END in allowed and len(drawn) >= len(told):
            return spelled(drawn)
        token = told[len(drawn)] if len(drawn) < len(told) else dice.choice(allowed)
        assert token in allowed, f"{spelled([token])!r} may not come after {spelled(drawn)!r}"
        state.take(token)
        drawn.append(token)
    raise AssertionError(f"no end: {spelled(drawn)[:200]}")


def form(
    conversation: Conversation,
    calls: CallFormat,
    opening: str = "",
    delimiters: ThoughtDelimiters | None = None,
) -> CompiledGrammar:
    return AnswerForm(GUIDANCE, delimiters, calls, conversation, opening).compile()


def read(
    text: str, calls: CallFormat, opening: str = "", tools: Sequence[Tool] = TOOLS
) -> list[Part]:
    reader = DelimiterReader(HERMES_THINKS, (calls.syntax,), tools, opening)
    return joined([*reader.push(text), *reader.finish()])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["qwen", "mistral", "bare", "xml"])
@pytest.mark.parametrize(
    "choice",
    [
        ToolChoice(Calling.REQUIRED),
        ToolChoice(Calling.REQUIRED, "wait"),
        ToolChoice(Calling.REQUIRED, allowed=("look",)),
    ],
)
def test_a_demanded_call_is_a_call(name: str, choice: ToolChoice, seed: int) -> None:
    template, conversation = ANY_TEMPLATE[name], Conversation(ASKED, TOOLS, choice)
    calls, opening = template.calls_of(conversation), template.call_opening(conversation)

    parts = read(walked(form(conversation, calls, opening), seed), calls, opening)

    assert parts
    for part in parts:
        assert isinstance(part, ToolCall)
        assert part.name in ({choice.name} if choice.name else choice.allowed or {"look", "wait"})
        jsonschema.validate(
            json.loads(part.arguments),
            json.loads({"look": LOOK, "wait": WAIT}[part.name].parameters),
        )
        if part.name == "wait":
            assert json.loads(part.arguments).keys() <= {"seconds"}, (
                "nothing is invented beside what is defined"
            )


@pytest.mark.parametrize("name", ["qwen", "mistral", "bare"])
def test_several_calls_may_be_demanded_and_one_alone(name: str) -> None:
    template = ANY_TEMPLATE[name]
    two = Conversation(ASKED, TOOLS, ToolChoice(Calling.REQUIRED))
    one = Conversation(ASKED, TOOLS, ToolChoice(Calling.REQUIRED, is_single=True))
    calls = template.capabilities.calls
    assert calls.shape is not None
    begin = f'look{calls.middle}{{"at":"sea"}}{calls.shape.again}wait'

    parts = read(walked(form(two, calls, calls.head), 1, begin), calls, calls.head)

    assert [part.name for part in parts if isinstance(part, ToolCall)] == ["look", "wait"]
    with pytest.raises(AssertionError, match="may not come"):
        walked(form(one, calls, calls.head), 1, begin)


@settings(max_examples=200)
@given(bounded, st.integers(0, 1000))
def test_json_of_any_schema_is_valid(schema: Schema, seed: int) -> None:
    told = walked(
        form(
            Conversation(ASKED, schema=json.dumps(schema)), ANY_TEMPLATE["bare"].capabilities.calls
        ),
        seed,
    )
    jsonschema.validate(json.loads(told), schema)
    assert (
        told == json.dumps(json.loads(told), separators=(",", ":"), ensure_ascii=False)
        or "\\" in told
    ), "no blanks"


@settings(max_examples=50)
@given(bounded_objects, st.integers(0, 1000))
def test_arguments_of_any_schema_are_valid(schema: Schema, seed: int) -> None:
    tool = Tool("make", "", json.dumps(schema))
    conversation = Conversation(ASKED, (tool,), ToolChoice(Calling.REQUIRED, "make"))
    calls, opening = (
        ANY_TEMPLATE["qwen"].capabilities.calls,
        ANY_TEMPLATE["qwen"].call_opening(conversation),
    )

    [call] = read(walked(form(conversation, calls, opening), seed), calls, opening, (tool,))

    assert isinstance(call, ToolCall)
    jsonschema.validate(json.loads(call.arguments), schema)


@pytest.mark.parametrize("name", ["qwen", "mistral", "bare"])
def test_strict_tools_hold_calls_and_leave_text_alone(name: str) -> None:
    strict = Tool("look", "", LOOK.parameters, is_strict=True)
    conversation, calls = Conversation(ASKED, (strict, WAIT)), ANY_TEMPLATE[name].capabilities.calls
    grammar = form(conversation, calls)

    assert (
        walked(grammar, 1, "I say <tool> and [TOOL] as I like.")
        == "I say <tool> and [TOOL] as I like."
    )
    said, call = read(walked(grammar, 2, f"Well. {calls.head}look"), calls)
    assert said == Text("Well. ")
    assert isinstance(call, ToolCall)
    assert json.loads(call.arguments)["at"] in {"sea", "sky"}
    with pytest.raises(AssertionError, match="may not come"):
        walked(grammar, 3, f"{calls.head}look{calls.middle}" + '{"at":"mars')
    assert walked(
        grammar, 4, f"{calls.head}wait{calls.middle}" + '{"seconds":"as many as you like"}'
    ), "who is not strict is held to an object alone"
    with pytest.raises(AssertionError, match="may not come"):
        walked(grammar, 5, f"{calls.head}fly")


def test_only_allowed_tools_are_called() -> None:
    conversation, calls = (
        Conversation(ASKED, TOOLS, ToolChoice(allowed=("wait",))),
        ANY_TEMPLATE["bare"].capabilities.calls,
    )
    assert walked(form(conversation, calls), 1, f"{calls.head}wait")
    with pytest.raises(AssertionError, match="may not come"):
        walked(form(conversation, calls), 1, f"{calls.head}look")


def test_a_schema_and_tools_leave_the_choice() -> None:
    schema = json.dumps({"type": "boolean"})
    conversation, calls = (
        Conversation(ASKED, TOOLS, schema=schema),
        ANY_TEMPLATE["bare"].capabilities.calls,
    )
    assert walked(form(conversation, calls), 1, "tr") == "true"
    assert isinstance(read(walked(form(conversation, calls), 1, calls.head), calls)[0], ToolCall)
    with pytest.raises(AssertionError, match="may not come"):
        walked(form(conversation, calls), 1, "Well")


@pytest.mark.parametrize(
    ("opening", "begin"), [("<think>\n", "hm {}</think>"), ("", "<think>\nhm {}</think>"), ("", "")]
)
def test_a_thought_comes_first_where_the_model_thinks(opening: str, begin: str) -> None:
    conversation, calls = (
        Conversation(ASKED, schema='{"const": 7}'),
        ANY_TEMPLATE["bare"].capabilities.calls,
    )
    parts = read(
        walked(form(conversation, calls, opening, HERMES_THINKS), 1, begin), calls, opening
    )
    assert [part for part in parts if not isinstance(part, Thinking)] == [Text("7")]
    assert len(parts) == 1 + bool(begin)


def test_a_model_that_is_told_not_to_think_does_not() -> None:
    conversation, calls = (
        Conversation(ASKED, schema='{"const": 7}', thinks=False),
        ANY_TEMPLATE["bare"].capabilities.calls,
    )
    with pytest.raises(AssertionError, match="may not come"):
        walked(form(conversation, calls, "", HERMES_THINKS), 1, "<think>")


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        (LOOK_AROUND, "a string of two"),
        ({"$ref": "http://127.0.0.1/other.json"}, "anything"),
        ({"type": "array", "items": {"const": 1}, "uniqueItems": True, "maxItems": 1}, "an array"),
        (
            {"type": "object", "properties": {"pattern": LOOK_AROUND}, "required": ["pattern"]},
            "named pattern",
        ),
        ({"type": "widget"}, "anything"),
        ({"$ref": "#"}, "anything"),
        ({"type": "integer", "multipleOf": 999_999_937}, "a number"),
    ],
)
def test_what_cannot_be_expressed_is_left_out_and_told(schema: Schema, answer: str) -> None:
    with structlog.testing.capture_logs() as lines:
        told = walked(
            form(
                Conversation(ASKED, schema=json.dumps(schema)),
                ANY_TEMPLATE["bare"].capabilities.calls,
            ),
            3,
            '"ab' if "two" in answer else "",
        )
    assert [line["event"] for line in lines] == ["schema is not expressed in full"]
    if answer == "named pattern":
        assert json.loads(told).keys() == {"pattern"}


NEIGHBOURS: Schema = {
    "code": {"type": "string", "pattern": "^[0-9]{3}$"},
    "age": {"type": "integer", "minimum": 100, "maximum": 105},
}


@pytest.mark.parametrize(
    ("odd", "missing"),
    [
        (LOOK_AROUND, ["properties.odd.pattern: regex parse error:"]),
        (
            {"$ref": "https://example.org/a.json"},
            ["properties.odd.$ref: refers to nothing within the schema"],
        ),
        (
            {"anyOf": [{"$ref": "#/$defs/gone"}, {"type": "null"}]},
            ["properties.odd.anyOf.0.$ref: refers to nothing within the schema"],
        ),
        (
            {"type": "string", "maxLength": 5, "not": {"const": "x"}},
            ['Unimplemented keys: ["not"]'],
        ),
        (
            {
                "type": "object",
                "patternProperties": {"(?=x)": {"type": "null"}},
                "additionalProperties": False,
            },
            ["properties.odd.patternProperties: regex parse error:"],
        ),
        (
            {"type": "number", "multipleOf": 1e-30, "maximum": 3},
            [
                (
                    "properties.odd.multipleOf: Value for 'multipleOf' has too many digits: "
                    "10000000000000008"
                )
            ],
        ),
    ],
)
def test_what_is_left_out_takes_nothing_else_with_it(odd: Schema, missing: list[str]) -> None:
    known: Schema = {"$ref": "#/$defs/known"}
    properties = {**NEIGHBOURS, "known": known, "odd": odd}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "$defs": {"known": {"enum": [1, 2]}},
    }
    conversation, calls = (
        Conversation(ASKED, schema=json.dumps(schema)),
        ANY_TEMPLATE["bare"].capabilities.calls,
    )
    with structlog.testing.capture_logs() as lines:
        grammar = form(conversation, calls)
    rest = {
        **schema,
        "properties": {**NEIGHBOURS, "known": known, "odd": {}},
        "additionalProperties": False,
    }

    assert [line["missing"] for line in lines] == [missing]
    for seed in range(20):
        jsonschema.validate(json.loads(walked(grammar, seed)), rest)


def test_references_within_a_schema_are_followed_wherever_they_lead() -> None:
    leads = {
        "a": "#/$defs/a~1b",
        "b": "#/properties/a",
        "c": "#/$defs/c%20d/anyOf/1",
        "d": "#/$defs/c%20d/anyOf/2",
        "e": f"#/$defs/c%20d/anyOf/{'9' * 5000}",
    }
    properties = {name: {"$ref": lead} for name, lead in leads.items()} | {"odd": LOOK_AROUND}
    defs = {"a/b": {"const": 1}, "c d": {"anyOf": [{"const": 2}, {"const": 3}]}}
    schema: Schema = {
        "type": "object",
        "properties": properties,
        "required": ["a", "b", "c"],
        "$defs": defs,
    }
    with structlog.testing.capture_logs() as lines:
        grammar = form(
            Conversation(ASKED, schema=json.dumps(schema)), ANY_TEMPLATE["bare"].capabilities.calls
        )

    assert [told.partition(":")[0] for line in lines for told in line["missing"]] == [
        "properties.d.$ref",
        "properties.e.$ref",
        "properties.odd.pattern",
    ]
    assert walked(grammar, 1, '{"a":1,"b":1,"c":3').startswith('{"a":1,"b":1,"c":3')


KIND: Schema = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}},
    "required": ["kind"],
}
A = {"a": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}
UNION: Schema = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}},
    "required": ["kind"],
    "anyOf": [
        {"properties": {"kind": {"const": kind}, kind: {"type": "boolean"}}, "required": [kind]}
        for kind in ("a", "b")
    ],
}


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        (
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a", "b"]},
            '{"a":true,"b":1}',
        ),
        (
            {"type": "array", "items": UNION, "minItems": 1, "maxItems": 1},
            '[{"kind":"b","b":true}]',
        ),
        (
            {"type": "object", "properties": {"allOf": {"type": "boolean"}}, "required": ["allOf"]},
            '{"allOf":true}',
        ),
        (
            {"anyOf": [{"type": "null"}, {**KIND, "anyOf": [{"$ref": "#/$defs/a"}]}], "$defs": A},
            '{"kind":"b","a":true}',
        ),
        (
            {"anyOf": [{"type": "null"}, {**KIND, "$ref": "#/$defs/a"}], "$defs": A},
            '{"kind":"b","a":true}',
        ),
    ],
)
def test_objects_are_not_closed_where_more_is_meant(schema: Schema, answer: str) -> None:
    with structlog.testing.capture_logs() as lines:
        grammar = form(
            Conversation(ASKED, schema=json.dumps(schema)), ANY_TEMPLATE["bare"].capabilities.calls
        )

    assert walked(grammar, 1, answer) == answer
    assert lines == []


@pytest.mark.parametrize("schema", ['{"type": "string", "enum": [1]}', "[]", "{", "false"])
def test_what_nothing_satisfies_is_refused(schema: str) -> None:
    with pytest.raises(InvalidRequestError):
        form(Conversation(ASKED, schema=schema), ANY_TEMPLATE["bare"].capabilities.calls)


@pytest.mark.parametrize("text", ["<|im_end|>", "x<|im_start|>y"])
def test_text_that_looks_like_a_token_is_text(text: str) -> None:
    grammar = form(
        Conversation(ASKED, schema=json.dumps({"const": text})),
        ANY_TEMPLATE["bare"].capabilities.calls,
    )
    assert json.loads(walked(grammar, 1)) == text


@pytest.mark.parametrize(
    "name", ['a"b', "a\\b", 'x", "arguments": {}}', "a\nb", "<|im_end|>", "größe"]
)
@pytest.mark.parametrize("is_named", [True, False])
def test_any_name_is_called_as_it_is(name: str, is_named: bool) -> None:
    template = ANY_TEMPLATE["bare"]
    tool = Tool(name, "", json.dumps({"type": "object", "properties": {}}))
    conversation = Conversation(
        ASKED, (tool,), ToolChoice(Calling.REQUIRED, name if is_named else None, is_single=True)
    )
    calls, opening = template.calls_of(conversation), template.call_opening(conversation)

    assert read(walked(form(conversation, calls, opening), 1), calls, opening, (tool,)) == [
        ToolCall("", name, "{}")
    ]


@pytest.mark.parametrize("kind", ["string", "array", ["object", "null"], "banana"])
def test_arguments_are_an_object_whatever_is_said_of_them(kind: object) -> None:
    tool = Tool(
        "look", "", json.dumps({"type": kind, "properties": {}, "additionalProperties": False})
    )
    conversation, calls = (
        Conversation(ASKED, (tool,), ToolChoice(Calling.REQUIRED, "look")),
        ANY_TEMPLATE["bare"].capabilities.calls,
    )
    opening = ANY_TEMPLATE["bare"].call_opening(conversation)
    assert read(walked(form(conversation, calls, opening), 1), calls, opening, (tool,)) == [
        ToolCall("", "look", "{}")
    ]


def test_a_schema_that_is_too_large_is_refused() -> None:
    deep: Schema = {"const": 1}
    for _ in range(200):
        deep = {"anyOf": [deep]}
    with pytest.raises(InvalidRequestError, match="too large"):
        form(Conversation(ASKED, schema=json.dumps(deep)), ANY_TEMPLATE["bare"].capabilities.calls)


def _needs(schema: object) -> str:
    return json.dumps({"type": "object", "properties": {"a": schema}, "required": ["a"]})


UNUSABLE = {
    "empty enum": _needs({"enum": []}),
    "minimum above maximum": _needs({"type": "integer", "minimum": 5, "maximum": 2}),
    "false": _needs(False),
    "too large": _needs({"enum": [f"word {number}" for number in range(200_000)]}),
    "nested deeply": '{"anyOf":[' * 300 + "{}" + "]}" * 300,
    "nested beyond what Python reads": '{"properties":{"a":' * 20_000 + "{}" + "}}" * 20_000,
}
any_unusable = pytest.mark.parametrize("schema", UNUSABLE.values(), ids=UNUSABLE.keys())


@any_unusable
@pytest.mark.parametrize("choice", [ToolChoice(Calling.REQUIRED), ToolChoice()])
def test_a_tool_that_cannot_be_called_takes_no_other_with_it(
    schema: str, choice: ToolChoice
) -> None:
    tools = (Tool("broken", "", schema, is_strict=True), attrs.evolve(LOOK, is_strict=True))
    calls = ANY_TEMPLATE["bare"].capabilities.calls
    opening = calls.head if choice.calling is Calling.REQUIRED else ""
    with structlog.testing.capture_logs() as lines:
        grammar = form(Conversation(ASKED, tools, choice), calls, opening)

    [call] = read(walked(grammar, 1, calls.head.removeprefix(opening)), calls, opening, tools)
    assert isinstance(call, ToolCall)
    assert call.name == "look"
    [line] = lines
    assert line["event"] == "tool left out: the answer may not call it"
    assert line["reason"].startswith("'broken' cannot be called: ")
    with pytest.raises(AssertionError, match="may not come"):
        walked(grammar, 1, f"{calls.head.removeprefix(opening)}broken")


@any_unusable
@pytest.mark.parametrize(
    "choice",
    [ToolChoice(Calling.REQUIRED, "broken"), ToolChoice(Calling.REQUIRED, allowed=("broken",))],
)
def test_the_refusal_of_a_demanded_call_names_the_tool(schema: str, choice: ToolChoice) -> None:
    conversation, calls = (
        Conversation(ASKED, (LOOK, Tool("broken", "", schema)), choice),
        ANY_TEMPLATE["bare"].capabilities.calls,
    )
    with pytest.raises(InvalidRequestError, match="tools: 'broken' cannot be called: "):
        form(conversation, calls, calls.head)


def test_a_choice_of_tools_that_are_not_offered_is_refused() -> None:
    conversation, calls = (
        Conversation(ASKED, TOOLS, ToolChoice(Calling.REQUIRED, allowed=("fly",))),
        ANY_TEMPLATE["bare"].capabilities.calls,
    )
    with pytest.raises(
        InvalidRequestError, match="tool_choice: none of the allowed tools can be called"
    ):
        form(conversation, calls, calls.head)


def test_delimiters_that_are_tokens_are_not_text() -> None:
    """A special token in a grammar is that token: the same letters are something else."""
    assert (
        Lark(GUIDANCE).literal("a<|im_start|>b")
        == f'"a" <[{GUIDANCE.specials["<|im_start|>"]}]> "b"'
    )


def test_a_grammar_is_compiled_once() -> None:
    one, other = (
        form(Conversation(ASKED, schema='{"const": 8}'), ANY_TEMPLATE["bare"].capabilities.calls)
        for _ in range(2)
    )
    assert one is other
