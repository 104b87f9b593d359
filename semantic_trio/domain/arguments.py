"""Arguments of a call while the model writes them: JSON read piece by piece, written as the whole
call will have it.

Knows JSON. Knows nothing of calls or of their formats.
"""

import enum
import json
import re
from collections.abc import Iterator

import attrs

BLANKS = " \t\r\n"
KEY = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
PLAIN = re.compile(r'[^"\\]+')
ESCAPE = re.compile(r"\\(?:[\"\\/bfnrt]|u[0-9a-fA-F]{4})")
ESCAPE_BEGUN = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
# A character beyond 16 bits is written as two escapes: neither means anything without the other.
HIGH_HALF = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
PAIR = re.compile(HIGH_HALF + r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
PAIR_BEGUN = re.compile(HIGH_HALF + r"(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?")
HALF = re.compile("[\ud800-\udfff]")
SCALAR = re.compile(r"[^\s,:\"{}\[\]]+")


class _Next(enum.Enum):
    """The part of the text that comes next."""

    OBJECT = enum.auto()  # the arguments
    FIRST_KEY = enum.auto()
    KEY = enum.auto()
    COLON = enum.auto()
    FIRST_ITEM = enum.auto()
    VALUE = enum.auto()
    STRING = enum.auto()  # more of a string
    COMMA = enum.auto()  # or the end of what is open
    NOTHING = enum.auto()  # the arguments have ended, or what follows is not certain


@attrs.define(eq=False)
class ArgumentsWriter:
    """The beginning of `json.dumps(arguments, ensure_ascii=False)`, as far as the text read so far
    makes it certain.

    The brace that closes the arguments is never written: what is written is JSON only once the call
    is known to be whole. From the first character that JSON does not allow, and from a second value
    for one key, nothing more is written.
    """

    _rest: str = ""  # read, but not certain yet
    _next: _Next = _Next.OBJECT
    # of each open object its keys; None: a list
    _open: list[set[str] | None] = attrs.field(init=False, factory=list)
    _front: str = ""  # written before the next value or key: a comma, or the opening brace
    _key: str = ""
    _is_whole: bool = False  # the brace that closes the arguments was read

    @property
    def unread(self) -> int | None:
        """Characters behind the arguments; None while they have not ended, or where they are not
        certain.
        """
        return len(self._rest) if self._is_whole else None

    def push(self, text: str) -> str:
        """Read more of the text.

        Returns what it adds to the arguments; nothing before the first key is whole.
        """
        self._rest += text
        return "".join(self._pieces())

    def _pieces(self) -> Iterator[str]:
        piece: str | None = ""
        while piece is not None:
            yield piece
            piece = None if self._next is _Next.NOTHING else self._step()

    def _step(self) -> str | None:
        """Return text that is certain by now, perhaps none; None where more has to be read.

        A state machine: `_next` says what may follow, and each branch sets it anew.
        """
        if self._next is not _Next.STRING:
            self._rest = self._rest.lstrip(BLANKS)
        if not self._rest:
            return None
        match self._next:
            case _Next.OBJECT | _Next.COLON | _Next.COMMA:
                return self._punctuation()
            case _Next.FIRST_KEY | _Next.KEY:
                return self._read_key()
            case _Next.STRING:
                return self._string()
        return self._value()

    def _punctuation(self) -> str | None:
        letter, wanted = (
            self._rest[0],
            {_Next.OBJECT: "{", _Next.COLON: ":", _Next.COMMA: ","}[self._next],
        )
        if self._next is _Next.COMMA and letter != ",":
            return self._closed()
        if letter != wanted:
            return self._stopped()
        if self._next is _Next.OBJECT:
            return self._opened("{", "{")
        self._rest = self._rest[1:]
        if letter == ",":
            self._next, self._front = _Next.VALUE if self._open[-1] is None else _Next.KEY, ", "
            return ""
        self._next = _Next.VALUE
        return f"{self._key}: "

    def _opened(self, bracket: str, front: str = "") -> str:
        """Begin an object or a list; `front` is not written before its first key is known."""
        self._rest, self._front = self._rest[1:], front
        self._open.append(set() if bracket == "{" else None)
        self._next = _Next.FIRST_KEY if bracket == "{" else _Next.FIRST_ITEM
        return "" if front else bracket

    def _closed(self) -> str | None:
        """The end of what was opened last."""
        bracket = "]" if self._open[-1] is None else "}"
        if self._rest[0] != bracket:
            return self._stopped()
        self._rest = self._rest[1:]
        self._open.pop()
        self._is_whole = not self._open
        self._next = _Next.COMMA if self._open else _Next.NOTHING
        return bracket if self._open else None

    def _read_key(self) -> str | None:
        if self._next is _Next.FIRST_KEY and self._rest[0] == "}":
            return self._closed()
        found = KEY.match(self._rest)
        if found is None:
            return None if self._rest[0] == '"' else self._stopped()
        try:
            key = json.loads(found[0], strict=False)
        except ValueError:
            return self._stopped()
        keys = self._open[-1]
        assert keys is not None  # a key is read within an object alone
        if key in keys or HALF.search(key):
            return self._stopped()
        keys.add(key)
        self._rest, self._next = self._rest[found.end() :], _Next.COLON
        self._key, self._front = self._front + _quoted(key), ""
        return ""

    def _value(self) -> str | None:
        letter, front = self._rest[0], self._front
        if self._next is _Next.FIRST_ITEM and letter == "]":
            return self._closed()
        if letter in "{[":
            return front + self._opened(letter)
        if letter == '"':
            self._rest, self._next, self._front = self._rest[1:], _Next.STRING, ""
            return f'{front}"'
        return self._scalar(front)

    def _scalar(self, front: str) -> str | None:
        """A number, true, false or null, once it has ended."""
        found = SCALAR.match(self._rest)
        if found is not None and found.end() == len(self._rest):
            return None
        try:
            written = json.dumps(json.loads(found[0] if found else ""), allow_nan=False)
        except ValueError:
            return self._stopped()
        self._rest, self._next, self._front = (
            self._rest[len(found[0] if found else "") :],
            _Next.COMMA,
            "",
        )
        return front + written

    def _string(self) -> str | None:
        plain = PLAIN.match(self._rest)
        if plain is not None:
            self._rest = self._rest[plain.end() :]
            return _quoted(plain[0])[1:-1]
        if self._rest[0] == '"':
            self._rest, self._next = self._rest[1:], _Next.COMMA
            return '"'
        return self._escaped()

    def _escaped(self) -> str | None:
        found = PAIR.match(self._rest) or ESCAPE.match(self._rest)
        if found is None:
            return None if ESCAPE_BEGUN.fullmatch(self._rest) else self._stopped()
        if PAIR_BEGUN.fullmatch(self._rest):
            return None
        self._rest = self._rest[found.end() :]
        return _quoted(HALF.sub("\ufffd", json.loads(f'"{found[0]}"')))[1:-1]

    def _stopped(self) -> str | None:
        """Write nothing more: how this goes on is not certain."""
        self._next = _Next.NOTHING
        return None


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
