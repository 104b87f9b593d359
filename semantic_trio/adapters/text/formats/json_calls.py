"""Calls as JSON objects between two delimiters: Hermes and Qwen, Granite, Phi-4, Cohere, Apertus,
Nemotron, Llama 3 and others.

Knows the shapes of such objects. Knows nothing of the text around them.
"""

import json
import re
from collections.abc import Mapping, Sequence

import attrs

from semantic_trio.adapters.text.formats.lenient import (
    decode,
    outside_strings,
    values,
)
from semantic_trio.adapters.text.formats.unfinished import UnfinishedError
from semantic_trio.adapters.text.syntax import Begun, CallsRead, Ending
from semantic_trio.domain.conversation import Tool

NAMES = ("name", "tool_name")
ARGUMENTS = ("arguments", "parameters", "input")
# Keys that may stand beside a name and arguments, and are ignored.
BESIDES = frozenset({"id", "tool_call_id", "call_id", "index", "type"})
# First keys of an object that may be a call although no delimiter begins it.
FRONT_KEYS = ('"name"', '"type"', '"function"')
FRONT_NAME = re.compile(r'\{\s*"name"\s*:\s*"([^"]*)"')
# An ignored key with its value.
BESIDE = r"""\s*"(?:id|tool_call_id|call_id|index|type)"\s*:\s*(?:"[^"\\]*"|[0-9]+)\s*"""
# An object up to arguments that are an object; group 1: the name.
OBJECT = (
    rf"""\s*\{{(?:{BESIDE},)*\s*(?:"function"\s*:\s*\{{\s*)?"""
    r""""(?:name|tool_name)"\s*:\s*"([^"\\]+)"\s*,\s*"(?:arguments|parameters|input)"\s*:\s*(?=\{)"""
)
# Text between the arguments of two calls in a row, without the second object.
BETWEEN = rf"""\s*(?:,{BESIDE})*\}}(?:\s*\}})?(?:\s*[,;])?"""
KEY = r"""\s*"([^"\\]+)"\s*:\s*(?=\{)"""
# Text before the arguments of a call: of the first one, and of a later one in the row.
BEFORE_ARGUMENTS = (re.compile(rf"(?:\s*\[)?{OBJECT}"), re.compile(BETWEEN + OBJECT))
BEFORE_ARGUMENTS_OF_KEY = (
    re.compile(rf"\s*(?:\[\s*)?\{{{KEY}"),
    re.compile(rf"\s*(?:\}}\s*,\s*\{{|,){KEY}"),
)
# A call's JSON may be written as a code block.
FENCE = "```"
Call = tuple[str, str]


@attrs.frozen
class JsonCalls:
    """JSON objects of calls, one or a list of them, between `start` and `end`."""

    format: str
    start: str
    end: str = ""
    separator: str = ""  # between calls that stand in a row without delimiters of their own
    more_openings: tuple[str, ...] = ()
    # here the object itself begins; it is a call only with the name of an offered tool
    fronts: tuple[str, ...] = ()
    delimiters: tuple[str, ...] = ()
    has_names_as_keys: bool = False  # `{"name": {arguments}}`

    @property
    def openings(self) -> tuple[str, ...]:
        """See `ToolSyntax.openings`."""
        own = () if self.start.startswith(self.fronts or ("\n",)) else (self.start,)
        return (*own, *self.more_openings)

    def read(self, text: str, tools: Sequence[Tool], ending: Ending) -> CallsRead | None:
        """See `ToolSyntax.read`.

        Text that no call begins with is skipped. While the answer is open, calls count only when
        their end delimiter has come; when it is over, also without.
        """
        opening = next((one for one in self.openings if text.startswith(one)), "")
        offered = None if opening else {tool.name for tool in tools}
        if not (_begins(text[len(opening) :]) if offered is None else _is_front(text, offered)):
            return CallsRead((), len(opening) or 1)
        if ending is Ending.OPEN and not (self.end and self.end in text):
            return None
        try:
            objects, at = self._in_a_row(text, len(opening))
            calls = self._calls(objects, offered)
        except UnfinishedError:
            return None if ending is Ending.OPEN else CallsRead((), len(text))
        except (ValueError, RecursionError):
            return self._mended(text, len(opening), offered, ending)
        behind = at + _blanks(text, at)
        if not self.end:
            return CallsRead(calls, at)
        if text.startswith(self.end, behind):
            return CallsRead(calls, behind + len(self.end))
        if self.end.startswith(text[behind:]):
            return None if ending is Ending.OPEN else CallsRead(calls, len(text))
        return self._mended(text, len(opening), offered, ending)

    def begun(self, text: str, tools: Sequence[Tool], behind: int = 0) -> Begun | None:
        """See `ToolSyntax.begun`.

        An object that no delimiter announces may be a call in a format that has no delimiter at
        all.
        """
        opening = next((one for one in self.openings if text.startswith(one)), "")
        if not (opening or text.startswith(self.start)):
            return None
        patterns = BEFORE_ARGUMENTS_OF_KEY if self.has_names_as_keys else BEFORE_ARGUMENTS
        return begun_object(text, behind or len(opening), tools, patterns[behind > 0])

    def _in_a_row(self, text: str, at: int) -> tuple[list[object], int]:
        """Return the objects in a row, and the end of the last one."""
        objects: list[object] = []
        while True:
            begun = at + _blanks(text, at)
            if objects and self.separator and text.startswith(self.separator, begun):
                begun += len(self.separator)
                begun += _blanks(text, begun)
            if objects and not text.startswith(("{", "["), begun):
                return objects, at
            found, at = decode(text, begun)
            objects.append(found)

    def _mended(
        self, text: str, at: int, offered: set[str] | None, ending: Ending
    ) -> CallsRead | None:
        """Return the reading of a text that is no valid JSON: mended calls, or text."""
        end = outside_strings(text, self.end, at) if self.end else -1
        if end < 0 and ending is Ending.OPEN:
            return None
        if end < 0 and self.end:
            end = text.find(self.end, at)
        used = len(text) if end < 0 else end + len(self.end)
        if end < 0 and ending is not Ending.TURN:
            return CallsRead((), used)
        try:
            objects, repair = values(text[at : len(text) if end < 0 else end])
            is_certain = end >= 0 or repair != "brackets"
            return CallsRead(
                self._calls(objects, offered) if is_certain else (), used, repair or "code block"
            )
        except (ValueError, RecursionError):
            return CallsRead((), used)

    def _calls(self, values_read: Sequence[object], offered: set[str] | None) -> tuple[Call, ...]:
        """Return the calls in JSON values. Raises `ValueError` for a value that is no call."""
        objects = [
            one for found in values_read for one in (found if isinstance(found, list) else [found])
        ]
        calls = tuple(call for one in objects for call in self._of_object(one))
        if not calls:
            raise ValueError("no call")
        if offered is not None and not all(
            name in offered and _is_plain(one)
            for (name, _), one in zip(calls, objects, strict=True)
        ):
            raise ValueError("no call of an offered tool")
        return calls

    def _of_object(self, found: object) -> list[Call]:
        if self.has_names_as_keys and isinstance(found, dict) and not {*NAMES} & {*found}:
            return [(name, arguments(given)) for name, given in found.items()]
        return [call(found)]


