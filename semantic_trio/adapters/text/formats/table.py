"""Table of all formats of calls.

The formats of a model follow from the text of its template and from the parser that mlx-lm names
for it.
"""

import re
from typing import Protocol

import attrs

from semantic_trio.adapters.text.formats.foreign import ForeignCalls, Parse
from semantic_trio.adapters.text.formats.gemma import GemmaCalls
from semantic_trio.adapters.text.formats.headed import HeadedCalls
from semantic_trio.adapters.text.formats.hermes import HERMES
from semantic_trio.adapters.text.formats.json_calls import JsonCalls
from semantic_trio.adapters.text.formats.pythonic import PythonicCalls
from semantic_trio.adapters.text.formats.tagged import TaggedCalls
from semantic_trio.adapters.text.formats.tags import tag
from semantic_trio.adapters.text.syntax import ToolSyntax


class Foreign(Protocol):
    """A parser that mlx-lm names for a model."""

    @property
    def kind(self) -> str:
        """The parser's name."""

    @property
    def start(self) -> str:
        """The text in front of what the parser reads."""

    @property
    def end(self) -> str:
        """The text behind it; empty where only the turn's end ends it."""

    @property
    def parse(self) -> Parse:
        """The parser."""


LINES = (("\n", "\n"),)
QWEN_XML = TaggedCalls(
    "qwen_xml",
    "<tool_call>",
    "</tool_call>",
    tag("<function=", ">"),
    "</function>",
    tag("<parameter=", ">"),
    "</parameter>",
    lead="<function=",
    pads=LINES,
)
SEED = attrs.evolve(
    QWEN_XML, format="seed", start="<seed:tool_call>", end="</seed:tool_call>", pads=()
)
GLM = TaggedCalls(
    "glm",
    "<tool_call>",
    "</tool_call>",
    re.compile(r"([^\s<>\"'={}\[\]]+)"),
    "",
    re.compile(r"<arg_key>\s*((?:(?!</?arg_).)*?)\s*</arg_key>\s*<arg_value>", re.DOTALL),
    "</arg_value>",
)
LONGCAT = attrs.evolve(
    GLM,
    format="longcat",
    start="<longcat_tool_call>",
    end="</longcat_tool_call>",
    argument=re.compile(
        r"<longcat_arg_key>\s*((?:(?!</?longcat_arg_).)*?)\s*</longcat_arg_key>\s*<longcat_arg_value>",
        re.DOTALL,
    ),
    argument_end="</longcat_arg_value>",
)
LONGCAT_JSON = JsonCalls("longcat_json", LONGCAT.start, LONGCAT.end)
MINIMAX = TaggedCalls(
    "minimax",
    "<minimax:tool_call>",
    "</minimax:tool_call>",
    tag("<invoke name=", ">"),
    "</invoke>",
    tag("<parameter name=", ">"),
    "</parameter>",
    lead="<invoke name=",
)
MUSE = TaggedCalls(
    "muse_spark",
    "<atem:function_calls>",
    "</atem:function_calls>",
    re.compile(r'<atem:invoke\b[^>]*?\bname="([^"]+)"[^>]*>'),
    "</atem:invoke>",
    re.compile(r'<atem:parameter\b[^>]*?\bname="([^"]+)"[^>]*>'),
    "</atem:parameter>",
    lead="<atem:invoke",
)
MINICPM = TaggedCalls(
    "minicpm5",
    "<function name=",
    "",
    tag("<function name=", ">"),
    "</function>",
    tag("<param name=", ">"),
    "</param>",
    lead="<function name=",
    pads=(("<![CDATA[", "]]>"),),
)

