"""What every protocol becomes before it becomes tokens: messages made of parts.

Knows roles and text. Knows nothing of wire formats or chat templates. Order is meaning: a system message stays where it stands, because moving
it to the front would change every token after it.
"""

import enum

import attrs


class Role(enum.StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@attrs.frozen
class Text:
    """A run of text, exactly as it was said."""

    text: str


Part = Text  # the union grows with the product: tool calls, their results, thinking


@attrs.frozen
class Message:
    """One turn of one speaker."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All text of the message; parts are separated by a blank line, as they are blocks of their own."""
        return "\n\n".join(part.text for part in self.parts)


@attrs.frozen
class Conversation:
    """Everything the model is to read, in order."""

    messages: tuple[Message, ...]


@attrs.frozen
class Prompt:
    """A conversation as the model reads it."""

    tokens: tuple[int, ...]
    head: int = 0  # tokens of the system messages at its front: what other conversations are likely to begin with too
