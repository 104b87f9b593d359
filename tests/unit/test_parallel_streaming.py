"""Calls in a row are told one after the other while they are written, each as whole when the next
one is announced.
"""

import json
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_trio.adapters.text.formats.hermes import HERMES
from semantic_trio.adapters.text.formats.table import (
    APERTUS,
    COHERE,
    DEEPSEEK,
    GRANITE,
    HUNYUAN,
    KIMI,
    KIMI_K3_JSON,
    LLAMA,
    MISTRAL,
    NEMOTRON,
    PHI,
)
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.syntax import ToolSyntax
from semantic_trio.adapters.text.tally import CallTally
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.domain.conversation import AnswerPart, CallPiece, CutCall, Tool, ToolCall
from tests.parts import joined, unpieced
from tests.search import examples

TOOLS = (Tool("write"), Tool("look"))


@attrs.frozen
class Row:
    """How a format writes calls in a row; `@name` and `@given` stand for what differs."""

    syntax: ToolSyntax
    start: str
    call: str
    between: str
    end: str

    def written(self, calls: Sequence[tuple[str, str]]) -> str:
        told = (self.call.replace("@name", name).replace("@given", given) for name, given in calls)
        return self.start + self.between.join(told) + self.end


PLAIN = '{"name": "@name", "arguments": @given}'
ROWS = {
    "hermes": Row(HERMES, "<tool_call>\n", PLAIN, "\n", "\n</tool_call>"),
    "granite": Row(GRANITE, "<|tool_call|>[", PLAIN, ", ", "]"),
    "phi4": Row(PHI, "<|tool_call|>[", PLAIN, ", ", "]<|/tool_call|>"),
    "cohere": Row(
        COHERE,
        "<|START_ACTION|>[\n",
        '{"tool_call_id": "0", "tool_name": "@name", "parameters": @given}',
        ",\n",
        "\n]<|END_ACTION|>",
    ),
    "apertus": Row(APERTUS, "<|tools_prefix|>[", '{"@name": @given}', ", ", "]<|tools_suffix|>"),
    "nemotron": Row(NEMOTRON, "<TOOLCALL>[", PLAIN, ", ", "]</TOOLCALL>"),
    "llama": Row(LLAMA, "", '{"name": "@name", "parameters": @given}', "; ", ""),
    "llama, functions": Row(
        LLAMA,
        "<|python_tag|>",
        '{"type": "function", "function": {"name": "@name", "parameters": @given}}',
        "\n",
        "",
    ),
    "mistral": Row(MISTRAL, "", "[TOOL_CALLS]@name[ARGS]@given", "", ""),
    "mistral, a list": Row(
        MISTRAL, "[TOOL_CALLS][", '{"name": "@name", "arguments": @given, "id": "abc"}', ", ", "]"
    ),
    "deepseek v3": Row(
        DEEPSEEK,
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>@name\n```json\n@given\n```<｜tool▁call▁end｜>",
        "\n",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseek v3.1": Row(
        DEEPSEEK,
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>@name<｜tool▁sep｜>@given<｜tool▁call▁end｜>",
        "",
        "<｜tool▁calls▁end｜>",
    ),
    "kimi_k2": Row(
        KIMI,
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>functions.@name:0<|tool_call_argument_begin|>@given<|tool_call_end|>",
        "",
        "<|tool_calls_section_end|>",
    ),
    "kimi_k3": Row(
        KIMI_K3_JSON,
        "<|open|>tools<|sep|>",
        (
            "<|open|>call "
            'tool="@name"<|sep|><|open|>json<|sep|>@given<|close|>json<|sep|><|close|>call<|sep|>'
        ),
        "",
        "<|close|>tools<|sep|>",
    ),
    "hunyuan": Row(
        HUNYUAN,
        "<tool_calls>\n",
        "<tool_call>@name\n```json\n@given\n```</tool_call>",
        "\n",
        "\n</tool_calls>",
    ),
}
LONG = json.dumps({"path": "/a b/é", "content": 'x = "{}[], \\"\n' * 40}, ensure_ascii=False)
SHORT = '{"path": "b"}'


def read(
    name: str, text: str, size: int = 1, *, is_cut: bool = False, is_all: bool = True
) -> list[AnswerPart]:
    reader = DelimiterReader(
        ThoughtDelimiters(), (ROWS[name].syntax,), TOOLS, tally=CallTally(is_quiet=True)
    )
    parts = [part for at in range(0, len(text), size) for part in reader.push(text[at : at + size])]
    return parts + (reader.finish(is_cut=is_cut) if is_all else [])


