"""Calls as the formats of models read them, whole and in pieces."""

import json
from collections.abc import Iterator, Mapping, Sequence

from semantic_trio.adapters.text.formats.table import formats
from semantic_trio.adapters.text.reader import DelimiterReader
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
from tests.unit.templates import template

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


ANY_TEMPLATE: dict[str, ChatTemplate] = {
    name: template(source, *formats(source)) for name, source in TEMPLATES.items()
}


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
