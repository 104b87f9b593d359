"""Calls whose arguments stand one by one between tags, as text: Qwen3-Coder, GLM, MiniMax,
Seed-OSS, DeepSeek's DSML and others.

Nothing is escaped in these formats, so a value may hold any of their tags. A call is therefore read
when the answer is over, and of all the ways in which its text can be divided the most likely one
counts: see `Costs`. Where two are as likely, there is no call.
"""

import heapq
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence

import attrs

from semantic_trio.adapters.text.formats.tagged_arguments import TaggedArguments
from semantic_trio.adapters.text.formats.tags import LONGEST_TAG, NAME, Tags, name_of, typed_schema
from semantic_trio.adapters.text.formats.typed import Schema, properties, types_of, value
from semantic_trio.adapters.text.syntax import Begun, CallsRead, Ending
from semantic_trio.domain.conversation import Tool

# Ways of dividing a call that are looked at: more than any but a text made of tags alone has.
MOST_WAYS = 4_000


class Costs:
    """Signs that a text was divided wrongly, by their weight."""

    ODD_END = 1  # a value ends without the blanks that it began with
    NO_END = 1  # the section, or a value right before the call's end, has no end tag
    MISSING = 1  # of an argument that the schema requires
    UNKNOWN = 2  # an argument that the schema does not know
    ODD_SKIP = 2  # tags that end a value but for its blanks are part of it
    SKIP = 3  # tags that end a value are part of it
    NESTED_END = 3  # a call that a value seems to contain is not closed in it
    OTHER_TYPE = 9  # a value is nothing that its schema allows


@attrs.frozen
class _Way:
    """A beginning of a section, divided."""

    cost: int
    at: int  # up to where
    calls: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = ()
    is_open: bool = False  # the last call has not ended
    is_over: bool = False  # the section has
    is_broken: bool = False  # an argument occurs twice
    repair: str = ""


@attrs.frozen(slots=False)
class TaggedCalls(Tags):
    """Calls between tags."""

    @property
    def delimiters(self) -> tuple[str, ...]:
        """See `ToolSyntax.delimiters`."""
        return (self.call_end, self.argument_end)

    @property
    def fronts(self) -> tuple[str, ...]:
        """See `ToolSyntax.fronts`."""
        return ()

    @property
    def openings(self) -> tuple[str, ...]:
        """See `ToolSyntax.openings`.

        Models leave the first tag out at times; then the tool has to be an offered one.
        """
        return (self.start, self.lead) if self.lead and self.lead != self.start else (self.start,)

    def read(self, text: str, tools: Sequence[Tool], ending: Ending) -> CallsRead | None:
        """See `ToolSyntax.read`."""
        has_start = text.startswith(self.start)
        at = len(self.start) if has_start and self.start != self.lead else 0
        if not self._begins(text[at:], None if has_start else tools):
            return CallsRead((), len(self.start) if has_start else len(self.lead))
        if ending is Ending.OPEN:
            return None
        known = {tool.name: properties(tool) for tool in tools}
        way = _Search(self, text, known, ending).best(at)
        if way is None or not (has_start or all(name in known for name, _ in way.calls)):
            return CallsRead((), len(text))
        calls = [(name, json.dumps(dict(given), ensure_ascii=False)) for name, given in way.calls]
        return CallsRead(tuple(calls), way.at, way.repair)

    def begun(self, text: str, tools: Sequence[Tool], behind: int = 0) -> Begun | None:
        """See `ToolSyntax.begun`. The call has begun when its first argument has."""
        if not text.startswith(self.start):
            return None
        at = 0 if self.start == self.lead else len(self.start)
        call = self.call.match(text, _behind_blanks(text, at))
        if call is None:
            return None
        at = _behind_blanks(text, call.end())
        if self.argument.match(text, at, at + LONGEST_TAG) is None:
            return None
        tool = next((tool for tool in tools if tool.name == name_of(call)), None)
        return None if tool is None else Begun(tool.name, call.end(), TaggedArguments(self, tool))

    def _begins(self, rest: str, tools: Sequence[Tool] | None) -> bool:
        """False where a text cannot become a call any more; with tools: a call of one of them."""
        rest = rest.lstrip()
        if not rest.startswith(self.lead):
            return self.lead.startswith(rest)
        name = rest[len(self.lead) : len(self.lead) + 200].lstrip("\"'")
        if tools is not None and not any(
            name.startswith(tool.name) or tool.name.startswith(name) for tool in tools
        ):
            return False
        return (
            bool(self.lead) or re.match(rf"(?:{NAME})?\s*(?:<.*)?\Z", name, re.DOTALL) is not None
        )