def begun_object(
    text: str, at: int, tools: Sequence[Tool], pattern: re.Pattern[str]
) -> Begun | None:
    """Return the call of an offered tool that begins at a place, once its arguments have begun;
    else None.
    """
    found = pattern.match(text, at)
    return (
        Begun(found[1], found.end())
        if found is not None and any(tool.name == found[1] for tool in tools)
        else None
    )


def call(found: object) -> Call:
    """Return the name and arguments in an object. Raises `ValueError` if the object is no call."""
    if not isinstance(found, dict):
        raise ValueError("a call is an object")
    inner = found.get("function")
    if isinstance(inner, dict):
        return call(inner)
    name = _one_of(found, (*NAMES, "function"))
    if not isinstance(name, str) or not name:
        raise ValueError("a call has a name")
    given = {*found} & {*ARGUMENTS}
    if not given and {*found} - {*NAMES, "function"} - BESIDES:
        raise ValueError("a call has a name and arguments")
    return name, arguments(_one_of(found, ARGUMENTS))


def _is_plain(found: object) -> bool:
    """True for an object with a name, arguments, and no key that calls do not have."""
    if not isinstance(found, dict):
        return False
    inner = found.get("function")
    return (
        _is_plain(inner)
        if isinstance(inner, dict)
        else bool({*found} & {*ARGUMENTS})
        and {*found} <= {*NAMES, *ARGUMENTS, *BESIDES, "function"}
    )


def arguments(given: object) -> str:
    """Return the JSON of a call's arguments. Raises `ValueError` if they are no object."""
    if isinstance(given, str):
        given = values(given)[0][0] if given.strip() else {}
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ValueError("arguments are an object")
    return json.dumps(given, ensure_ascii=False, allow_nan=False)


def _one_of(found: Mapping[str, object], names: Sequence[str]) -> object:
    given = [found[name] for name in names if found.get(name) is not None]
    if len(given) > 1:
        raise ValueError("given twice")
    return given[0] if given else None


def _begins(rest: str) -> bool:
    """False if a text can no longer become JSON of a call."""
    rest = rest.lstrip()
    return not rest or rest[0] in "{[" or FENCE.startswith(rest[: len(FENCE)])


def _is_front(text: str, offered: set[str]) -> bool:
    """False if an object can no longer become a call of an offered tool."""
    rest = text[1:].lstrip()
    if not any(rest.startswith(key) or key.startswith(rest) for key in FRONT_KEYS):
        return False
    name = FRONT_NAME.match(text)
    return bool(offered) and (name is None or name[1] in offered)


def _blanks(text: str, at: int) -> int:
    """Number of blanks at a place."""
    end = at
    while end < len(text) and text[end].isspace():
        end += 1
    return end - at
