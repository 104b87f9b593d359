"""Format in which a template writes tools, calls and results. `call_probing` finds it."""

import json
import re

import attrs

from semantic_trio.adapters.text.argument_rules import argument_schemas
from semantic_trio.adapters.text.formats.hermes import HERMES
from semantic_trio.adapters.text.generic import CALL_CLOSE, CALL_HEAD, CALL_MIDDLE
from semantic_trio.adapters.text.layout import PLACEHOLDER, encodable
from semantic_trio.adapters.text.shape import CallShape, MessageShape
from semantic_trio.adapters.text.syntax import Ending, ToolSyntax
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.domain.conversation import Tool

# The tool of probes, and of the sample of a format.
TOOL = Tool(
    "probe_tool",
    "probe-description",
    '{"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}',
)


@attrs.frozen
class CallFormat:
    """Format of calls in the text of one template."""

    is_native: bool  # the template knows calls
    syntax: ToolSyntax
    head: str  # from where a call begins to where its name does
    middle: str  # from the end of the name on, as far as it is the same for all arguments
    trailer: re.Pattern[str] = re.compile("")  # from the end of the last argument on
    # the template writes the tools too, in a place of its own that stays
    renders_tools: bool = True
    sample: str = ""  # a call as the template writes it
    glue: str = ""  # between the answer's text and the first call
    takes_text: bool = True  # arguments as JSON text; else as an object
    numbering: str = "{number:09}"  # how calls are numbered: `number`, `name`
    takes_user_after_results: bool = True
    shape: CallShape | None = None  # None where no grammar can express the format
    messages: MessageShape | None = None  # None where an answer is one text

    @property
    def generic_sample(self) -> str:
        """The sample with generic names of the tool and the argument."""
        return self.sample.replace(TOOL.name, "tool_name").replace("key", "argument")

    def spelled(self, name: str) -> str:
        """Return a tool's name as it stands after `head`: within a JSON string where `head` has
        begun one.
        """
        return (
            json.dumps(encodable(name), ensure_ascii=False)[1:-1]
            if self._is_json
            else encodable(name)
        )

    def can_say(self, tool: Tool) -> bool:
        """True if a grammar can express calls of a tool in this format: the tool's names can be
        read back.
        """
        if self.shape is None:
            return False
        written = self.shape.arguments
        given: dict[str, object] = (
            {} if written is None else dict.fromkeys(argument_schemas(tool)[1], 1)
        )
        arguments = self.middle + "{}" if written is None else written.written(given)
        reading = self.syntax.read(
            f"{self.head}{self.spelled(tool.name)}{arguments}{self.shape.close}",
            (Tool(tool.name),),
            Ending.TURN,
        )
        return reading is not None and [
            (name, [*json.loads(read)]) for name, read in reading.calls
        ] == [(tool.name, [*given])]

    @property
    def _is_json(self) -> bool:
        """True if a name stands within a JSON string."""
        return self.head.endswith('"') and (self.shape is None or self.shape.arguments is None)


GENERIC = CallFormat(
    is_native=False,
    renders_tools=False,
    syntax=HERMES,
    head=CALL_HEAD,
    middle=CALL_MIDDLE,
    shape=CallShape(CALL_CLOSE, f"{CALL_CLOSE}\n{CALL_HEAD}"),
)


def without_empty_thoughts(skeleton: str, delimiters: ThoughtDelimiters, call_start: str) -> str:
    """Return a template's text without the empty thoughts in front of answers.

    Some templates write them in front of the latest answers only.
    """
    if delimiters.end not in skeleton:
        return skeleton
    empty = rf"{re.escape(delimiters.start)}\s*{re.escape(delimiters.end)}\s*"
    answer = rf"(?={PLACEHOLDER.pattern}|{re.escape(call_start)})"
    return re.sub(empty + answer, "", skeleton)
