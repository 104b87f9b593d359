"""A grammar without a library: one text, byte by byte."""

import json

import attrs

from semantic_trio.domain.conversation import Calling, Conversation
from semantic_trio.testing.runner import END_OF_TURN


@attrs.frozen
class OneAnswer:
    """A `Grammar` of `ByteCodec`'s alphabet that has a single answer."""

    text: bytes

    def start(self) -> "OneAnswerState":
        """See `Grammar.start`."""
        return OneAnswerState(self.text)


@attrs.define
class OneAnswerState:
    """Rest of the answer."""

    _rest: bytes

    def allowed(self) -> bytes:
        """See `GrammarState.allowed`."""
        token = self._rest[0] if self._rest else END_OF_TURN
        return (1 << token).to_bytes(32, "little")

    def take(self, token: int) -> None:
        """See `GrammarState.take`."""
        self._rest = self._rest[1:]


def only_answer(conversation: Conversation) -> str | None:
    """The simplest answer that has the form a conversation demands; None where it may be
    anything.
    """
    choice = conversation.choice
    if conversation.tools and choice.calling is Calling.REQUIRED:
        names = (choice.name,) if choice.name else choice.allowed
        tool = next(tool for tool in conversation.tools if names is None or tool.name in names)
        arguments = json.dumps(example(json.loads(tool.parameters) or {"type": "object"}))
        return f'<tool_call>\n{{"name": "{tool.name}", "arguments": {arguments}}}\n</tool_call>'
    return (
        None
        if conversation.schema is None
        else json.dumps(example(json.loads(conversation.schema)))
    )


def example(schema: dict[str, object]) -> object:
    """Return a value that matches a simple schema."""
    match schema:
        case {"const": value} | {"enum": [value, *_]}:
            return value
        case {"anyOf": [dict(one), *_]}:
            return example(one)
        case {"type": "object", "properties": dict(properties)}:
            required = schema.get("required")
            return {
                name: example(one)
                for name, one in properties.items()
                if isinstance(required, list) and name in required
            }
        case {"type": "array", "items": dict(items)}:
            least = schema.get("minItems", 0)
            return [example(items)] * (least if isinstance(least, int) else 0)
        case {"type": "string"}:
            least = schema.get("minLength", 0)
            return "a" * (least if isinstance(least, int) else 0)
        case {"type": "integer" | "number"}:
            return schema.get("minimum", 0)
    return {"array": [], "boolean": False, "null": None}.get(str(schema.get("type")), {})
