"""Calls are told while they are written, in every format that has their arguments as JSON."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
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
    LONGCAT_JSON,
    MISTRAL,
    NEMOTRON,
    PHI,
    QWEN_XML,
)
from semantic_trio.adapters.text.harmony_reader import HarmonyReader
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.syntax import ToolSyntax
from semantic_trio.adapters.text.tally import CallTally
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.domain.conversation import AnswerPart, CallPiece, CutCall, Text, Tool, ToolCall
from semantic_trio.ports.text import AnswerReader
from tests.parts import joined, unpieced

TOOLS = (Tool("write"), Tool("look"))
HARMONY = "harmony"
# How a call is written in each format: the delimiters, around `@`.
WRITTEN: dict[str, tuple[ToolSyntax | None, str]] = {
    "hermes": (HERMES, '<tool_call>\n{"name": "write", "arguments": @}\n</tool_call>'),
    "hermes, with an id": (
        HERMES,
        '<tool_call>{"id": "c1", "index": 0, "name": "write", "arguments": @}</tool_call>',
    ),
    "longcat": (
        LONGCAT_JSON,
        '<longcat_tool_call>{"name": "write", "arguments": @}</longcat_tool_call>',
    ),
    "granite": (GRANITE, '<|tool_call|>[{"name": "write", "arguments": @}]'),
    "phi4": (PHI, '<|tool_call|>[{"name": "write", "arguments": @}]<|/tool_call|>'),
    "cohere": (
        COHERE,
        (
            '<|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "write", "parameters": '
            "@}\n]<|END_ACTION|>"
        ),
    ),
    "apertus": (APERTUS, '<|tools_prefix|>[{"write": @}]<|tools_suffix|>'),
    "nemotron": (NEMOTRON, '<TOOLCALL>[{"name": "write", "arguments": @}]</TOOLCALL>'),
    "llama": (LLAMA, '{"name": "write", "parameters": @}'),
    "llama, with a token": (
        LLAMA,
        '<|python_tag|>{"type": "function", "function": {"name": "write", "parameters": @}}',
    ),
    "mistral": (MISTRAL, "[TOOL_CALLS]write[ARGS]@"),
    "mistral, with an id": (MISTRAL, "[TOOL_CALLS]write[CALL_ID]abc[ARGS]@"),
    "mistral, a list": (MISTRAL, '[TOOL_CALLS][{"name": "write", "arguments": @, "id": "abc"}]'),
    "deepseek v3": (
        DEEPSEEK,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>write\n```json\n@\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "deepseek v3.1": (
        DEEPSEEK,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>write<｜tool▁sep｜>@<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "kimi_k2": (
        KIMI,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.write:0<|tool_call_argument_begin|>@<|tool_call_end|><|tool_calls_section_end|>",
    ),
    "kimi_k3": (
        KIMI_K3_JSON,
        '<|open|>tools<|sep|><|open|>call tool="write"<|sep|><|open|>json<|sep|>@<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
    ),
    "hunyuan": (HUNYUAN, "<tool_calls><tool_call>write\n```json\n@\n```</tool_call></tool_calls>"),
    HARMONY: (
        None,
        "<|channel|>commentary to=functions.write <|constrain|>json<|message|>@<|call|>",
    ),
}
LONG = {
    "path": "/a b/é",
    "content": 'def f():\n\treturn "\\"  # {}[] 😀</tool_call>\n' * 50,
    "mode": None,
    "lines": [1, 2.5, {"x": True}],
}


def reader_of(
    syntax: ToolSyntax | None, tools: Sequence[Tool] = TOOLS, tally: CallTally | None = None
) -> AnswerReader:
    tally = tally or CallTally(is_quiet=True)
    return (
        DelimiterReader(ThoughtDelimiters(), (syntax,), tools, tally=tally)
        if syntax
        else HarmonyReader(may_call=True, tools=tools, tally=tally)
    )


def read(name: str, text: str, size: int = 1, *, is_cut: bool = False) -> list[AnswerPart]:
    reader = reader_of(WRITTEN[name][0])
    parts = [part for at in range(0, len(text), size) for part in reader.push(text[at : at + size])]
    return parts + reader.finish(is_cut=is_cut)


def written(name: str, arguments: str) -> str:
    return WRITTEN[name][1].replace("@", arguments)


def pieces(parts: Sequence[AnswerPart]) -> list[str]:
    return [part.arguments for part in parts if isinstance(part, CallPiece)]


@pytest.mark.parametrize("size", [1, 4, 17, 100_000])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_pieces_of_a_long_call_come_while_it_is_written_and_are_its_arguments(
    name: str, size: int
) -> None:
    text, whole = written(name, json.dumps(LONG)), json.dumps(LONG, ensure_ascii=False)
    reader, told = reader_of(WRITTEN[name][0]), list[AnswerPart]()
    half = text.index("return", len(text) // 2)
    for at in range(0, half, size):
        told += reader.push(text[at : min(at + size, half)])
    early = "".join(pieces(told))
    told += [*reader.push(text[half:]), *reader.finish()]

    assert whole.startswith(early)
    assert len(early) > len(whole) // 3, "half of the text has come, escaped"
    assert len(pieces(told)) > len(text) // size // 10
    assert unpieced(told) == [ToolCall("", "write", whole)]
    assert "".join(pieces(told)) == whole[:-1], "what is told before the end is no JSON"


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", WRITTEN)
@given(
    arguments=st.dictionaries(
        st.text(max_size=4),
        st.text(max_size=8) | st.integers() | st.lists(st.text(max_size=3)),
        min_size=1,
        max_size=4,
    ),
    is_ascii=st.booleans(),
    size=st.integers(1, 30),
)
def test_the_pieces_and_the_rest_are_the_arguments_however_the_text_comes(
    name: str, arguments: dict[str, object], is_ascii: bool, size: int
) -> None:
    parts = joined(read(name, written(name, json.dumps(arguments, ensure_ascii=is_ascii)), size))
    assert parts == [ToolCall("", "write", json.dumps(arguments, ensure_ascii=False))]


@pytest.mark.exhaustive
@pytest.mark.parametrize("is_cut", [True, False])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_call_that_is_cut_anywhere_is_whole_or_shows_that_it_is_not(
    name: str, is_cut: bool
) -> None:
    given = {"a": 'x "\\ é\n', "b": [1, {"c": None}], "d": "}]"}
    text, allowed = written(name, json.dumps(given)), [[], [("write", given)]]
    if name == HARMONY and not is_cut:
        allowed.append([("write", {})])  # its models may end a call without arguments
    is_announced = False
    for end in range(len(text)):
        one, all_at_once = (
            read(name, text[:end], is_cut=is_cut),
            read(name, text[:end], 100_000, is_cut=is_cut),
        )
        assert joined(one) == joined(all_at_once)
        calls = [part for part in one if isinstance(part, ToolCall)]
        assert [(call.name, json.loads(call.arguments)) for call in calls] in allowed
        is_announced = is_announced or bool(pieces(one))
        if not is_announced:
            assert not any(isinstance(part, CutCall) for part in one)
        elif not calls:
            assert isinstance(one[-1], CutCall)
            assert one[-1].written.endswith(text[max(0, end - 5) : end])
            with pytest.raises(ValueError, match=r"."):
                json.loads(one[-1].arguments)
    assert is_announced


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        ('{"a": 1, b: 2}', "cut"),
        ('{"a": 1, "a": 2}', "cut"),
        ('{"a": "x"y"}', "cut"),
        ('{"a": 1}, "arguments": {"a": 2}', "cut"),
        ('{"a": NaN}', "cut"),
        ("{a: 1}", "text"),
        ("{}{", "text"),
        ('{"a": 1,}', "repaired"),
        ('{"a": "\\d"}', "repaired"),
        ('{"a": [True, None]}', "repaired"),
        ('{"a": 1, "a": 1}', "read"),
        ('{"a": 1}', "read"),
        ("{}", "read"),
    ],
)
def test_a_call_that_turns_out_to_be_malformed_is_cut_where_it_was_announced_and_text_where_it_was_not(
    arguments: str, outcome: str
) -> None:
    text = written("hermes", arguments)
    for size in (1, 5, 1_000):
        tally = CallTally()
        reader = reader_of(HERMES, tally=tally)
        parts = [
            part for at in range(0, len(text), size) for part in reader.push(text[at : at + size])
        ] + reader.finish()

        assert tally.counts == {("hermes", outcome): 1}
        [last] = parts[-1:] if outcome != "text" else joined(parts)
        assert isinstance(last, {"cut": CutCall, "text": Text}.get(outcome, ToolCall))
        if not isinstance(last, ToolCall):
            assert joined(parts) == [Text(text)]
        assert unpieced(parts)


def test_a_call_whose_arguments_turn_out_to_be_others_than_those_that_were_told_is_cut() -> None:
    """Of two values for one key JSON's readers take the last one."""
    text = written(HARMONY, '{"a": 1, "a": 2}')
    for size in (1, 7, 1_000):
        *told, cut = read(HARMONY, text, size)
        assert isinstance(cut, CutCall)
        assert (cut.arguments, "".join(pieces(told))) == ('{"a": 1', '{"a": 1')


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "write"}</tool_call>'),
        (HERMES, '<tool_call>{"name": "unknown", "arguments": {"a": 1}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "write", "arguments": "{\\"a\\": 1}"}</tool_call>'),
        (HERMES, '<tool_call>```json\n{"name": "write", "arguments": {"a": 1}}\n```</tool_call>'),
        (HERMES, '{"name": "write", "arguments": {"a": 1}}'),
        (
            QWEN_XML,
            "<tool_call><function=write><parameter=a>\n1\n</parameter></function></tool_call>",
        ),
        (None, '<|channel|>commentary to=functions.unknown<|message|>{"a": 1}<|call|>'),
    ],
)
def test_a_call_whose_beginning_is_not_certain_is_told_whole(
    syntax: ToolSyntax | None, text: str
) -> None:
    reader = reader_of(syntax)
    parts = [part for letter in text for part in reader.push(letter)] + reader.finish()

    [call] = parts
    assert isinstance(call, ToolCall)
    assert json.loads(call.arguments) in ({"a": 1}, {"a": "1"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", 2 * WRITTEN["hermes"][1]),
        (
            "phi4",
            (
                '<|tool_call|>[{"name": "write", "arguments": @}, {"name": "write", "arguments": '
                "@}]<|/tool_call|>"
            ),
        ),
        ("mistral", "[TOOL_CALLS]write[ARGS]@[TOOL_CALLS]write[ARGS]@"),
        (HARMONY, WRITTEN[HARMONY][1] + "<|start|>assistant" + WRITTEN[HARMONY][1]),
    ],
)
def test_of_parallel_calls_each_is_told_once(name: str, text: str) -> None:
    parts = read(name, text.replace("@", '{"a": "x"}'))
    assert unpieced(parts) == [ToolCall("", "write", '{"a": "x"}')] * 2
    assert pieces(parts)


def test_a_thought_of_a_call_is_no_call() -> None:
    text = f"<think>I could {written('hermes', json.dumps(LONG))} or not.</think>So."
    reader = DelimiterReader(ThoughtDelimiters("<think>", "</think>"), (HERMES,), TOOLS)
    parts = [part for letter in text for part in reader.push(letter)] + reader.finish()

    assert not pieces(parts)
    assert not any(isinstance(part, ToolCall | CutCall) for part in parts)