MISTRAL = HeadedCalls(
    "mistral",
    "[TOOL_CALLS]",
    "",
    re.compile(
        r"(?:\s*\[TOOL_CALLS\])?\s*([^\s\[\]{}]+)\s*(?:\[CALL_ID\]\s*(?:[^\s\[\]]+\s*)?)?\[ARGS\]\s*"
    ),
    has_lists=True,
    delimiters=("[ARGS]", "[CALL_ID]"),
)
DEEPSEEK = HeadedCalls(
    "deepseek",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    re.compile(
        r"\s*<｜tool▁call▁begin｜>(?:\s*function\s*<｜tool▁sep｜>(?=\s*[^\s{]))?\s*([^\s<]+)\s*(?:<｜tool▁sep｜>)?\s*(?:```json\s*)?"
    ),
    tail="<｜tool▁call▁end｜>",
    before_tail="```",
    lead="<｜tool▁call▁begin｜>",
    delimiters=("<｜tool▁sep｜>",),
)
KIMI = HeadedCalls(
    "kimi_k2",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    re.compile(
        r"\s*<\|tool_call_begin\|>\s*(?:functions\.)?([^\s<]+?)(?::[0-9]+)?\s*<\|tool_call_argument_begin\|>\s*"
    ),
    tail="<|tool_call_end|>",
    lead="<|tool_call_begin|>",
    delimiters=("<|tool_call_argument_begin|>",),
)
HUNYUAN = HeadedCalls(
    "hunyuan",
    "<tool_calls>",
    "</tool_calls>",
    re.compile(r"\s*<tool_call>(?:\s*function\s*<tool_sep>)?\s*([^\s<]+)\s*```json\s*"),
    tail="</tool_call>",
    before_tail="```",
    lead="<tool_call>",
    has_lists=True,
    delimiters=("<tool_call>", "<tool_sep>"),
)
GRANITE = JsonCalls("granite", "<|tool_call|>", more_openings=("<tool_call>",))
PHI = JsonCalls("phi4", "<|tool_call|>", "<|/tool_call|>")
COHERE = JsonCalls("cohere", "<|START_ACTION|>", "<|END_ACTION|>")
APERTUS = JsonCalls("apertus", "<|tools_prefix|>", "<|tools_suffix|>", has_names_as_keys=True)
NEMOTRON = JsonCalls("nemotron", "<TOOLCALL>", "</TOOLCALL>")
GIGACHAT = JsonCalls(
    "gigachat",
    "<|message_sep|>\n\nfunction call<|role_sep|>\n",
    more_openings=("function call<|role_sep|>\n", "<|function_call|>"),
)
LFM = PythonicCalls("lfm2", "<|tool_call_start|>", "<|tool_call_end|>")
LLAMA_PYTHONIC = PythonicCalls(
    "llama_pythonic", "[", more_openings=("<|python_tag|>",), fronts=("[",)
)
LLAMA_4 = PythonicCalls("llama4", "<|python_start|>", "<|python_end|>")
GEMMA = GemmaCalls("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTION_GEMMA = GemmaCalls(
    "function_gemma", "<start_function_call>", "<end_function_call>", "<escape>"
)
KIMI_K3 = TaggedCalls(
    "kimi_k3",
    "<|open|>tools<|sep|>",
    "<|close|>tools<|sep|>",
    re.compile(r'<\|open\|>call\s[^<]*?tool="([^"]*)"[^<]*<\|sep\|>'),
    "<|close|>call<|sep|>",
    re.compile(
        r'<\|open\|>argument\s[^<]*?key="([^"]*)"(?:\s+type="(?:(?P<text>string)|(?P<json>[^"]*))")?[^<]*<\|sep\|>'
    ),
    "<|close|>argument<|sep|>",
    lead="<|open|>call",
)
KIMI_K3_JSON = HeadedCalls(
    "kimi_k3_json",
    "<|open|>tools<|sep|>",
    "<|close|>tools<|sep|>",
    re.compile(
        r'\s*<\|open\|>call\s[^<]*?tool="([^"]*)"[^<]*<\|sep\|>\s*<\|open\|>json[^<]*<\|sep\|>\s*'
    ),
    tail="<|close|>call<|sep|>",
    before_tail="<|close|>json<|sep|>",
    lead="<|open|>call",
)
LLAMA = JsonCalls(
    "llama", '{"name": "', separator=";", more_openings=("<|python_tag|>",), fronts=("{",)
)


def _dsml(section: str) -> TaggedCalls:
    prefix = "｜DSML｜"
    return TaggedCalls(
        f"dsml_{section}",
        f"<{prefix}{section}>",
        f"</{prefix}{section}>",
        tag(f"<{prefix}invoke name=", ">"),
        f"</{prefix}invoke>",
        re.compile(
            rf"<{prefix}"
            r'parameter\s+name="([^"]*)"\s+string="(?:(?P<text>true)|(?P<json>false))"\s*>'
        ),
        f"</{prefix}parameter>",
        lead=f"<{prefix}invoke name=",
    )


def _hunyuan_3(suffix: str) -> TaggedCalls:
    """Format of Hunyuan 3: published models write a suffix in each tag."""
    return TaggedCalls(
        "hy3" if suffix else "hy3_plain",
        f"<tool_calls{suffix}>",
        f"</tool_calls{suffix}>",
        re.compile(rf"<tool_call{suffix}>\s*([^\s<>\"'={{}}\[\]]+)\s*(?:<tool_sep{suffix}>)?"),
        f"</tool_call{suffix}>",
        re.compile(
            rf"<arg_key{suffix}>\s*((?:(?!</?arg_).)*?)\s*</arg_key{suffix}>\s*<arg_value{suffix}>",
            re.DOTALL,
        ),
        f"</arg_value{suffix}>",
        lead=f"<tool_call{suffix}>",
    )


