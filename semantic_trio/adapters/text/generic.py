"""Wording of tools for models whose templates know none: that of Hermes, which most models have
seen.

Tools stand in a system section at the head, one JSON object a line; calls in the assistant's text,
as JSON between `<tool_call>` delimiters; results in a turn of the user, each between
`<tool_response>` delimiters.
"""

import json
import math
from collections.abc import Sequence

from semantic_trio.domain.conversation import Tool, ToolResult

TOOLS = """\
You may call these tools:
<tools>
{}
</tools>

To call one, write its name and arguments as JSON between these marks. To call several, write each between marks of its own:
<tool_call>
{{"name": "tool name", "arguments": {{"argument": "value"}}}}
</tool_call>
The results are then told to you between <tool_response> and </tool_response>."""
# For models with a format of calls of their own and a template that does not write the tools.
NATIVE_TOOLS = """\
You may call these tools:
<tools>
{}
</tools>

To call tools, end your answer with the calls, in exactly this form (here two calls with one argument each):
SAMPLE
The results are then told to you."""
CALL_HEAD = '<tool_call>\n{"name": "'
CALL_MIDDLE = '", "arguments": '
CALL_CLOSE = "}\n</tool_call>"
CALL = '<tool_call>\n{{"name": {}, "arguments": {}}}\n</tool_call>'
RESULT = "<tool_response>\n{}\n</tool_response>"
ERROR = "Error: {}"

Definition = dict[str, object]  # a tool as templates know it


def definition(tool: Tool) -> Definition:
    """Return a tool as templates take it."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": as_object(tool.parameters),
        },
    }


def wording(sample: str) -> str:
    """Return the section at the head for models with a format of their own; it has one place for
    the tools.
    """
    return NATIVE_TOOLS.replace("SAMPLE", sample.replace("{", "{{").replace("}", "}}"))


def tool_lines(tools: Sequence[Tool]) -> str:
    """Return the tools in the section at the head, one JSON object a line."""
    return "\n".join(json.dumps(definition(tool), ensure_ascii=False) for tool in tools)


def result_text(result: ToolResult) -> str:
    """Return the text of a call's result; the text of an error begins with "Error: "."""
    return ERROR.format(result.text) if result.is_error else result.text


def as_object(text: str) -> dict[str, object]:
    """Return the object in a JSON text; any other text becomes an object with the key `value`."""
    try:
        found = json.loads(text or "{}", parse_float=_number)
    except (ValueError, RecursionError):
        found = text
    return found if isinstance(found, dict) else {"value": found}


def _number(written: str) -> float | str:
    """Return the number, or its digits as a text where no float holds it: a template would write
    Infinity.
    """
    value = float(written)
    return value if math.isfinite(value) else written
