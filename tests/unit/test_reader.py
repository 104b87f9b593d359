"""Answers as models write them, in pieces: what is text, what a thought and what a call."""

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.adapters.text.formats.foreign import ForeignCalls
from semantic_trio.adapters.text.formats.hermes import HERMES
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.syntax import ToolSyntax
from semantic_trio.adapters.text.thinking import ThoughtDelimiters, thought_delimiters
from semantic_trio.domain.conversation import Part, Text, Thinking, Tool, ToolCall
from semantic_trio.domain.stopping import Thoughts
from tests.parts import joined

THINK = ThoughtDelimiters()
DELIMITERS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<channel|>",
    '{"name": "f", "arguments": {}}',
    '{"name": "f", "arguments": {"a": "',
]
ANSWERS = st.lists(
    st.one_of(
        st.sampled_from(DELIMITERS),
        st.text(max_size=4),
        st.sampled_from([" ", "\n", "<", '"', "}"]),
    ),
    max_size=12,
).map("".join)


def words(text: str, tools: Sequence[Tool]) -> list[tuple[str, str]]:
    if not text.split():
        raise KeyError("of its own")
    return [(word, "{}") for word in text.split()]


# A call is a word, up to the end of the answer.
SEVERAL = ForeignCalls("several", "[CALLS]", "", words)


def read(
    *pieces: str, delimiters: ThoughtDelimiters = THINK, syntax: ToolSyntax | None = HERMES
) -> list[Part]:
    reader = DelimiterReader(delimiters, (syntax,) if syntax else ())
    return joined([part for piece in pieces for part in reader.push(piece)] + reader.finish())


def call(name: str, arguments: str = "{}") -> ToolCall:
    return ToolCall("", name, arguments)


def test_half_a_character_in_a_call_is_replaced() -> None:
    """JSON may escape half of one, and UTF-8 has none."""
    written = (
        '<tool_call>{"name": "f\\ud83d", "arguments": {"a": "x\\ud83dy", "b": '
        '"\\ud83d\\ude00"}}</tool_call>'
    )
    assert read(written) == [call("f\ufffd", '{"a": "x\ufffdy", "b": "😀"}')]


@pytest.mark.parametrize(
    ("opening", "is_open"),
    [
        ("", False),
        ("<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ('<tool_call>\n{"name": "f"', False),
    ],
)
def test_it_tells_whether_the_answer_begins_within_a_thought(opening: str, is_open: bool) -> None:
    assert DelimiterReader(THINK, (HERMES,), (), opening).thoughts == Thoughts(
        "<think>", "</think>", is_open
    )


@given(text=ANSWERS, places=st.lists(st.integers(0, 60), max_size=6))
@pytest.mark.parametrize("syntax", [HERMES, SEVERAL, None])
def test_the_pieces_make_no_difference(
    syntax: ToolSyntax | None, text: str, places: list[int]
) -> None:
    bounds = [0, *sorted(min(place, len(text)) for place in places), len(text)]

    assert read(
        *(text[one:other] for one, other in itertools.pairwise(bounds)), syntax=syntax
    ) == read(text, syntax=syntax)


@given(text=ANSWERS)
def test_text_without_delimiters_is_returned_letter_by_letter(text: str) -> None:
    plain = text.replace("<", "(")
    reader = DelimiterReader(ThoughtDelimiters(), (HERMES,))

    assert [part for letter in plain for part in reader.push(letter)] == [
        Text(letter) for letter in plain
    ]
    assert reader.finish() == []


@pytest.mark.exhaustive
@given(
    arguments=st.dictionaries(
        st.text(),
        st.recursive(st.text() | st.integers() | st.booleans() | st.none(), st.lists),
        max_size=3,
    )
)
def test_a_call_with_any_arguments_is_read(arguments: dict[str, object]) -> None:
    told = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False)

    [found] = read("<tool_call>\n", told, "\n</tool_call>")

    assert isinstance(found, ToolCall)
    assert json.loads(found.arguments) == arguments


