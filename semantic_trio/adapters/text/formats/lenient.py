"""JSON as models write it: ends of lines within strings, and faults that can be mended in one way
only.

Knows JSON. Knows nothing of calls.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator

from semantic_trio.adapters.text.formats.unfinished import UnfinishedError

STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
# Strings whole, so that what looks like a fault within one is none.
TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
WRONG_ESCAPE = re.compile(r"\\[^\"\\/bfnrtu]")
# Escapes that may be meant, or may be what is left of a text that was not escaped: "\d\t" is not
# certain.
DOUBTFUL_ESCAPE = re.compile(r"\\[bfnrtu]")
ESCAPE = re.compile(r"\\(.)", re.DOTALL)
FENCED = re.compile(r"\A\s*```[a-z_]*[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)
STRING_OF_PYTHON = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", re.DOTALL)
TWO_STRINGS = re.compile(r"S\s*S")
PAIRS = {"{": "}", "[": "]"}


def decode(text: str, at: int = 0) -> tuple[object, int]:
    """The JSON value that begins at a place, and where it ends.

    Raises `UnfinishedError` where the text ends within it, `ValueError`.
    """
    try:
        return DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()):
            raise UnfinishedError(error.msg) from error
        raise


def values(body: str) -> tuple[list[object], str]:
    """All JSON values of a text, and how they were mended, empty where they were not.

    Raises `ValueError` where there is not exactly one way.

    The text has an end of its own: what is missing at its end is missing.
    """
    fenced = FENCED.match(body)
    body = fenced[1] if fenced else body
    try:
        return _all(body), ""
    except (ValueError, RecursionError):
        pass
    for name, repair in REPAIRS.items():
        try:
            return _all(repair(body)), name
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    raise ValueError("no JSON, and no certain way to make it some")


def outside_strings(text: str, word: str, at: int = 0) -> int:
    """The first place of a word that is not within a JSON string; -1 where there is none."""
    while True:
        found, quote = text.find(word, at), text.find('"', at)
        if found < 0 or quote < 0 or found < quote:
            return found
        string = STRING.match(text, quote)
        if string is None:
            return -1
        at = string.end()


def _all(body: str) -> list[object]:
    return list(_in_a_row(body))


def _in_a_row(body: str) -> Iterator[object]:
    at = len(body) - len(body.lstrip())
    while at < len(body):
        found, at = decode(body, at)
        yield found
        rest = body[at:].lstrip(" \t\r\n,;")
        at = len(body) - len(rest)


def _without_trailing_commas(body: str) -> str:
    return TRAILING_COMMA.sub(lambda match: match[1] or "", body)


def _escaped(body: str) -> str:
    """Backslashes that begin no escape doubled, where no other escape leaves a doubt."""
    if DOUBTFUL_ESCAPE.search(re.sub(r"\\\\", "", body)):
        raise ValueError("which backslashes were meant as escapes is not certain")
    return ESCAPE.sub(lambda match: match[0] if match[1] in '"\\/' else f"\\\\{match[1]}", body)


def _closed(body: str) -> str:
    """Return the text with the brackets closed that are open at its end, and without those that
    close nothing.

    Brackets in strings are text: the text is split into strings, brackets and the rest.
    """
    kept, open_ones = "", []
    for piece in re.split(r'("(?:[^"\\]|\\.)*"|[{}\[\]])', body, flags=re.DOTALL):
        if piece in PAIRS:
            open_ones.append(PAIRS[piece])
        elif piece in {"}", "]"}:
            if not open_ones:
                continue
            if open_ones.pop() != piece:
                raise ValueError("brackets cross")
        kept += piece
    return kept.rstrip() + "".join(reversed(open_ones))


class _Literals(ast.NodeTransformer):
    """JSON's names among Python's literals."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(
            ast.Constant({"true": True, "false": False, "null": None}[node.id]), node
        )


def _from_python(body: str) -> str:
    """A Python literal as JSON.

    Raises `ValueError`, `SyntaxError` where it is none, or where JSON would mean something else by
    it.
    """
    if TWO_STRINGS.search(STRING_OF_PYTHON.sub("S", body)) or "\\/" in body:
        raise ValueError("what Python makes one string of may not be one")
    try:
        tree = _Literals().visit(ast.parse(body.strip(), mode="eval"))
    except KeyError as error:
        raise ValueError("a name that is no literal") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict) and len({ast.dump(key) for key in node.keys if key}) < len(
            node.keys
        ):
            raise ValueError("a key has two values")
    return json.dumps(ast.literal_eval(tree), ensure_ascii=False, allow_nan=False)


REPAIRS: dict[str, Callable[[str], str]] = {
    "trailing comma": _without_trailing_commas,
    "backslash": _escaped,
    "brackets": _closed,
    "single quotes": _from_python,
}


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object.

    Raises `ValueError` for a key with two different values: which one was meant is not certain.
    """
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise ValueError(f"two values for {key!r}")
        found[key] = value
    return found


def _refused(name: str) -> object:
    raise ValueError(f"JSON has no {name}")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refused, strict=False)