@pytest.mark.parametrize("size", [1, 9, 100_000])
@pytest.mark.parametrize("name", ROWS)
def test_every_call_in_a_row_is_told_while_it_is_written(name: str, size: int) -> None:
    calls = [("write", SHORT), ("look", "{}"), ("write", LONG), ("look", SHORT)]
    text = ROWS[name].written(calls)
    early = read(name, text[: text.index("x =", len(text) // 2)], size, is_all=False)

    whole = [part for part in early if isinstance(part, ToolCall)]
    behind = early[max(at for at, part in enumerate(early) if isinstance(part, ToolCall)) :]
    pieces = "".join(part.arguments for part in behind if isinstance(part, CallPiece))
    assert [(call.name, call.arguments) for call in whole] == calls[:2]
    assert LONG.startswith(pieces)
    assert len(pieces) > len(LONG) // 3
    assert unpieced(read(name, text, size)) == [ToolCall("", tool, given) for tool, given in calls]


@pytest.mark.exhaustive
@pytest.mark.parametrize("is_cut", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_calls_in_a_row_that_are_cut_anywhere_are_whole_up_to_the_one_that_is_cut(
    name: str, is_cut: bool
) -> None:
    calls = [("write", '{"path": "a"}'), ("look", "{}"), ("write", '{"path": "b, }]"}')]
    text = ROWS[name].written(calls)
    for end in range(len(text)):
        one, other = (
            read(name, text[:end], is_cut=is_cut),
            read(name, text[:end], 100_000, is_cut=is_cut),
        )
        assert joined(one) == joined(other)
        found = [(part.name, part.arguments) for part in one if isinstance(part, ToolCall)]
        assert found == calls[: len(found)]
        if (
            any(isinstance(part, CallPiece) for part in one)
            and len(found) < 3
            and isinstance(one[-1], CutCall)
        ):
            assert (one[-1].name, one[-1].arguments) == (
                "write",
                calls[len(found)][1][: len(one[-1].arguments)],
            )
            assert text[:end].endswith(one[-1].written)


@pytest.mark.parametrize("name", ROWS)
def test_a_malformed_call_behind_a_whole_one_is_cut_alone(name: str) -> None:
    text = ROWS[name].written([("write", SHORT), ("write", '{"path": "b", wrong, }')])
    for size in (1, 8, 1_000):
        whole, cut = (part for part in read(name, text, size) if not isinstance(part, CallPiece))
        assert whole == ToolCall("", "write", SHORT)
        assert isinstance(cut, CutCall)
        assert cut.arguments == '{"path": "b"'


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=examples(100, 4))
@given(words=st.data(), size=st.integers(1, 30))
def test_the_pieces_make_no_difference_to_calls_in_a_row(
    name: str, words: st.DataObject, size: int
) -> None:
    row = ROWS[name]
    one, other = row.written([("write", SHORT)]), row.written([("look", "{}")])
    pieces = [
        row.start,
        row.between,
        row.end,
        "{",
        "}",
        ",",
        "]",
        SHORT,
        *one.split('"'),
        *other.split('"'),
        one,
        other,
    ]
    text = one.removesuffix(row.end) + "".join(
        words.draw(st.lists(st.sampled_from(pieces), max_size=8))
    )

    for is_cut in (True, False):
        found, whole = (
            read(name, text, size, is_cut=is_cut),
            read(name, text, 100_000, is_cut=is_cut),
        )
        assert joined(found) == joined(whole)
        assert [part for part in found if isinstance(part, CutCall)] == [
            part for part in whole if isinstance(part, CutCall)
        ]


def test_a_call_of_a_tool_that_is_not_offered_and_all_behind_it_come_at_the_end() -> None:
    text = ROWS["phi4"].written([("write", SHORT), ("other", SHORT), ("write", SHORT)])
    early = read("phi4", text[:-1], is_all=False)

    assert not any(isinstance(part, ToolCall) for part in early)
    assert [part.name for part in unpieced(read("phi4", text)) if isinstance(part, ToolCall)] == [
        "write",
        "other",
        "write",
    ]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("calls", [0, 1])
def test_an_answer_that_goes_on_in_blanks_costs_no_more_with_each(name: str, calls: int) -> None:
    """Patterns with two runs of blanks in a row try all ways to divide them: of so many, that takes
    hours.
    """
    row = ROWS[name]
    begun = row.written([("write", SHORT)] * calls).removesuffix(row.end)

    parts = read(name, begun + " " * 100_000, 50_000, is_all=False)

    assert sum(isinstance(part, ToolCall) for part in parts) <= calls
