"""Prompts whose answer goes on with the assistant's last message.

Knows where messages end in a prompt's text. Knows nothing of templates: whatever one writes after
the last message is cut off.
"""

import attrs

from semantic_trio.adapters.text.layout import PromptLayout
from semantic_trio.domain.conversation import Message


def continued(layout: PromptLayout, message: Message) -> PromptLayout:
    """The layout up to the end of its last message, which is `message`.

    Blanks at its end are cut off too: a model writes most words with the blank before them as one
    token, and would rarely go on after a blank alone.
    """
    text = layout.text[: layout.ends[-1]]
    if message.text.strip():
        text = text.rstrip()
    return attrs.evolve(layout, text=text, ends=(*layout.ends[:-1], len(text)), opening="")


def open_thought(message: Message, start: str, end: str) -> str:
    """The delimiter of a thought that the text of a message has begun and not ended; empty where
    there is none.
    """
    return start if start and message.text.rfind(start) > message.text.rfind(end) else ""
