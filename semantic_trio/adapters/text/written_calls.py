"""Calls written by us, in the family's own format, for templates that leave them out or take one a
turn: as words of the assistant.

Knows the formats that such templates tell models of. Knows nothing of whole conversations.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from semantic_trio.adapters.text.argument_shape import common_front
from semantic_trio.adapters.text.call_probing import native
from semantic_trio.adapters.text.generic import Definition
from semantic_trio.adapters.text.syntax import ToolSyntax
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.adapters.text.turns import NO_SWITCHES, REFUSALS, Render, Switches, Turn, turn
from semantic_trio.domain.conversation import Role

# of a number in a row, a name, and arguments (JSON, or an object): the call's text
Call = Callable[[int, str, object], str]


@attrs.frozen
class Words:
    """Text of a family around calls in a row."""

    start: str
    call: Call
    between: str
    end: str
    glue: str = ""  # between what is said and the calls


def _object(name_key: str, arguments_key: str, number_key: str = "") -> Call:
    """A call as a JSON object, with these keys for the name, the arguments and a number."""

    def call(number: int, name: str, arguments: object) -> str:
        given = (
            arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        )
        front = f'"{number_key}": "{number}", ' if number_key else ""
        return f'{{{front}"{name_key}": "{name}", "{arguments_key}": {given}}}'

    return call


def _python(_: int, name: str, arguments: object) -> str:
    if not isinstance(arguments, Mapping):
        raise TypeError("arguments of a Python call are an object")
    written = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items()]
    return f"{name}({', '.join(written)})"


def _tags(_: int, name: str, arguments: object) -> str:
    if not isinstance(arguments, Mapping):
        raise TypeError("arguments between tags are an object")
    values = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in arguments.items()
    }
    parameters = "".join(
        f'<atem:parameter name="{key}">{value}</atem:parameter>\n' for key, value in values.items()
    )
    return f'<atem:invoke name="{name}">\n{parameters}</atem:invoke>\n'


GIGACHAT_ROLE = "<|message_sep|>\n\nfunction call<|role_sep|>\n"
PLAIN = _object("name", "arguments")
WORDS = {
    "llama": Words("", _object("name", "parameters"), "; ", "", "\n"),
    "granite": Words("<|tool_call|>[", PLAIN, ", ", "]"),
    "lfm2": Words("<|tool_call_start|>[", _python, ", ", "]<|tool_call_end|>"),
    "cohere": Words(
        "<|START_ACTION|>[\n    ",
        _object("tool_name", "parameters", "tool_call_id"),
        ",\n    ",
        "\n]<|END_ACTION|>",
    ),
    "nemotron": Words("<TOOLCALL>[", PLAIN, ", ", "]</TOOLCALL>", "\n\n"),
    "gigachat": Words(GIGACHAT_ROLE, PLAIN, GIGACHAT_ROLE, ""),
    "mistral": Words("[TOOL_CALLS][", PLAIN, ", ", "]"),
    "phi4": Words("<|tool_call|>[", PLAIN, ", ", "]<|/tool_call|>"),
    "muse_spark": Words("<atem:function_calls>\n", _tags, "", "</atem:function_calls>"),
}


@attrs.frozen
class WritesCalls:
    """A template that is given calls as words of the assistant."""

    render: Render
    words: Words

    def __call__(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Definition] = (),
        *,
        speak: bool = True,
        switches: Switches = NO_SWITCHES,
    ) -> str:
        """See `Render`."""
        return self.render(
            [self._written(said) for said in turns], tools, speak=speak, switches=switches
        )

    def _written(self, said: Turn) -> Turn:
        calls = said.get("tool_calls")
        if not isinstance(calls, list):
            return said
        words = self.words
        written = words.between.join(
            words.call(at, call["function"]["name"], call["function"]["arguments"])
            for at, call in enumerate(calls)
        )
        front = f"{said['content']}{words.glue}" if said["content"] else ""
        return {"role": said["role"], "content": f"{front}{words.start}{written}{words.end}"}


@attrs.frozen
class Settles:
    """A template that writes the last turn of an assistant like all others: without the beginning
    of an answer that some put in front of it.
    """

    render: Render
    user: str  # what is written in front of a user's words

    def __call__(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Definition] = (),
        *,
        speak: bool = True,
        switches: Switches = NO_SWITCHES,
    ) -> str:
        """See `Render`."""
        if speak or not turns or turns[-1]["role"] != Role.ASSISTANT:
            return self.render(turns, tools, speak=speak, switches=switches)
        text = self.render([*turns, turn(Role.USER, NEXT)], tools, speak=False, switches=switches)
        return text[: text.rindex(NEXT)].removesuffix(self.user)


NEXT = "probe-next"


def _settling(render: Render) -> Iterator[Render]:
    """The template with its last turns settled."""
    with contextlib.suppress(*REFUSALS):
        alone = render([turn(Role.USER, NEXT)], speak=False)
        later = render(
            [turn(Role.USER, "a"), turn(Role.ASSISTANT, "b"), turn(Role.USER, NEXT)], speak=False
        )
        fronts = [text[: text.index(NEXT)][::-1] for text in (alone, later)]
        yield Settles(render, common_front(fronts)[::-1])


def calling(
    render: Render, delimiters: ThoughtDelimiters, syntaxes: Sequence[ToolSyntax]
) -> Render:
    """The template, given calls in a way in which it tells all of them; as it is where there is no
    such way.
    """
    written = [
        WritesCalls(render, WORDS[syntax.format]) for syntax in syntaxes if syntax.format in WORDS
    ]
    return next(
        (
            one
            for one in (render, *_settling(render), *written)
            if next(native(one, delimiters, syntaxes), None) is not None
        ),
        render,
    )
