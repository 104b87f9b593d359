"""Words of the harmony format: the delimiters of messages, and what their headers say."""

import json
import re
from collections.abc import Sequence

import attrs

from semantic_trio.adapters.text.syntax import Begun, CallsRead, Ending
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.domain.conversation import Tool

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
ASSISTANT = f"{START}assistant"
ANALYSIS, COMMENTARY, FINAL = (f"{CHANNEL}{name}" for name in ("analysis", "commentary", "final"))
FUNCTIONS = "functions."
# A thought, and all that stands between it and an answer.
THINKS = ThoughtDelimiters(f"{ANALYSIS}{MESSAGE}", END, ASSISTANT, "")

CHANNEL_NAME = re.compile(r"<\|channel\|>\s*([A-Za-z_]*)")
RECIPIENT = re.compile(r"\bto=([^\s<]+)")


@attrs.frozen
class MessageHeader:
    """The header of a message of the assistant."""

    channel: str
    recipient: str

    @classmethod
    def of(cls, text: str) -> "MessageHeader":
        """A header as it is written, the recipient before or after the channel.

        Of several the last one counts.
        """
        last = text.rpartition(START)[2]
        return cls("".join(CHANNEL_NAME.findall(last)[-1:]), "".join(RECIPIENT.findall(last)[-1:]))

    def called(self, tools: Sequence[Tool]) -> str:
        """The name of the function that is called; empty for no call."""
        if self.recipient.startswith(FUNCTIONS):
            return self.recipient.removeprefix(FUNCTIONS)
        return self.recipient if any(tool.name == self.recipient for tool in tools) else ""


@attrs.frozen
class HarmonyCalls:
    """Calls as messages of their own."""

    format: str = "harmony"
    start: str = f"{COMMENTARY} to={FUNCTIONS}"
    end: str = CALL
    openings: tuple[str, ...] = (start,)
    fronts: tuple[str, ...] = ()
    delimiters: tuple[str, ...] = (START, CHANNEL, CONSTRAIN, MESSAGE)

    def begun(self, text: str, tools: Sequence[Tool], behind: int = 0) -> Begun | None:
        """See `ToolSyntax.begun`. `HarmonyReader` knows itself where arguments begin."""
        return None

    def read(self, text: str, tools: Sequence[Tool], ending: Ending) -> CallsRead | None:
        """See `ToolSyntax.read`."""
        message, found, _ = text.partition(self.end)
        if not found and ending is Ending.OPEN:
            return None
        calls = self.calls(message, tools)
        return CallsRead(calls, len(message + found) if calls else len(self.start))

    def calls(self, message: str, tools: Sequence[Tool]) -> tuple[tuple[str, str], ...]:
        """The name and the arguments in a message without its role; nothing where it is no call."""
        header, _, body = message.partition(MESSAGE)
        name = MessageHeader.of(header).called(tools)
        try:
            arguments = json.loads(body if body.strip() else "{}", strict=False)
            return (
                ((name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)),)
                if name and isinstance(arguments, dict)
                else ()
            )
        except (ValueError, RecursionError):
            return ()
