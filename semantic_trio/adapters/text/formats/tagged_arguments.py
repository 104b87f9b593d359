"""Arguments between tags while the model writes them, as the JSON that the whole call will have.

Knows tags and schemas. Knows nothing of whole calls: `TaggedCalls` reads those, and has the last
word.
"""

import enum
import functools
import json
import re

import attrs

from semantic_trio.adapters.text.formats.tags import LONGEST_TAG, Tags, name_of, typed_schema
from semantic_trio.adapters.text.formats.typed import Schema, properties, types_of, value
from semantic_trio.domain.conversation import Tool
from semantic_trio.domain.stopping import begun


class _Tag(enum.Enum):
    """The meaning of a tag that stands in a value."""

    PART = enum.auto()  # it is part of the value, however the call goes on
    UNREAD = enum.auto()  # that depends on what follows
    BORDER = enum.auto()  # the value ends here, and another argument follows
    LAST = enum.auto()  # that is certain only when the call has ended


@attrs.define
class _Value:
    """The value that is being read."""

    schema: Schema
    is_text: bool  # its type is surely a string
    right: str  # what stands behind it and is no part of it
    is_plain: bool = True  # it holds no tag
    # of a value that is no text: its characters
    _read: list[str] = attrs.field(init=False, factory=list)

    def take(self, text: str) -> str:
        """Read more of the value. Returns what it adds to the arguments."""
        if self.is_text:
            return json.dumps(text, ensure_ascii=False)[1:-1]
        self._read.append(text)
        return ""

    def end(self, root: Schema) -> str | None:
        """Return the rest of what the value adds to the arguments; None where its schema does not
        allow it.
        """
        if self.is_text:
            return '"'
        read = value("".join(self._read), self.schema, root)
        fits = not isinstance(read, str) or "string" in types_of(self.schema, root)
        return json.dumps(read, ensure_ascii=False) if fits else None