@attrs.define
class _Search:
    """The search for the most likely way to divide one text."""

    _format: Tags
    _text: str
    _known: Mapping[str, tuple[Schema, dict[str, Schema]]]
    _ending: Ending
    _order: "itertools.count[int]" = attrs.field(init=False, factory=itertools.count)

    def best(self, at: int) -> _Way | None:
        """The cheapest way, as far as it is certain; None where there is none.

        Dijkstra's search over ways, cheapest first. After the first complete way it goes on through
        the others of the same cost: if one of them has other calls, nothing is certain.
        """
        heap = [(0, next(self._order), _Way(0, at))]
        found: _Way | None = None
        for _ in range(MOST_WAYS):
            if not heap or (found is not None and heap[0][0] > found.cost):
                return (
                    None if found is None or found.is_broken or self._is_doubtful(found) else found
                )
            way = heapq.heappop(heap)[2]
            if not way.is_over:
                for more in self._steps(way):
                    heapq.heappush(heap, (more.cost, next(self._order), more))
            elif found is None:
                found = way
            elif way.is_broken or way.calls != found.calls:
                return None
        return None

    def _is_doubtful(self, way: _Way) -> bool:
        """True if a value holds the beginning of an argument that is missing: then the end of the
        value may have been left out.
        """
        for name, given in way.calls:
            missing = {*self._known.get(name, ({}, {}))[1]} - {*dict(given)}
            for _, read in given:
                text = read if isinstance(read, str) else ""
                openings = (
                    match
                    for match in self._format.argument.finditer(text)
                    if self._format.argument_end not in text[match.end() :]
                )
                if any(
                    name_of(match) in missing and self._is_padded(text, match) for match in openings
                ):
                    return True
        return False

    def _is_padded(self, text: str, opening: "re.Match[str]") -> bool:
        """True if the beginning of an argument stands as the format has it."""
        return not any(left == "\n" for left, _ in self._format.pads) or (
            text[opening.start() - 1 : opening.start()] == "\n"
        )

    def _steps(self, way: _Way) -> Iterator[_Way]:
        at = _behind_blanks(self._text, way.at)
        if not way.is_open:
            yield from self._between(way, at)
            return
        if self._text.startswith(self._format.call_end or self._format.end, at):
            end = at + len(self._format.call_end)
            yield from self._priced(attrs.evolve(way, at=end, is_open=False))
            return
        if self._format.end and self._text.startswith(self._format.end, at):
            yield from self._priced(
                attrs.evolve(
                    way, at=at, is_open=False, cost=way.cost + Costs.NO_END, repair="end tag"
                )
            )
        argument = self._format.argument.match(self._text, at)
        if argument is not None:
            yield from self._arguments(way, argument)

    def _between(self, way: _Way, at: int) -> Iterator[_Way]:
        """Read what follows a call: another call, or the end."""
        text, form = self._text, self._format
        has_room = form.call_end or not way.calls
        call = form.call.match(text, at) if has_room else None
        if call is not None:
            yield attrs.evolve(
                way, at=call.end(), calls=(*way.calls, (name_of(call), ())), is_open=True
            )
        elif way.calls and form.end and text.startswith(form.end, at):
            yield from self._after_section(attrs.evolve(way, at=at + len(form.end)))
        elif way.calls and not form.end:
            yield from self._over(way)
        elif way.calls and at == len(text) and self._ending is Ending.TURN:
            yield attrs.evolve(
                way, at=at, is_over=True, cost=way.cost + Costs.NO_END, repair="end tag"
            )

    def _after_section(self, way: _Way) -> Iterator[_Way]:
        again = _behind_blanks(self._text, way.at)
        if self._text.startswith(self._format.start, again):
            inner = _behind_blanks(self._text, again + len(self._format.start))
            call = self._format.call.match(self._text, inner)
            if call is not None:
                yield attrs.evolve(
                    way, at=call.end(), calls=(*way.calls, (name_of(call), ())), is_open=True
                )
                return
        yield from self._over(way)

    def _over(self, way: _Way) -> Iterator[_Way]:
        """The end, where what follows does not say that it came too early; in an answer that was
        cut the last call is not certain.
        """
        rest = self._text[way.at :]
        orphan = re.search(rf"{re.escape(self._format.argument_end)}\s*(?:{self._closing})", rest)
        if orphan is None and self._ending is Ending.TURN:
            yield attrs.evolve(way, is_over=True)

    def _arguments(self, way: _Way, argument: "re.Match[str]") -> Iterator[_Way]:
        (name, given), key = way.calls[-1], name_of(argument)
        if key in dict(given):
            yield attrs.evolve(way, is_over=True, is_broken=True)
            return
        _, schemas = self._known.get(name, ({}, {}))
        cost = way.cost + (Costs.UNKNOWN if schemas and key not in schemas else 0)
        for extra, start, end, after, repair in self._values(argument.end()):
            read, fits = self._value(name, key, argument, self._text[start:end])
            calls = (*way.calls[:-1], (name, (*given, (key, read))))
            # Tags within an array or an object are surely part of its texts.
            price = (
                0 if isinstance(read, dict | list) else extra if fits else extra + Costs.OTHER_TYPE
            )
            yield attrs.evolve(
                way, cost=cost + price, at=after, calls=calls, repair=repair or way.repair
            )

    def _values(self, start: int) -> Iterator[tuple[int, int, int, int, str]]:
        """The ways in which a value may end: what that costs, the bounds of the value, where to go
        on, a repair.
        """
        form, text = self._format, self._text
        left, right = form.pad(text, start)
        skipped, skipped_nested, depth, seen, has_tags = 0, 0, 0, start, False
        for match in re.finditer(
            f"{re.escape(form.argument_end)}(?=\\s*(?:{self._closing}))", text[start:]
        ):
            end, after = start + match.start(), start + match.end()
            depth = max(0, depth + self._nesting(seen, end))
            seen, has_tags = end, True
            is_odd = not text.endswith(right, start, end) or end - len(right) < start + len(left)
            price = (
                skipped
                + (Costs.ODD_END if is_odd else 0)
                + (Costs.NESTED_END + skipped_nested if depth else 0)
            )
            yield price, start + len(left), end if is_odd else end - len(right), after, ""
            skip = Costs.ODD_SKIP if is_odd else Costs.SKIP
            skipped, skipped_nested = (
                (skipped, skipped_nested + skip) if depth else (skipped + skip, skipped_nested)
            )
        if not has_tags:
            yield from self._unended(start, left, right)

    def _unended(
        self, start: int, left: str, right: str
    ) -> Iterator[tuple[int, int, int, int, str]]:
        """The last value, where its end tag was left out and nothing but the end of the call can
        follow it.
        """
        form, text = self._format, self._text
        if not (form.call_end and form.end):
            return
        match = re.compile(rf"{re.escape(form.call_end)}\s*{re.escape(form.end)}\s*\Z").search(
            text, start
        )
        if (
            match is None
            or form.argument_end in text[start:]
            or form.argument.search(text, start)
            or self._nesting(start, match.start())
        ):
            return
        end = match.start()
        is_padded = text.endswith(right, start + len(left), end)
        yield (
            Costs.NO_END,
            start + len(left),
            end - len(right) if is_padded else end,
            end,
            "end tag",
        )

    def _nesting(self, start: int, end: int) -> int:
        """Calls that begin between two places, less those that end there."""
        form = self._format
        return sum(1 for _ in form.nested.finditer(self._text, start, end)) - self._text.count(
            form.call_end or form.end, start, end
        )

    def _value(
        self, name: str, key: str, argument: "re.Match[str]", raw: str
    ) -> tuple[object, bool]:
        """A value; False where it is a text although the schema allows none."""
        root, schemas = self._known.get(name, ({}, {}))
        schema = typed_schema(argument, schemas.get(key, {}))
        read = value(raw, schema, root)
        return read, not isinstance(read, str) or "string" in types_of(schema, root)

    def _priced(self, way: _Way) -> Iterator[_Way]:
        """A call that has ended, with the price of what it lacks."""
        name, given = way.calls[-1]
        root, _ = self._known.get(name, ({}, {}))
        required = root.get("required")
        missing = (
            {one for one in required if isinstance(one, str)} - {*dict(given)}
            if isinstance(required, list)
            else set()
        )
        yield attrs.evolve(way, cost=way.cost + Costs.MISSING * len(missing))

    @property
    def _closing(self) -> str:
        """Pattern of what may follow an argument."""
        form = self._format
        again = f"{form.call.pattern}" if form.call_end else "(?!)"
        behind = f"{re.escape(form.end)}|{again}|\\Z" if form.end else "|\\Z"
        closed = (
            rf"{re.escape(form.call_end)}\s*(?:{behind})|{re.escape(form.end)}"
            if form.call_end
            else re.escape(form.end)
        )
        return f"{form.argument.pattern}|{closed}"


def _behind_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