def test_an_end_delimiter_within_a_string_ends_nothing() -> None:
    written = '{"name": "f", "arguments": {"a": "x</tool_call>y</tool_call>"}}'

    assert read("<tool_call>", written, "</tool_call>b") == [
        call("f", '{"a": "x</tool_call>y</tool_call>"}'),
        Text("b"),
    ]


def test_a_string_that_never_ends_is_text() -> None:
    written = '<tool_call>{"name": "f", "arguments": {"a": "x}}</tool_call> and so on'

    assert read(written) == [Text(written)]


def test_ends_of_lines_within_strings_are_taken_as_they_are() -> None:
    assert read('<tool_call>{"name": "f", "arguments": {"a": "x\ny"}}</tool_call>') == [
        call("f", '{"a": "x\\ny"}')
    ]


@pytest.mark.parametrize(
    "written",
    [
        "{}",
        "[]",
        "[1]",
        "null",
        '{"name": 1, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": "f", "arguments": 1}',
        '{"name": "f", "arguments": "1"}',
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "other": {}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_call_is_text_as_it_was_written(written: str) -> None:
    assert read(f"<tool_call>{written}</tool_call> ") == (
        [Text(f"<tool_call>{written}</tool_call> ")]
    )


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": null}', "{}"),
        ('{"name": "f", "arguments": ""}', "{}"),
        ('```json\n{"name": "f", "arguments": {"a": 1}}\n```', '{"a": 1}'),
        ('{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}', '{"a": 1}'),
        ('{"name": "f", "arguments": {"a": "x,}",},}', '{"a": "x,}"}'),
        ('{"name": "f", "arguments": {"a": "\\d+\\.\\"\\\\"}}', '{"a": "\\\\d+\\\\.\\"\\\\"}'),
        ("{'name': 'f', 'arguments': {'a': None, 'b': true}}", '{"a": null, "b": true}'),
        ('{"name": "f", "arguments": {"a": "}"}', '{"a": "}"}'),
        ('{"name": "f", "arguments": {"a": 1}}}', '{"a": 1}'),
    ],
)
def test_calls_in_shapes_that_models_fall_into_are_calls(written: str, arguments: str) -> None:
    assert read(f"<tool_call>{written}</tool_call>") == [call("f", arguments)]


@pytest.mark.parametrize(
    "written",
    [
        '{"name": "f", "arguments": {"a": "\\d\\t"}}',
        '{"name": "f", "arguments": {"a": 1, "a": 2}}',
        '{"name": "f", "arguments": {"a": "x" y}}',
    ],
)
def test_what_can_be_mended_in_more_ways_than_one_is_text(written: str) -> None:
    assert read(f"<tool_call>{written}</tool_call>") == [Text(f"<tool_call>{written}</tool_call>")]


def test_two_objects_in_a_row_are_two_calls() -> None:
    assert read(
        '<tool_call>\n{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}\n</tool_call>'
    ) == [call("f"), call("g")]


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("between", ["", "\n", " \n\n"])
def test_a_whole_call_at_the_end_of_an_unclosed_thought_is_a_call(size: int, between: str) -> None:
    told = (
        f'<think>\nI shall use <tool_call>.{between}<tool_call>\n{{"name": "f", "arguments": '
        f"{{}}}}\n</tool_call>{between}"
    )

    assert read(*(told[at : at + size] for at in range(0, len(told), size))) == [
        Thinking("I shall use <tool_call>."),
        call("f"),
    ]


@pytest.mark.parametrize(
    "rest", [" is how one calls", "</think>so", "</think>", '<tool_call>{"name": "f", "argum']
)
def test_a_call_that_more_of_the_thought_follows_is_a_mention(rest: str) -> None:
    mention = 'I think <tool_call>{"name": "f", "arguments": {}}</tool_call>'
    told = f"<think>{mention}{rest}"

    for size in (1, 5, 1000):
        parts = read(*(told[at : at + size] for at in range(0, len(told), size)))
        assert parts[0] == Thinking(mention + rest.partition("</think>")[0])
        assert not any(isinstance(part, ToolCall) for part in parts)


