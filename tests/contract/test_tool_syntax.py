"""Calls as the models of many families write them, read by mlx-lm's parsers."""

import importlib
import itertools
import json
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import mlx_lm.tool_parsers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from semantic_trio.adapters.mlx.tool_syntax import named_syntax, tool_syntax
from semantic_trio.adapters.text.formats.table import formats
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.adapters.text.reader import DelimiterReader
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
from semantic_trio.domain.prompt import Known
from tests.parts import unpieced
from tests.vocabulary import byte_tokenizer, write_model

SCHEMA = {
    "type": "object",
    "properties": {
        "words": {"type": "string"},
        "number": {"type": "integer"},
        "yes": {"type": "boolean"},
    },
}
TOOL = Tool("find_it", "Finds", json.dumps(SCHEMA))
Arguments = Mapping[str, object]


def xml(before: str, after: str, end: str) -> Callable[[Arguments], str]:
    """Parameters one by one; strings as they are, all else as JSON."""
    return lambda given: "".join(
        before + name + after + (value if isinstance(value, str) else json.dumps(value)) + end
        for name, value in given.items()
    )


GEMMA_QUOTE = '<|"|>'


def gemma(given: Arguments, quote: str) -> str:
    """Names without quotes, strings between others."""
    return ",".join(
        f"{name}:" + (f"{quote}{value}{quote}" if isinstance(value, str) else json.dumps(value))
        for name, value in given.items()
    )


# Text between the delimiters of a call, by family, written from a name and arguments.
WRITTEN: dict[str, Callable[[str, Arguments], str]] = {
    "json_tools": lambda name, given: "\n" + json.dumps({"name": name, "arguments": given}) + "\n",
    "mistral": lambda name, given: f"{name}[ARGS]{json.dumps(given)}",
    "pythonic": lambda name, given: (
        f"[{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})]"
    ),
    "qwen3_coder": lambda name, given: (
        f"\n<function={name}>\n"
        + xml("<parameter=", ">\n", "\n</parameter>\n")(given)
        + "</function>\n"
    ),
    "glm47": lambda name, given: (
        f"{name}\n" + xml("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")(given)
    ),
    "laguna": lambda name, given: (
        f"{name}\n" + xml("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")(given)
    ),
    "longcat": lambda name, given: (
        f"{name}\n"
        + xml(
            "<longcat_arg_key>", "</longcat_arg_key>\n<longcat_arg_value>", "</longcat_arg_value>\n"
        )(given)
        if given
        else json.dumps({"name": name, "arguments": {}})
    ),
    "kimi_k2": lambda name, given: (
        f"<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{json.dumps(given)}"
        "<|tool_call_end|>"
    ),
    "kimi_k3": lambda name, given: (
        f'<|open|>call tool="{name}" index="1"<|sep|><|open|>json '
        f'type="object"<|sep|>{json.dumps(given)}<|close|>json<|sep|><|close|>call<|sep|>'
    ),
    "minimax_m2": lambda name, given: (
        f'\n<invoke name="{name}">\n'
        + xml('<parameter name="', '">', "</parameter>\n")(given)
        + "</invoke>\n"
    ),
    "minicpm5": lambda name, given: f'"{name}">' + xml('<param name="', '">', "</param>")(given),
    "function_gemma": lambda name, given: f"call:{name}{{{gemma(given, '<escape>')}}}",
    "gemma4": lambda name, given: f"call:{name}{{{gemma(given, GEMMA_QUOTE)}}}",
    "muse_spark": lambda name, given: (
        f'<atem:invoke name="{name}">\n'
        + xml('<atem:parameter name="', '">', "</atem:parameter>")(given)
        + "</atem:invoke>"
    ),
}
WORDS = st.from_regex(r"[a-z]{2,5}( [a-z]{2,5}){0,2}", fullmatch=True).filter(
    lambda words: words not in {"null", "true", "false"}
)
GIVEN = st.fixed_dictionaries(
    {}, optional={"words": WORDS, "number": st.integers(-99, 99), "yes": st.booleans()}
)


def read(kind: str, *pieces: str) -> list[Part]:
    reader = DelimiterReader(ThoughtDelimiters(), formats("", named_syntax(kind)), (TOOL,))
    return unpieced([part for piece in pieces for part in reader.push(piece)] + reader.finish())


@pytest.mark.parametrize("kind", WRITTEN)
@given(given=GIVEN)
def test_a_call_is_read_with_the_types_its_tool_wants(kind: str, given: dict[str, object]) -> None:
    syntax = named_syntax(kind)
    written = syntax.start + WRITTEN[kind]("find_it", given) + syntax.end

    for pieces in ([written], list(written)):
        [found] = read(kind, *pieces)
        assert isinstance(found, ToolCall)
        assert (found.name, json.loads(found.arguments)) == ("find_it", given)


def test_every_parser_there_is_is_tried() -> None:
    modules = {module.name for module in pkgutil.iter_modules(mlx_lm.tool_parsers.__path__)}

    assert {
        name
        for name in modules
        if hasattr(importlib.import_module(f"mlx_lm.tool_parsers.{name}"), "parse_tool_call")
    } == set(WRITTEN)


