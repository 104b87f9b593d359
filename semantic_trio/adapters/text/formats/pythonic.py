"""Calls written as Python calls in a list: LFM2, Llama 3.2 and 4, Llama 4's published pythonic
form.
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence

import attrs

from semantic_trio.adapters.text.formats.unfinished import UnfinishedError
from semantic_trio.adapters.text.syntax import Begun, CallsRead, Ending
from semantic_trio.domain.conversation import Tool

STRING = r'"""(?:[^\\]|\\.)*?"""|\'\'\'(?:[^\\]|\\.)*?\'\'\'|"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\''
# Strings whole; a quote alone begins one that has not ended.
TOKEN = re.compile(rf"{STRING}|[\[\](){{}}\"']", re.DOTALL)
STRINGS = re.compile(STRING, re.DOTALL)
CALL = re.compile(r"\s*([A-Za-z_][\w.\-]*)\s*\(")
BEGINNING = re.compile(r"\[\s*(?:[A-Za-z_][\w.\-]*\s*(?:\(.*)?)?\Z", re.DOTALL)
CLOSING = {"(": ")", "[": "]", "{": "}"}
JSON_NAMES = {"true": True, "false": False, "null": None}
# Ends of lines as they are: models write them in strings, Python does not take them there.
ESCAPED_LINES = {"\n": "\\n", "\r": "\\r"}


@attrs.frozen
class PythonicCalls:
    """A list of Python calls with keyword arguments, between `start` and `end`."""

    format: str
    start: str
    end: str = ""
    more_openings: tuple[str, ...] = ()
    # here the list itself begins; it is one of calls only where all its tools are offered
    fronts: tuple[str, ...] = ()
    delimiters: tuple[str, ...] = ()

    @property
    def openings(self) -> tuple[str, ...]:
        """See `ToolSyntax.openings`."""
        return (
            self.more_openings if self.start in self.fronts else (self.start, *self.more_openings)
        )

    def begun(self, text: str, tools: Sequence[Tool], behind: int = 0) -> Begun | None:
        """See `ToolSyntax.begun`.

        Arguments are Python, and a call is certain only with its last bracket.
        """
        return None

    def read(self, text: str, tools: Sequence[Tool], ending: Ending) -> CallsRead | None:
        """See `ToolSyntax.read`.

        Text that no call begins with is skipped. While the answer is open, calls count only when
        their end delimiter has come; when it is over, also without.
        """
        opening = next((one for one in self.openings if text.startswith(one)), "")
        at = len(opening) + len(text[len(opening) :]) - len(text[len(opening) :].lstrip())
        if at < len(text) and not BEGINNING.match(text, at):
            return CallsRead((), len(opening) or 1)
        if ending is Ending.OPEN and not (self.end and self.end in text):
            return None
        try:
            calls, used = _calls(text, at)
        except UnfinishedError:
            return None if ending is Ending.OPEN else CallsRead((), len(text))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return self._refused(text, at, ending)
        offered = {tool.name for tool in tools}
        if not calls or not (opening or all(name in offered for name, _ in calls)):
            return self._refused(text, at, ending)
        return self._ended(text, tuple(calls), used, ending)

    def _ended(
        self, text: str, calls: tuple[tuple[str, str], ...], used: int, ending: Ending
    ) -> CallsRead | None:
        rest = text[used:].lstrip()
        if not self.end:
            return CallsRead(calls, used)
        if rest.startswith(self.end):
            return CallsRead(calls, len(text) - len(rest) + len(self.end))
        if self.end.startswith(rest):
            return None if ending is Ending.OPEN else CallsRead(calls, len(text))
        return self._refused(text, used, ending)

    def _refused(self, text: str, at: int, ending: Ending) -> CallsRead | None:
        end = text.find(self.end, at) if self.end else -1
        if end < 0:
            return None if ending is Ending.OPEN else CallsRead((), len(text))
        return CallsRead((), end + len(self.end))


def _calls(text: str, at: int) -> tuple[list[tuple[str, str]], int]:
    """The calls of the list that begins at a place, and where it ends.

    Raises `UnfinishedError`, `ValueError`, `SyntaxError`.
    """
    end = _closed(text, at)
    calls, at = list[tuple[str, str]](), at + 1
    while text[at : end - 1].strip():
        head = CALL.match(text, at)
        if head is None:
            raise ValueError("no call")
        close = _closed(text, head.end() - 1)
        calls.append((head[1], _arguments(text[head.end() : close - 1])))
        rest = text[close : end - 1].lstrip()
        if rest and not rest.startswith(","):
            raise ValueError("calls stand between commas")
        at = end - 1 - len(rest) + (1 if rest else 0)
    return calls, end


def _closed(text: str, at: int) -> int:
    """The place behind the bracket that closes the one at a place.

    Raises `UnfinishedError`, `ValueError`.
    """
    open_ones: list[str] = []
    for token in TOKEN.finditer(text, at):
        if token[0] in CLOSING:
            open_ones.append(CLOSING[token[0]])
        elif token[0] in {'"', "'"}:
            raise UnfinishedError("a string has no end")
        elif token[0] in {")", "]", "}"}:
            if open_ones.pop() != token[0]:
                raise ValueError("brackets cross")
            if not open_ones:
                return token.end()
    raise UnfinishedError("a bracket is not closed")


def _arguments(text: str) -> str:
    """Keyword arguments as JSON. Raises `ValueError`, `SyntaxError`, `TypeError`."""
    source = STRINGS.sub(
        lambda match: match[0] if match[0][:3] in {'"""', "'''"} else "".join(_escaped(match[0])),
        text,
    )
    tree = ast.parse(f"f({source}\n)", mode="eval").body
    if not isinstance(tree, ast.Call) or tree.args:
        raise ValueError("arguments have names")
    given = {
        keyword.arg: ast.literal_eval(_Literals().visit(keyword.value)) for keyword in tree.keywords
    }
    if None in given:
        raise ValueError("arguments have names")
    return json.dumps(given, ensure_ascii=False, allow_nan=False)


def _escaped(string: str) -> Iterator[str]:
    return (ESCAPED_LINES.get(letter, letter) for letter in string)


class _Literals(ast.NodeTransformer):
    """JSON's names among Python's literals, as templates write what is within arrays and objects.

    Raises `ValueError` for other names.
    """

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in JSON_NAMES:
            raise ValueError("a name is no literal")
        return ast.copy_location(ast.Constant(JSON_NAMES[node.id]), node)