def test_thoughts_after_a_mention_of_a_call_are_told_as_they_come() -> None:
    reader = DelimiterReader(ThoughtDelimiters(), (HERMES,))

    assert joined(reader.push("<think>The <tool_call> tag is")) == [
        Thinking("The <tool_call> tag is")
    ]


def test_several_calls_between_two_delimiters_are_several_calls() -> None:
    assert read(
        '<tool_call>[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]</tool_call>'
    ) == [call("f"), call("g")]


def test_a_call_that_only_the_turn_ends_is_read_at_the_end() -> None:
    reader = DelimiterReader(ThoughtDelimiters(), (SEVERAL,))

    assert reader.push("a [CALLS] f") == [Text("a ")]
    assert reader.push(" g") == []
    assert reader.finish() == [call("f"), call("g")]
    assert read("[CALLS] ", syntax=SEVERAL) == [Text("[CALLS] ")], "whatever a parser raises"


def test_blanks_after_a_thought_or_a_call_are_no_text() -> None:
    told = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'

    assert read("<think>t</think>\n\n", told, "\n", told, "\n\nb\n") == [
        Thinking("t"),
        call("f"),
        call("f"),
        Text("b\n"),
    ]


def test_a_thought_is_told_while_it_comes_without_the_blanks_around_it() -> None:
    reader = DelimiterReader(ThoughtDelimiters(), ())

    assert [
        reader.push(piece)
        for piece in ("<think>", "\n", "one", "\n\n", "two ", "</th", "ink>", "\n\n", "so")
    ] == [
        [],
        [],
        [Thinking("one")],
        [],
        [Thinking("\n\ntwo")],
        [],
        [],
        [],
        [Text("so")],
    ]


def test_calls_within_thoughts_are_thoughts() -> None:
    assert read("<think><tool_call>{}</tool_call></think>") == [
        Thinking("<tool_call>{}</tool_call>")
    ]


def test_an_end_of_a_thought_that_was_not_begun_is_text() -> None:
    assert read("a</think>b") == [Text("a</think>b")]


def test_a_model_has_its_own_delimiters() -> None:
    channels = thought_delimiters({"<|channel>": 1, "<channel|>": 2})

    assert read("<|channel>thought\nhm\n<channel|>so", delimiters=channels) == [
        Thinking("hm"),
        Text("so"),
    ]
    assert channels.around("hm") == "<|channel>thought\nhm\n<channel|>"
    assert thought_delimiters({"<longcat_think>", "</longcat_think>"}).start == "<longcat_think>"
    assert thought_delimiters(()) == ThoughtDelimiters()


@pytest.mark.parametrize("size", [1, 3, 100])
def test_delimiters_within_a_structured_output_are_part_of_it(size: int) -> None:
    told = '<think>\nhm\n</think>\n\n"a <think>b</think> <tool_call>{}</tool_call> c"'
    reader = DelimiterReader(ThoughtDelimiters(), (HERMES,), is_form=True)
    parts = [
        part for at in range(0, len(told), size) for part in reader.push(told[at : at + size])
    ] + reader.finish()

    assert "".join(part.text for part in parts if isinstance(part, Thinking)) == "hm"
    assert (
        "".join(part.text for part in parts if isinstance(part, Text))
        == '"a <think>b</think> <tool_call>{}</tool_call> c"'
    )