@pytest.mark.parametrize("kind", WRITTEN)
@given(
    words=st.lists(
        st.one_of(
            st.text(max_size=5),
            st.sampled_from(
                ["<", ">", "call:", "{", "}", "=", "name", "[", "(", '"', "function", "parameter"]
            ),
        )
    )
)
def test_what_cannot_be_read_is_text(kind: str, words: list[str]) -> None:
    syntax = named_syntax(kind)
    parts = read(kind, syntax.start, *words, syntax.end)

    assert all(isinstance(part, ToolCall | Text) for part in parts)
    if not any(isinstance(part, ToolCall) for part in parts):
        assert (
            "".join(part.text for part in parts if isinstance(part, Text))
            == syntax.start + "".join(words) + syntax.end
        )


@pytest.mark.parametrize(
    ("template", "start"),
    [
        ("{{ '<tool_call>' }}{{ tool_call.name }}", "<tool_call>"),
        ("[TOOL_CALLS]", "[TOOL_CALLS]"),
        ("<|tool_calls_section_begin|>", "<|tool_calls_section_begin|>"),
        ("nothing of the kind", None),
    ],
)
def test_a_template_tells_the_syntax(template: str, start: str | None) -> None:
    found = tool_syntax(SimpleNamespace(init_kwargs={}, chat_template=template, get_vocab=dict))

    assert (found and found.start) == start


def test_a_configuration_that_names_a_parser_is_obeyed() -> None:
    found = tool_syntax(
        SimpleNamespace(
            init_kwargs={"tool_parser_type": "glm47"}, chat_template="[TOOL_CALLS]", get_vocab=dict
        )
    )

    assert found == named_syntax("glm47")


# ------------------------------------------------------------------------------------- whole models

KIMI = """\
{%- if tools %}{{ '<|im_start|>tools' + (tools | tojson) + '<|im_end|>' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- if message.tool_calls %}
        {{- '<|tool_calls_section_begin|>' }}
        {%- for call in message.tool_calls %}
            {{- '<|tool_call_begin|>' + call.id + '<|tool_call_argument_begin|>' }}
            {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
            {{- '<|tool_call_end|>' }}
        {%- endfor %}
        {{- '<|tool_calls_section_end|>' }}
    {%- endif %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
CODER = """\
{%- if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' }}
        {%- for name, value in call.function.arguments | items %}
            {{- '<parameter=' + name + '>\\n' + (value | string) + '\\n</parameter>\\n' }}
        {%- endfor %}
        {{- '</function>\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
DELIMITERS = [
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
]
ASKED = Conversation(
    (
        Message(Role.USER, (Text("Find it"),)),
        Message(Role.ASSISTANT, (Text("I look."), ToolCall("x", "find_it", '{"words": "a b"}'))),
        Message(Role.USER, (ToolResult("x", "Found"),)),
    ),
    (TOOL,),
)


@pytest.mark.parametrize("template", [KIMI, CODER])
def test_a_model_is_told_its_calls_as_it_writes_them(template: str, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(
        [AddedToken(delimiter, special=True, normalized=False) for delimiter in DELIMITERS]
    )
    codec = load_codec(
        write_model(tmp_path, tokenizer=tokenizer, chat_template=template), tool_syntax
    )
    prompt = codec.encode_prompt(ASKED).tokens
    asked = codec.encode_prompt(Conversation(ASKED.messages[:1], ASKED.tools)).tokens
    decoder, reader = codec.decoder(), codec.reader(ASKED, "")

    answer = itertools.takewhile(lambda token: token not in codec.stop_tokens, prompt[len(asked) :])
    parts = [
        part for token in answer for part in reader.push(decoder.push(token))
    ] + reader.finish()

    assert prompt[: len(asked)] == asked
    assert [part for part in parts if isinstance(part, ToolCall)] == [
        ToolCall("", "find_it", '{"words": "a b"}')
    ]


@pytest.mark.parametrize("template", [KIMI, CODER])
def test_a_model_goes_on_from_what_it_said_itself(template: str, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(
        [AddedToken(delimiter, special=True, normalized=False) for delimiter in DELIMITERS]
    )
    codec = load_codec(
        write_model(tmp_path, tokenizer=tokenizer, chat_template=template), tool_syntax
    )
    said = codec.encode_text("<|im_start|>Other words")

    known = codec.decode(codec.encode_prompt(ASKED, Known(2, said)).tokens)

    assert (
        known
        == codec.decode(said) + "<|im_end|><|im_start|>tool\nFound<|im_end|><|im_start|>assistant\n"
    )


def test_a_template_may_change_lists_of_its_own(tmp_path: Path) -> None:
    """As those of Kimi K2 do."""
    changing = (
        "{%- set told = [] %}{%- for message in messages %}{% set _ = told.append(message.content) "
        "%}{% endfor %}{{ told | join('|') }}"
    )
    codec = load_codec(write_model(tmp_path, chat_template=changing))

    assert codec.decode(codec.encode_prompt(Conversation(ASKED.messages[:1])).tokens) == "Find it"
