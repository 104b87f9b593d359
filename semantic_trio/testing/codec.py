"""A codec without a tokenizer: one token per byte."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence

import attrs

from semantic_trio.domain.budget import ThoughtBudget
from semantic_trio.domain.conversation import (
    AnswerPart,
    Calling,
    Conversation,
    CutCall,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    ToolCall,
)
from semantic_trio.domain.open_call import OpenCall
from semantic_trio.domain.prompt import NOTHING_KNOWN, Breakpoint, Known, Prompt
from semantic_trio.domain.steering import Grammar
from semantic_trio.domain.stopping import Thoughts
from semantic_trio.testing.grammar import OneAnswer, only_answer
from semantic_trio.testing.runner import ALPHABET, END_OF_TURN

# What `ByteReader` finds in an answer: a thought, a call, or text up to the next of them.
SAID = re.compile(
    r"<think>(?P<thought>.*?)(?P<thought_end></think>\s*|\Z)|<tool_call>(?P<call>.*?)(?P<call_end></tool_call>\s*|\Z)|(?P<text>.+?)(?=<think>|<tool_call>|\Z)",
    re.DOTALL,
)
# What stands in front of a call's arguments; group 1: the name.
BEFORE_ARGUMENTS = re.compile(r'<tool_call>\s*\{"name": "([^"\\]+)", "arguments": ')
# The beginning of a delimiter, at the end of a text.
OPEN_DELIMITER = re.compile(
    "("
    + "|".join(
        delimiter[:end]
        for delimiter in ("<think>", "</think>", "<tool_call>", "</tool_call>")
        for end in range(1, len(delimiter))
    )
    + r")\Z"
)


@attrs.define
class ByteDecoder:
    """Bytes to text, a character at a time."""

    _held: bytes = b""

    def push(self, token: int) -> str:
        """See `TextDecoder.push`."""
        self._held += bytes([token % 256])
        try:
            text = self._held.decode()
        except UnicodeDecodeError as error:
            if error.end == len(self._held) and error.reason == "unexpected end of data":
                return ""
            text = self._held.decode(errors="replace")
        self._held = b""
        return text

    def flush(self) -> str:
        """See `TextDecoder.flush`."""
        held, self._held = self._held, b""
        return held.decode(errors="replace")


@attrs.define(eq=False)
class ByteReader:
    """Tells text and the arguments of offered tools as they come, thoughts and other calls when
    they are whole.
    """

    _may_call: bool
    _held: str = ""
    _offered: frozenset[str] = frozenset()  # names of tools
    _open: OpenCall | None = attrs.field(init=False, default=None)  # the call that is being written
    thoughts: Thoughts = attrs.field(init=False)
    # blanks are, behind one of these
    _skipped: type[Part] | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.thoughts = Thoughts(
            "<think>", "</think>", "<think>" in self._held and "</think>" not in self._held
        )

    @property
    def is_over(self) -> bool:
        """See `AnswerReader.is_over`."""
        return False

    @property
    def apart(self) -> type[Part] | None:
        """See `AnswerReader.apart`."""
        return None if self._held.strip() else self._skipped

    def push(self, text: str) -> list[AnswerPart]:
        """See `AnswerReader.push`."""
        self._held += text
        return list(self._parts(is_all=False))

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """See `AnswerReader.finish`."""
        return list(self._parts(is_all=True))

    def _parts(self, *, is_all: bool) -> Iterator[AnswerPart]:
        held = self._held.lstrip() if self._skipped else self._held
        certain = held if is_all else OPEN_DELIMITER.sub("", held)
        at = 0
        for found in SAID.finditer(certain):
            yield from self._pieces(found)
            is_whole = (
                is_all or found["text"] is not None or found["thought_end"] or found["call_end"]
            )
            if not is_whole:
                break
            at = found.end()
            part = self._ended(found)
            self._skipped = (
                None
                if isinstance(part, Text)
                else ToolCall
                if isinstance(part, ToolCall | CutCall)
                else Thinking
            )
            if part is not None:
                yield part
        self._held = held[at:]

    def _pieces(self, found: re.Match[str]) -> list[AnswerPart]:
        """Return new pieces of a call that is being written."""
        if self._open is None and self._may_call:
            begun = BEFORE_ARGUMENTS.match(found[0])
            self._open = (
                OpenCall(begun[1], begun.end()) if begun and begun[1] in self._offered else None
            )
        return self._open.push(found[0]) if self._open is not None else []

    def _ended(self, found: re.Match[str]) -> AnswerPart | None:
        """Return the part that was found, which is whole.

        A call that was announced cannot become text.
        """
        part, announced = self._read(found), self._open
        self._open = None
        if announced is None or not announced.is_announced:
            return part
        return announced.ended([part] if isinstance(part, ToolCall) else [], found[0])[0]

    def _read(self, found: re.Match[str]) -> Part | None:
        if found["thought"] is not None:
            thought = found["thought"].strip()
            return Thinking(thought) if thought else None
        try:
            match (
                json.loads(found["call"]) if self._may_call and found["call"] is not None else None
            ):
                case {"name": str(name), "arguments": dict(arguments)}:
                    return ToolCall(
                        "",
                        name,
                        json.dumps(arguments, ensure_ascii=False)
                        .encode("utf-16", "surrogatepass")
                        .decode("utf-16", "replace"),
                    )
        except (ValueError, RecursionError):
            pass
        return Text(found[0])


class ByteCodec:
    """One token per byte; a prompt reads `role:text` line by line, with tools, thoughts, calls and
    results between delimiters.
    """

    stop_tokens: frozenset[int] = frozenset({END_OF_TURN})
    fingerprint: str = "bytes"
    longest_token_bytes: int = 64  # a bound as real vocabularies have it

    def encode_prompt(self, conversation: Conversation, known: Known = NOTHING_KNOWN) -> Prompt:
        """See `TextCodec.encode_prompt`. A draft changes nothing: there is one way to spell."""
        tools = [[tool.name, tool.description, tool.parameters] for tool in conversation.tools]
        told = [f"system:<tools>{json.dumps(tools)}</tools>\n"] if tools else []
        lines = [
            line.encode(errors="replace")
            for line in (
                *told,
                *(f"{said.role.value}:{_written(said)}\n" for said in conversation.messages),
            )
        ]
        opening, prefill = _opening(conversation), conversation.prefill
        if prefill is not None:
            lines[-1] = lines[-1].rstrip()
        ends = [0, *itertools.accumulate(map(len, lines))]
        ends_of_messages = ends[1 + len(told) :]
        points = [
            Breakpoint(end, message.rank)
            for end, message in zip(ends_of_messages, conversation.messages, strict=True)
            if message.rank is not None
        ]
        text = b"".join(
            [
                *lines,
                *([b"assistant:", opening.encode(errors="replace")] if prefill is None else []),
            ]
        )
        prompt = Prompt(tuple(text), ends[len(told) + conversation.leading], tuple(points), opening)
        is_known = (
            0 < known.messages <= len(conversation.messages)
            and conversation.messages[known.messages - 1].role is Role.ASSISTANT
        )
        return (
            _going_on(prompt, known.tokens, ends_of_messages[known.messages - 1] - 1)
            if is_known
            else prompt
        )

    def encode_text(self, text: str) -> tuple[int, ...]:
        """See `TextCodec.encode_text`."""
        return tuple(text.encode(errors="replace"))

    def decode(self, tokens: Sequence[int]) -> str:
        """See `TextCodec.decode`."""
        return bytes(token % 256 for token in tokens).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """See `TextCodec.token_bytes`."""
        return bytes([token % 256])

    def decoder(self) -> ByteDecoder:
        """See `TextCodec.decoder`."""
        return ByteDecoder()

    def reader(self, conversation: Conversation, opening: str) -> ByteReader:
        """See `TextCodec.reader`."""
        may_call = bool(conversation.tools) and conversation.choice.calling is not Calling.NONE
        return ByteReader(may_call, opening, frozenset(tool.name for tool in conversation.tools))

    def grammar(self, conversation: Conversation, opening: str) -> Grammar | None:
        """See `TextCodec.grammar`.

        Of all answers that have the form there is one, and none is demanded of tools that need not
        be called.
        """
        answer = only_answer(conversation)
        form = None if answer is None else OneAnswer(answer.removeprefix(opening).encode())
        if conversation.thought_budget is None or form is not None:
            return form
        thoughts = Thoughts("<think>", "</think>", opening.startswith("<think>"))
        return ThoughtBudget(
            conversation.thought_budget, thoughts, tuple(b"\n</think>\n\n"), ByteDecoder, ALPHABET
        )


def _written(message: Message) -> str:
    """Return all parts of a message as text."""
    thought = f"<think>\n{message.thinking}\n</think>\n\n" if message.thinking else ""
    results = "".join(
        f"<tool_response>{'Error: ' * result.is_error}{result.text}</tool_response>"
        for result in message.results
    )
    calls = "".join(
        (
            f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}'
            f"}}\n</tool_call>"
        )
        for call in message.calls
    )
    return thought + results + message.text + calls


def _opening(conversation: Conversation) -> str:
    """The beginning of the answer that is demanded."""
    choice, prefill = conversation.choice, conversation.prefill
    if prefill is not None:
        return "<think>" if prefill.text.rfind("<think>") > prefill.text.rfind("</think>") else ""
    if choice.calling is Calling.REQUIRED and conversation.tools:
        return '<tool_call>\n{"name": "' + (
            "" if choice.name is None else f'{choice.name}", "arguments": '
        )
    return "<think>\n" if conversation.thinks else ""


def _going_on(prompt: Prompt, known: tuple[int, ...], end: int) -> Prompt:
    """The prompt with other tokens up to a position of it; what is before that position is told as
    far as it is the same.
    """

    def moved(position: int) -> int | None:
        if position > end:
            return position + len(known) - end
        return position if known[:position] == prompt.tokens[:position] else None

    points = ((moved(point.position), point.rank) for point in prompt.breakpoints)
    told = tuple(Breakpoint(position, rank) for position, rank in points if position is not None)
    return Prompt((*known, *prompt.tokens[end:]), moved(prompt.head) or 0, told, prompt.opening)
