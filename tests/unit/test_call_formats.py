"""Calls of every format, told by a template and read back: nothing is changed, cut or lost, however
the text is cut into pieces.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import pytest
import structlog.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_trio.adapters.text.formats.table import formats
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.tally import CallTally
from semantic_trio.adapters.text.template import ChatTemplate
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from tests.call_templates import TEMPLATES
from tests.parts import unpieced
from tests.search import examples
from tests.unit.test_template import template

WRITE = Tool(
    "write_file",
    "Writes",
    json.dumps({
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "content": {"type": "string"},
            "lines": {"type": "integer"},
            "share": {"type": "number"},
            "force": {"type": "boolean"},
            "options": {"type": "object"},
            "names": {"type": "array"},
            "mode": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["path"],
    }),
)  # fmt: skip
LOOK = Tool("srv.look", "Looks", '{"type": "object", "properties": {"where": {"type": "string"}}}')
TOOLS = (WRITE, LOOK)
CODE = (
    "def f(a: dict[str, int]) -> str:\n\treturn \"{'x': 1}\" + f'<b>{a}</b>' if a[\"k\"] > 1 && b "
    "< 2 else ''\n\n"
)
ANY_TEMPLATE: dict[str, ChatTemplate] = {
    name: template(source, *formats(source)) for name, source in TEMPLATES.items()
}
TAGS = {
    "hermes": ["<tool_call>", "</tool_call>", '{"name": "srv.look", "arguments": {}}'],
    "qwen_xml": [
        "<tool_call>",
        "</tool_call>",
        "<function=x>",
        "</function>",
        "<parameter=path>",
        "</parameter>",
    ],
    "seed": [
        "<seed:tool_call>",
        "</seed:tool_call>",
        "<function=x>",
        "</function>",
        "<parameter=path>",
        "</parameter>",
    ],
    "glm": [
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
    ],
    "longcat": [
        "<longcat_tool_call>",
        "</longcat_tool_call>",
        "<longcat_arg_key>",
        "<longcat_arg_value>",
        "</longcat_arg_value>",
    ],
    "minimax": [
        "<minimax:tool_call>",
        "</minimax:tool_call>",
        '<invoke name="x">',
        "</invoke>",
        '<parameter name="path">',
        "</parameter>",
    ],
    "mistral": ["[TOOL_CALLS]", "[ARGS]{}", "[CALL_ID]"],
    "deepseek v3": [
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "```json\n{}\n```",
    ],
    "kimi_k2": ["<|tool_calls_section_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>"],
    "hy3": [
        "<tool_calls:opensource>",
        "</tool_call:opensource>",
        "<arg_key:opensource>",
        "<arg_value:opensource>",
        "</arg_value:opensource>",
    ],
    "muse_spark": [
        "<atem:function_calls>",
        "</atem:function_calls>",
        '<atem:parameter name="path">',
        "</atem:parameter>",
        "</atem:invoke>",
    ],
    "minicpm5": ['<function name="x">', '<param name="path">', "</param>", "<![CDATA["],
    "dsml_tool_calls": [
        "<｜DSML｜tool_calls>",
        '<｜DSML｜parameter name="path" string="true">',
        "</｜DSML｜parameter>",
        "</｜DSML｜invoke>",
    ],
    "kimi_k3": [
        "<|open|>tools<|sep|>",
        '<|open|>argument key="path" type="string"<|sep|>',
        "<|close|>argument<|sep|>",
        "<|close|>call<|sep|>",
    ],
    "gemma4": ["<|tool_call>call:x{", '<|"|>', "<tool_call|>"],
    "function_gemma": ["<start_function_call>call:x{", "<escape>", "<end_function_call>"],
    "lfm2": ["<|tool_call_start|>[x(", "<|tool_call_end|>", '")]'],
    "phi4": ["<|tool_call|>[", "<|/tool_call|>"],
    "cohere": ["<|START_ACTION|>", "<|END_ACTION|>"],
    "apertus": ["<|tools_prefix|>", "<|tools_suffix|>"],
    "nemotron": ["<TOOLCALL>[", "]</TOOLCALL>"],
    "gigachat": ["<|message_sep|>", "<|role_sep|>", "<|function_call|>"],
}
ALL_TAGS = sorted({tag for tags in TAGS.values() for tag in tags})
VALUES = [
    "",
    " ",
    "\n",
    "\n\n",
    "  leading",
    "trailing  ",
    "\nleading line",
    "trailing line\n",
    "    return 1\n",
    "\t",
    "a\r\nb\r\n",
    '"',
    "'",
    "\"\"\" and '''",
    "back\\slash \\n \\u0041 \\",
    "null",
    "true",
    "12345",
    "007",
    "1.50",
    "-0",
    "1e3",
    "NaN",
    "{}",
    "[]",
    '{"a": [1, {"b": null}]}',
    "[1, 2",
    "{{ jinja }} {% raw %}",
    "${x} `y` $(z)",
    "<b>&amp;</b> <br/>",
    "first </parameter> second\nthird",
    "]]>",
    "🙂 ü 漢字 \u200b \u00a0",
    "\x00\x07\x1b",
    "\u2028\u2029\u0085",
    "# Title\n\n```json\n{}\n```\n",
    "a = 'b'  # \"c\"",
    CODE,
    CODE * 180,
    ", ".join(ALL_TAGS),
    "\n".join(ALL_TAGS),
    *(f"The tags {' and '.join(tags)} are ours.\n" for tags in TAGS.values()),
]


def conversation(*calls: ToolCall, said: str = "") -> Conversation:
    parts: tuple[Part, ...] = (Text(said), *calls) if said else calls
    results = tuple(ToolResult(call.id, "done") for call in calls)
    return Conversation(
        (
            Message(Role.USER, (Text("go"),)),
            Message(Role.ASSISTANT, parts),
            Message(Role.USER, results),
        ),
        TOOLS,
    )


def told(name: str, *calls: tuple[str, Mapping[str, object]], said: str = "") -> str:
    """An answer as the format's template writes it."""
    whole = conversation(
        *(ToolCall(str(at), tool, json.dumps(given)) for at, (tool, given) in enumerate(calls)),
        said=said,
    )
    asked = ANY_TEMPLATE[name].prompt(Conversation(whole.messages[:1], TOOLS))
    text = ANY_TEMPLATE[name].prompt(whole)
    assert text.startswith(asked)
    return text[len(asked) : text.index("<end>[tool]", len(asked))]


