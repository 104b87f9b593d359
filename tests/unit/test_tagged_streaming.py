"""Calls between tags are told while they are written, as far as what was told stays true however
the answer goes on.
"""

import itertools
import json
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_trio.adapters.text.formats.tagged import TaggedCalls
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.syntax import Ending
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.domain.conversation import (
    AnswerPart,
    CallPiece,
    Conversation,
    CutCall,
    Text,
    Tool,
    ToolCall,
)
from tests.parts import joined, unpieced
from tests.search import examples
from tests.unit.call_readings import ANY_TEMPLATE, TOOLS, WRITE, told
from tests.unit.test_call_formats import CODE, TAGS

TAGGED = {
    name: syntax
    for name, one in ANY_TEMPLATE.items()
    if isinstance(syntax := one.capabilities.calls.syntax, TaggedCalls)
}
LONG = CODE * 40


def read(
    name: str, text: str, size: int = 1, *, is_cut: bool = False, tools: Sequence[Tool] = TOOLS
) -> list[AnswerPart]:
    """The parts of an answer that comes in pieces of a size."""
    reader = DelimiterReader(
        ThoughtDelimiters(), ANY_TEMPLATE[name].syntaxes_of(Conversation((), tuple(tools))), tools
    )
    parts = [part for at in range(0, len(text), size) for part in reader.push(text[at : at + size])]
    return parts + reader.finish(is_cut=is_cut)


def early(name: str, text: str, end: int, size: int = 1, tools: Sequence[Tool] = TOOLS) -> str:
    """The arguments that are told before the rest of an answer has come."""
    reader = DelimiterReader(
        ThoughtDelimiters(), ANY_TEMPLATE[name].syntaxes_of(Conversation((), tuple(tools))), tools
    )
    parts = [
        part for at in range(0, end, size) for part in reader.push(text[at : min(at + size, end)])
    ]
    return "".join(part.arguments for part in parts if isinstance(part, CallPiece))


def written(arguments: Mapping[str, object]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def test_all_formats_with_tags_are_tried() -> None:
    assert len(TAGGED) >= 10


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [1, 5, 100_000])
@pytest.mark.parametrize("name", TAGGED)
def test_a_long_text_is_told_while_it_is_written(name: str, size: int) -> None:
    """A file that an agent writes: the path first, a number, then the contents."""
    arguments = {"path": "/a b/é.py", "lines": 12, "content": LONG, "mode": None}
    text = told(name, ("write_file", arguments))
    end = text.index("return", len(text) // 2)

    whole = written(arguments)
    assert whole.startswith(early(name, text, end, size))
    assert len(early(name, text, end, size)) > len(whole) // 3
    assert unpieced(read(name, text, size)) == [ToolCall("", "write_file", whole)]


@pytest.mark.parametrize("name", TAGGED)
def test_every_argument_is_told_before_the_next_has_ended(name: str) -> None:
    arguments = {"path": "p", "content": "one\n\n", "lines": 5, "options": {"a": [1]}, "share": 0.5}
    text = told(name, ("write_file", arguments))

    for (argument, value), (following, _) in itertools.pairwise(arguments.items()):
        # the tags of the following one
        end = text.index(following, text.index(argument) + len(argument)) + len(following) + 60
        assert f'"{argument}": {json.dumps(value)}' in early(name, text, end)


@pytest.mark.parametrize("name", TAGGED)
def test_a_value_with_tags_is_told_as_far_as_it_is_certain(name: str) -> None:
    """A call within a file may end there, or may be part of the file: that shows at the end."""
    inner = told(name, ("write_file", {"path": "p", "content": "c"}))
    arguments = {"path": "README.md", "content": f"# Tools\n\n{inner}\nThe end.\n" * 20}
    text = told(name, ("write_file", arguments))

    assert early(name, text, len(text) - 100).startswith(
        '{"path": "README.md", "content": "# Tools'
    )
    assert unpieced(read(name, text)) == [ToolCall("", "write_file", written(arguments))]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TAGGED)
@settings(max_examples=examples(100, 4))
@given(words=st.data(), sizes=st.lists(st.integers(1, 40), min_size=2, max_size=2))
def test_what_is_told_does_not_depend_on_the_pieces_of_the_answer(
    name: str, words: st.DataObject, sizes: list[int]
) -> None:
    """Also of answers that are no calls."""
    call = told(
        name,
        ("write_file", {"path": "a", "content": "b", "lines": 1}),
        ("srv.look", {"where": "c"}),
    )
    tags = [*TAGS.get(name, ()), *call.split("\n"), "\n", " ", "x", '"', "<", ">"]
    text = told(name, ("write_file", {"path": "a"})).partition("a")[0] + "".join(
        words.draw(st.lists(st.sampled_from(tags), max_size=25))
    )

    for is_cut in (True, False):
        one, other, whole = (read(name, text, size, is_cut=is_cut) for size in (*sizes, len(text)))
        assert joined(one) == joined(other) == joined(whole)
        cuts = [
            [part.arguments for part in parts if isinstance(part, CutCall)]
            for parts in (one, other, whole)
        ]
        assert cuts[0] == cuts[1] == cuts[2]