FAMILIES = {
    "Seed-OSS": (("<seed:think>", "</seed:think>"), "<seed:think>hm</seed:think>\nso"),
    "Cohere": (
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        "<|START_THINKING|>hm<|END_THINKING|>so",
    ),
    "Apertus": (("<|inner_prefix|>", "<|inner_suffix|>"), "<|inner_prefix|>hm<|inner_suffix|>so"),
    "Kimi": (("◁think▷", "◁/think▷"), "◁think▷hm◁/think▷\n\nso"),
    "EXAONE": (("<thought>", "</thought>"), "<thought>\nhm\n</thought>\n\nso"),
    "Magistral": (("[THINK]", "[/THINK]"), "[THINK]hm[/THINK]so"),
    "Gemma 4": (("<|channel>", "<channel|>"), "<|channel>thought\nhm\n<channel|>so"),
    "GLM": (("<think>", "</think>"), "<think>hm</think>\nso"),
    "ERNIE": (
        ("<think>", "</think>", "<response>", "</response>"),
        "<think>\nhm\n</think>\n\n<response>\nso\n</response>\n",
    ),
    "Hunyuan": (
        ("<think>", "</think>", "<answer>", "</answer>"),
        "<think>\nhm\n</think>\n<answer>\nso\n</answer>",
    ),
}


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("family", FAMILIES)
def test_thoughts_of_a_family_are_known_by_the_words_of_its_template_or_vocabulary(
    family: str, size: int
) -> None:
    words, told = FAMILIES[family]
    pieces = [told[at : at + size] for at in range(0, len(told), size)]

    for delimiters in (
        thought_delimiters((), f"{{{{ '{' '.join(words)}' }}}}"),
        thought_delimiters({"<other>", *words}),
    ):
        # these are no tokens in Hunyuan's vocabulary
        if delimiters.answer or "<answer>" not in words:
            assert read(*pieces, delimiters=delimiters) == [Thinking("hm"), Text("so")]
        opened = DelimiterReader(delimiters, (), (), delimiters.opening)
        assert opened.thoughts.is_open
        assert joined(
            [
                *opened.push(delimiters.around("hm").removeprefix(delimiters.opening) + "so"),
                *opened.finish(),
            ]
        ) == [
            Thinking("hm"),
            Text("so"),
        ]


def test_what_a_template_says_counts_before_the_vocabulary() -> None:
    assert thought_delimiters({"<think>", "</think>"}, "[THINK] [/THINK]").start == "[THINK]"
    assert (
        thought_delimiters({"<thought>", "</thought>"}, "{{ content.split('</think>')[-1] }}").start
        == "<think>"
    )


WRAPPED = ThoughtDelimiters(answer=("<answer>", "</answer>"))


@given(
    text=st.lists(
        st.sampled_from([*DELIMITERS[:2], "<answer>", "</answer>", "<answer", "a", " ", "\n", "b"]),
        max_size=10,
    ).map("".join),
    at=st.integers(0, 60),
)
def test_delimiters_of_an_answer_are_read_alike_in_any_pieces(text: str, at: int) -> None:
    assert (
        read(text[:at], text[at:], delimiters=WRAPPED)
        == read(text, delimiters=WRAPPED)
        == read(*text, delimiters=WRAPPED)
    )


def test_delimiters_of_an_answer_that_are_mentioned_are_text() -> None:
    assert read("Say <answer> and </answer>.", delimiters=WRAPPED) == [
        Text("Say <answer> and </answer>.")
    ]
    assert read("<answer>Say <answer>.</answer>", delimiters=WRAPPED) == [Text("Say <answer>.")]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_second_thought_right_behind_the_first_is_told_apart_from_it(size: int) -> None:
    told = "<think>a</think>\n<think>c</think>d<think>e</think>f"
    assert read(*(told[at : at + size] for at in range(0, len(told), size))) == [
        Thinking("a\n\nc"),
        Text("d"),
        Thinking("e"),
        Text("f"),
    ]


def test_thoughts_within_thoughts_and_thoughts_without_an_end() -> None:
    assert read("<think>a <think> b</think>c") == [Thinking("a <think> b"), Text("c")], (
        "a delimiter that is mentioned"
    )
    assert read("<think>a </think> b</think>c") == [Thinking("a"), Text("b</think>c")], (
        "the first end ends it"
    )
    assert read("<think>a <thi") == [Thinking("a <thi")]