@attrs.define(eq=False)
class TaggedArguments:
    """The beginning of a call's arguments, as far as it is certain.

    All before the first tag that may end a value is part of it, however the call goes on. Behind
    such a tag the next argument begins if the value holds no tag of the format, ends as it began,
    and an argument of the tool follows that was not written yet. Else nothing more is written.
    """

    _tags: Tags
    _tool: Tool
    _rest: str = attrs.field(init=False, default="")  # read, but not certain yet
    _names: set[str] = attrs.field(init=False, factory=set)  # of the arguments that have begun
    _value: _Value | None = attrs.field(init=False, default=None)
    _is_over: bool = attrs.field(init=False, default=False)  # nothing more is written

    @property
    def unread(self) -> int | None:
        """See `Writer.unread`. The last value has ended only when the call has."""
        return None

    def push(self, text: str) -> str:
        """Read more of the text. Returns what it adds to the arguments."""
        self._rest += text
        written = []
        while not self._is_over and (piece := self._step()) is not None:
            written.append(piece)
        return "".join(written)

    def _step(self) -> str | None:
        """Text that is certain by now, perhaps none; None where more has to be read."""
        return self._opened() if self._value is None else self._more(self._value)

    def _opened(self) -> str | None:
        """The beginning of an argument."""
        self._rest = self._rest.lstrip()
        argument = self._tags.argument.match(self._rest)
        if argument is None:
            return None
        if not self._may_follow(argument):
            return self._stopped()
        behind = self._rest[argument.end() :]
        if any(left.startswith(behind) and left != behind for left, _ in self._tags.pads):
            return None
        name, (left, right) = name_of(argument), self._tags.pad(behind, 0)
        schema = typed_schema(argument, self._schemas[1].get(name, {}))
        self._value = _Value(schema, types_of(schema, self._schemas[0]) == {"string"}, right)
        front, quote = ", " if self._names else "{", '"' if self._value.is_text else ""
        self._names.add(name)
        self._rest = behind[len(left) :]
        return f"{front}{json.dumps(name, ensure_ascii=False)}: {quote}"

    def _more(self, read: _Value) -> str | None:
        """Return the JSON of more of a value, or of its end; None if neither has come."""
        tag = self._stops.search(self._rest)
        if tag is None:
            words = (self._tags.argument_end, self._closing, self._tags.argument_lead)
            held = max(
                begun(self._rest, text) for word in words for text in (word, read.right + word)
            )
            return self._taken(read, len(self._rest) - held)
        match self._meaning(tag):
            case _Tag.PART:
                read.is_plain = False
                return self._taken(read, tag.end())
            case _Tag.BORDER if self._is_whole(read, tag.start()):
                return self._ended(read, tag)
            case _Tag.UNREAD:
                return self._taken(read, self._end(read, tag.start()))
        piece = self._taken(read, self._end(read, tag.start()))
        self._stopped()
        return piece

    def _taken(self, read: _Value, size: int) -> str | None:
        """The first characters of what was read, as part of the value."""
        text, self._rest = self._rest[:size], self._rest[size:]
        return read.take(text) if text else None

    def _ended(self, read: _Value, tag: "re.Match[str]") -> str | None:
        """The rest of a value."""
        piece = read.take(self._rest[: self._end(read, tag.start())])
        closed = read.end(self._schemas[0])
        if closed is None:
            return self._stopped()
        self._rest, self._value = self._rest[tag.end() :], None
        return piece + closed

    def _end(self, read: _Value, at: int) -> int:
        """The end of a value whose tag begins at a place."""
        return at - len(read.right) if self._rest.endswith(read.right, 0, at) else at

    def _is_whole(self, read: _Value, at: int) -> bool:
        """True if a value surely ends with the tag at a place."""
        return read.is_plain and self._rest.endswith(read.right, 0, at)

    def _meaning(self, tag: "re.Match[str]") -> _Tag:
        if tag[0] == self._tags.argument_end:
            return self._meaning_of_end(self._rest[tag.end() :].lstrip())
        if tag[0] == self._closing:
            return self._meaning_of_closing(self._rest[tag.end() :].lstrip())
        argument = self._tags.argument.match(self._rest, tag.start(), tag.start() + LONGEST_TAG)
        if argument is None:
            return _Tag.UNREAD if len(self._rest) - tag.start() < LONGEST_TAG else _Tag.PART
        # an end may have been left out
        return _Tag.LAST if self._may_follow(argument) else _Tag.PART

    def _meaning_of_end(self, behind: str) -> _Tag:
        """The meaning of a tag that ends an argument, by what stands behind it."""
        argument = self._tags.argument.match(behind, 0, LONGEST_TAG)
        if argument is not None:
            return _Tag.BORDER if self._may_follow(argument) else _Tag.LAST
        words = [
            word for word in (self._tags.argument_lead, self._tags.call_end, self._tags.end) if word
        ]
        if any(behind.startswith(word) for word in words):
            return _Tag.UNREAD if len(behind) < LONGEST_TAG else _Tag.LAST
        return _Tag.UNREAD if any(word.startswith(behind) for word in words) else _Tag.PART

    def _meaning_of_closing(self, behind: str) -> _Tag:
        """The meaning of a tag that ends a call: the value may lack its own end, and that of the
        section follows.
        """
        if not self._tags.call_end:
            return _Tag.PART
        if behind.startswith(self._tags.end):
            return _Tag.LAST
        return _Tag.UNREAD if self._tags.end.startswith(behind) else _Tag.PART

    def _may_follow(self, argument: "re.Match[str]") -> bool:
        """True for an argument of the tool that was not written yet."""
        is_known = name_of(argument) in self._schemas[1] or any(argument.groupdict().values())
        return is_known and name_of(argument) not in self._names

    def _stopped(self) -> str | None:
        """Write nothing more: how this goes on is not certain."""
        self._is_over, self._rest = True, ""
        return None

    @functools.cached_property
    def _schemas(self) -> tuple[Schema, dict[str, Schema]]:
        return properties(self._tool)

    @functools.cached_property
    def _stops(self) -> re.Pattern[str]:
        return re.compile(
            "|".join(
                map(re.escape, (self._tags.argument_end, self._closing, self._tags.argument_lead))
            )
        )

    @property
    def _closing(self) -> str:
        """The tag that ends a call."""
        return self._tags.call_end or self._tags.end