PIECES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["\n", " ", '"', "\\", "<", *sorted({*itertools.chain(*TAGS.values())})]),
)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TAGGED)
@settings(max_examples=examples(100, 4))
@given(content=st.lists(PIECES, max_size=8), is_first=st.booleans())
def test_a_call_that_is_read_whole_is_not_lost_where_it_was_told_in_pieces(
    name: str, content: list[str], is_first: bool
) -> None:
    arguments: dict[str, object] = {"path": "a", "content": "".join(content), "lines": 1}
    text = told(name, ("write_file", dict(reversed(arguments.items())) if is_first else arguments))
    whole = TAGGED[name].read(text, TOOLS, Ending.TURN)
    assert whole is not None

    calls = [
        (part.name, part.arguments)
        for part in unpieced(read(name, text))
        if isinstance(part, ToolCall)
    ]
    assert calls == [*whole.calls]


# -------------------------------------------------------------------------- what is told at the end

CALL = "<tool_call>\n<function=write_file>\n@\n</function>\n</tool_call>"
PATH = "<parameter=path>\na\n</parameter>\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<parameter=unknown>\n" + LONG, ""),
        ("<parameter=lines>\n1", '{"lines": '),
        ("<parameter=lines>\nmany\n</parameter>\n" + PATH, '{"lines": '),
        (
            PATH + "<parameter=content>\nx\n</parameter>\n<parameter=unknown>\ny",
            '{"path": "a", "content": "x',
        ),
        (
            PATH + "<parameter=content>\nx\n</parameter>\n<parameter=path>\ny",
            '{"path": "a", "content": "x',
        ),
        (
            PATH + "<parameter=content>\nx</parameter>\n<parameter=lines>\ny",
            '{"path": "a", "content": "x',
        ),
        (PATH + "<parameter=content>\nx <parameter=lines>\ny", '{"path": "a", "content": "x '),
        (
            PATH + "<parameter=content>\nx </parameter> y\n</parameter>\n<parameter=lines>\n5",
            '{"path": "a", "content": "x </parameter> y',
        ),
        (
            PATH + "<parameter=content>\nx <parameter=path> <parameter=no> y",
            '{"path": "a", "content": "x <parameter=path> <parameter=no> y',
        ),
        (
            PATH + "<parameter=content>\nx </function> y",
            '{"path": "a", "content": "x </function> y',
        ),
        (
            PATH + "<parameter=content>\nx\n</function>\n</tool_call>\ny",
            '{"path": "a", "content": "x',
        ),
        (PATH + "<parameter=content>\nx\n</function>\n</tool", '{"path": "a", "content": "x'),
        (
            PATH + "<parameter=content>\nx\n</parameter>\n</function>\n",
            '{"path": "a", "content": "x',
        ),
        (PATH + "<parameter=content>\nx\n</parameter>\n</fun", '{"path": "a", "content": "x'),
        (PATH + "<parameter=content>\nx\n</param", '{"path": "a", "content": "x'),
        (
            PATH + "<parameter=content>\nx <parameter=" + "y" * 400,
            '{"path": "a", "content": "x <parameter=' + "y" * 400,
        ),
        (
            PATH + "<parameter=content>\nx\n</parameter>\n<parameter=" + "y" * 400,
            '{"path": "a", "content": "x',
        ),
        ("<parameter=path>\n", ""),
        ("<parameter=path>", ""),
        ("<parameter=path>\n\n", '{"path": "'),
    ],
)
def test_nothing_is_told_that_what_follows_could_take_back(body: str, expected: str) -> None:
    text = CALL.partition("@")[0] + body
    for size in (1, 6, 1_000):
        assert early("qwen_xml", text, len(text), size) in {expected, expected or '{"path": "'}


def test_a_call_without_the_first_tag_or_of_a_tool_that_is_not_offered_comes_whole() -> None:
    body = CALL.replace("@", PATH.strip())
    for text, tools in (
        (body.removeprefix("<tool_call>\n"), TOOLS),
        (body, [Tool("other", parameters=WRITE.parameters)]),
    ):
        assert early("qwen_xml", text, len(text), tools=tools) == ""


def test_the_format_may_tell_that_a_value_is_a_text() -> None:
    """Then it is told as it comes whatever the schema says."""
    text = (
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="write_file">\n<｜DSML｜parameter name="content" '
        'string="true">one two'
    )

    assert (
        early("dsml_tool_calls", text, len(text), tools=[Tool("write_file", parameters="{}")])
        == '{"content": "one two'
    )


def test_a_call_that_does_not_become_whole_is_cut() -> None:
    text = CALL.partition("@")[0] + PATH + "<parameter=content>\nabc"
    for is_cut in (True, False):
        *_, last = read("qwen_xml", f"I write. {text}", is_cut=is_cut)
        assert last == CutCall("", "write_file", '{"path": "a", "content": "abc', text)


def test_a_missing_end_tag_is_mended_as_before() -> None:
    text = CALL.replace("@", PATH + "<parameter=content>\nabc")

    assert joined(read("qwen_xml", text)) == [
        ToolCall("", "write_file", '{"path": "a", "content": "abc"}')
    ]
    assert joined(read("qwen_xml", text.removesuffix("</tool_call>"))) == [
        Text(text.removesuffix("</tool_call>"))
    ]
