"""Calls of every format, told by a template and read back: nothing is changed, cut or lost, however
the text is cut into pieces.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_trio.domain.conversation import (
    Text,
)
from tests.call_templates import TEMPLATES
from tests.search import examples
from tests.unit.call_readings import ANY_TEMPLATE, called, pieces, read, told

CODE = (
    "def f(a: dict[str, int]) -> str:\n\treturn \"{'x': 1}\" + f'<b>{a}</b>' if a[\"k\"] > 1 && b "
    "< 2 else ''\n\n"
)


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