@attrs.frozen
class FormatEntry:
    """A format, and the texts and parsers that show that a model uses it."""

    syntax: ToolSyntax
    texts: tuple[str, ...]  # all of them stand in the model's template
    parsers: tuple[str, ...] = ()  # of mlx-lm


# In the order in which they are tried: texts that templates of other formats also hold come last.
TABLE = (
    FormatEntry(MISTRAL, ("[TOOL_CALLS]",), ("mistral",)),
    FormatEntry(DEEPSEEK, ("<｜tool▁calls▁begin｜>",)),
    FormatEntry(KIMI, ("<|tool_calls_section_begin|>",), ("kimi_k2",)),
    FormatEntry(PHI, ("<|tool_call|>", "<|/tool_call|>")),
    FormatEntry(GRANITE, ("<|tool_call|>",)),
    FormatEntry(COHERE, ("<|START_ACTION|>",)),
    FormatEntry(APERTUS, ("<|tools_prefix|>",)),
    FormatEntry(NEMOTRON, ("<TOOLCALL>",)),
    FormatEntry(GIGACHAT, ("<|message_sep|>", "<|role_sep|>")),
    FormatEntry(HUNYUAN, ("<tool_calls>", "<tool_call>", "```json")),
    FormatEntry(LLAMA_4, ("<|python_start|>",)),
    FormatEntry(LLAMA, ("<|python_tag|>",)),
    FormatEntry(LLAMA, ("<|eot_id|>", '"parameters"')),
    FormatEntry(LLAMA_PYTHONIC, ("<|python_tag|>",)),
    FormatEntry(LLAMA_PYTHONIC, ("<|eot_id|>", "func_name1(")),
    FormatEntry(LLAMA_PYTHONIC, ("<|eot|>", "func_name1(")),
    FormatEntry(LFM, ("<|tool_call_start|>",), ("pythonic",)),
    FormatEntry(LFM, ("<|tool_list_start|>",)),
    FormatEntry(GEMMA, ("<|tool_call>", "<tool_call|>"), ("gemma4",)),
    FormatEntry(FUNCTION_GEMMA, ("<start_function_call>",), ("function_gemma",)),
    FormatEntry(KIMI_K3_JSON, ("<|open|>tools",), ("kimi_k3",)),
    FormatEntry(KIMI_K3, ("<|open|>tools",), ("kimi_k3",)),
    FormatEntry(SEED, ("<seed:tool_call>",)),
    FormatEntry(LONGCAT, ("<longcat_tool_call>",), ("longcat",)),
    FormatEntry(LONGCAT_JSON, ("<longcat_tool_call>",), ("longcat",)),
    FormatEntry(MINIMAX, ("<minimax:tool_call>",), ("minimax_m2",)),
    FormatEntry(MUSE, ("<atem:function_calls>",), ("muse_spark",)),
    FormatEntry(MINICPM, ('<function name="', '<param name="'), ("minicpm5",)),
    FormatEntry(_dsml("function_calls"), ("｜DSML｜", "function_calls")),
    FormatEntry(_dsml("tool_calls"), ("｜DSML｜", "tool_calls>")),
    FormatEntry(_hunyuan_3(":opensource"), ("<tool_calls:opensource>", "<arg_key:opensource>")),
    FormatEntry(_hunyuan_3(""), ("<tool_calls>", "<tool_sep>", "<arg_key>")),
    FormatEntry(GLM, ("<arg_key>", "<tool_call>"), ("glm47", "laguna")),
    FormatEntry(QWEN_XML, ("<tool_call>", "<function=", "<parameter="), ("qwen3_coder",)),
    FormatEntry(HERMES, ("<tool_call>",), ("json_tools",)),
)


def formats(template: str, foreign: Foreign | None = None) -> tuple[ToolSyntax, ...]:
    """Return the formats of a model, the likeliest first, by its template and by the parser that
    mlx-lm names for it.
    """
    kind = foreign.kind if foreign else ""
    found: list[ToolSyntax] = [
        entry.syntax
        for entry in TABLE
        if kind in entry.parsers or (entry.texts and all(text in template for text in entry.texts))
    ]
    if foreign and not any(kind in entry.parsers for entry in TABLE):
        found = [ForeignCalls(foreign.kind, foreign.start, foreign.end, foreign.parse), *found]
    return tuple(dict.fromkeys(found))