def read(
    name: str,
    pieces: Iterator[str] | Sequence[str],
    *,
    is_cut: bool = False,
    tools: Sequence[Tool] = TOOLS,
) -> list[Part]:
    asked = Conversation((), tuple(tools))
    reader = DelimiterReader(ThoughtDelimiters(), ANY_TEMPLATE[name].syntaxes_of(asked), tools)
    return unpieced(
        [part for piece in pieces for part in reader.push(piece)] + reader.finish(is_cut=is_cut)
    )


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)] if text else []


def called(parts: Sequence[Part]) -> list[tuple[str, object]]:
    return [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, ToolCall)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_of_every_format_is_used_as_it_is(name: str) -> None:
    calls = ANY_TEMPLATE[name].capabilities.calls

    assert calls.is_native
    assert calls.syntax.format == name.partition(" ")[0] or name in {"deepseek v3", "deepseek v3.1"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TEMPLATES)
def test_no_value_of_an_argument_is_changed(name: str) -> None:
    for value in VALUES:
        # Single characters of a file of 18,000 would show nothing that those of the short values do
        # not.
        small, large = (97, 997) if len(value) > 10_000 else (1, 7)
        for arguments, size in (
            ({"path": "a.txt", "content": value}, small),
            ({"content": value, "path": "a.txt"}, large),
        ):
            answer = told(name, ("write_file", arguments))
            for parts in (pieces(answer, size), [answer]):
                assert called(read(name, parts)) == [("write_file", arguments)], (value[:80], size)


@pytest.mark.parametrize("name", TEMPLATES)
def test_values_have_the_types_that_the_schema_wants(name: str) -> None:
    given = {
        "path": "5",
        "content": "true",
        "lines": -12,
        "share": 0.5,
        "force": False,
        "options": {"a": [1, None, {"b": "</x>"}]},
        "names": ["a", 1, []],
        "mode": 5,
    }
    assert called(read(name, [told(name, ("write_file", given))])) == [("write_file", given)]
    assert called(read(name, [told(name, ("write_file", {"path": "p", "mode": None}))])) == [
        ("write_file", {"path": "p", "mode": None})
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_parallel_calls_and_calls_without_arguments_are_read(name: str) -> None:
    calls = [
        ("srv.look", {"where": "a\nb"}),
        ("srv.look", {}),
        ("write_file", {"path": "p", "content": CODE}),
        ("srv.look", {"where": "}"}),
    ]
    answer = told(name, *calls)

    for size in (1, 5, len(answer)):
        assert called(read(name, pieces(answer, size))) == calls


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "llama"])
def test_text_before_and_after_a_call_stays_text(name: str) -> None:
    answer = told(name, ("srv.look", {"where": "here"}))

    for size in (1, 6, 1000):
        parts = read(name, pieces(f"I look. {answer}\n\nI have looked.", size))
        assert called(parts) == [("srv.look", {"where": "here"})]
        assert (
            "".join(part.text for part in parts if isinstance(part, Text))
            == "I look. I have looked."
        )


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_that_is_cut_anywhere_never_holds_a_wrong_call(name: str) -> None:
    calls = [
        (
            "write_file",
            {"path": "a", "content": f"x {TAGS.get(name, ['</a>'])} y\n\n", "lines": 12},
        ),
        ("srv.look", {"where": "<b>"}),
    ]
    answer = told(name, *calls)

    for end in range(len(answer)):
        for is_cut in (True, False):
            parts = read(name, [answer[:end]], is_cut=is_cut)
            found = called(parts)
            assert found == calls[: len(found)], (answer[:end], is_cut)
            assert (
                found
                or "".join(part.text for part in parts if isinstance(part, Text)) == answer[:end]
            )


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=examples(100, 4))
@given(
    path=st.text(max_size=20),
    content=st.lists(
        st.one_of(
            st.text(max_size=8),
            st.sampled_from(["\n", " ", '"', "\\", "<", "{", "}", "]", *ALL_TAGS]),
        ),
        max_size=8,
    ).map("".join),
    lines=st.integers(-(10**20), 10**20),
)
def test_what_a_template_tells_is_read_as_it_was(
    name: str, path: str, content: str, lines: int
) -> None:
    given = {"path": path, "content": content, "lines": lines}
    found = called(
        read(name, [told(name, ("write_file", given), ("srv.look", {"where": content}))])
    )

    assert found in ([("write_file", given), ("srv.look", {"where": content})], []), (
        "a call is read as it was, or is text where that is not certain"
    )


# ---------------------------------------------------------------- calls that models write otherwise

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
