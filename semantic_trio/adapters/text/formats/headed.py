"""Calls as a name in a header and arguments as JSON behind it: Mistral, DeepSeek V3 and V3.1, Kimi
K2, Hunyuan.
"""

import re
from collections.abc import Sequence

import attrs

from semantic_trio.adapters.text.formats.json_calls import (
    BEFORE_ARGUMENTS,
    arguments,
    begun_object,
    call,
)
from semantic_trio.adapters.text.formats.lenient import (
    decode,
    outside_strings,
    values,
)
from semantic_trio.adapters.text.formats.unfinished import UnfinishedError
from semantic_trio.adapters.text.syntax import Begun, CallsRead, Ending
from semantic_trio.domain.conversation import Tool

NAME = re.compile(r"\s*(?:\Z|\[|[^\s\[\]{}<>\"'`]+(?:\Z|\s*[\[{]|\s*\Z))")


@attrs.frozen
class HeadedCalls:
    """Heads with names, JSON objects behind them, in a section of their own or up to the end of the
    turn.
    """

    format: str
    start: str
    end: str
    head: re.Pattern[str]  # from a call's beginning to its arguments; group 1: the name
    tail: str = ""  # what every call ends with
    before_tail: str = ""  # what may stand between the arguments and it
    lead: str = ""  # what every head begins with
    # a list of objects with names and arguments may stand in place of heads
    has_lists: bool = False
    delimiters: tuple[str, ...] = ()

    @property
    def fronts(self) -> tuple[str, ...]:
        """See `ToolSyntax.fronts`."""
        return ()

    @property
    def openings(self) -> tuple[str, ...]:
        """See `ToolSyntax.openings`.

        Models leave the section's beginning out at times; then the tool has to be an offered one.
        """
        return (self.start, self.lead) if self.lead else (self.start,)

    def read(self, text: str, tools: Sequence[Tool], ending: Ending) -> CallsRead | None:
        """See `ToolSyntax.read`."""
        has_start = text.startswith(self.start)
        at = len(self.start) if has_start else 0
        if not self._begins(text[at:]):
            return CallsRead((), len(self.start) if has_start else len(self.lead))
        if ending is Ending.OPEN and not (self.end and self.end in text):
            return None
        calls, used, repair, is_unfinished = self._calls(text, at)
        if ending is Ending.OPEN and (is_unfinished or not self._is_ended(text, used)):
            return (
                None
                if outside_strings(text, self.end, at) < 0 or is_unfinished
                else self._refused(text, at)
            )
        offered = {tool.name for tool in tools}
        if not calls or not (has_start or all(name in offered for name, _ in calls)):
            return (
                self._refused(text, at)
                if ending is not Ending.CUT and not is_unfinished
                else CallsRead((), len(text))
            )
        return CallsRead(tuple(calls), self._behind(text, used), repair)

    def begun(self, text: str, tools: Sequence[Tool], behind: int = 0) -> Begun | None:
        """See `ToolSyntax.begun`."""
        at = len(self.start) if text.startswith(self.start) else 0
        if self.has_lists and text[at:].lstrip().startswith("["):
            return begun_object(text, behind or at, tools, BEFORE_ARGUMENTS[behind > 0])
        tail = self._tail_pattern.match(text, behind) if behind else None
        head = self.head.match(text, tail.end() if tail else at) if tail or not behind else None
        if (
            head is None
            or not text.startswith("{", head.end())
            or all(tool.name != head[1] for tool in tools)
        ):
            return None
        return Begun(head[1], head.end())

    @property
    def _tail_pattern(self) -> re.Pattern[str]:
        """All that may stand between the end of a call's arguments and the end of the call."""
        before = rf"(?:\s*{re.escape(self.before_tail)})?" if self.before_tail else ""
        return re.compile(rf"{before}\s*{re.escape(self.tail)}")

    def _refused(self, text: str, at: int) -> CallsRead:
        """Text up to the end of the section."""
        end = outside_strings(text, self.end, at) if self.end else -1
        return CallsRead((), len(text) if end < 0 else end + len(self.end))

    def _begins(self, rest: str) -> bool:
        """False where a text cannot become a call any more."""
        rest = rest.lstrip()
        if self.has_lists and rest.startswith("["):
            return True
        if self.lead:
            return rest.startswith(self.lead) or self.lead.startswith(rest)
        return NAME.match(rest[:200]) is not None

    def _calls(self, text: str, at: int) -> tuple[list[tuple[str, str]], int, str, bool]:
        """The whole calls in a row, where the last ends, how they were mended, and whether the text
        ends within another one.
        """
        calls, repair, used = list[tuple[str, str]](), "", at
        try:
            if self.has_lists and text[at:].lstrip().startswith("["):
                array, used = decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
                return (
                    [call(one) for one in (array if isinstance(array, list) else [array])],
                    used,
                    "",
                    False,
                )
            while (head := self.head.match(text, used)) is not None:
                given, end, mended = self._arguments(text, head.end())
                calls.append((head[1], given))
                used, repair = end, mended or repair
        except UnfinishedError:
            return calls, used, repair, True
        except (ValueError, RecursionError):
            pass
        return calls, used, repair, False

    def _arguments(self, text: str, at: int) -> tuple[str, int, str]:
        """The arguments that begin at a place, where the call ends, and how they were mended.

        Raises `ValueError`.
        """
        if self.tail and text.startswith(self.tail, at):
            return "{}", at + len(self.tail), ""
        try:
            found, end = decode(text, at)
            repair, tail = "", self._tail(text, end)
        except UnfinishedError:
            raise
        except ValueError:
            cut = outside_strings(text, self.tail, at) if self.tail else -1
            if cut < 0:
                raise
            body = text[at:cut].rstrip()
            parsed, repair = values(
                body.removesuffix(self.before_tail) if self.before_tail else body
            )
            if len(parsed) != 1:
                raise
            found, tail = parsed[0], cut + len(self.tail)
        return arguments(found), tail, repair

    def _tail(self, text: str, at: int) -> int:
        """Return the end of a call whose arguments end at a place.

        Raises `UnfinishedError`, `ValueError`.
        """
        if not self.tail:
            return at
        found = self._tail_pattern.match(text, at)
        if found is not None:
            return found.end()
        rest = text[at:].strip().removeprefix(self.before_tail).lstrip()
        raise (
            UnfinishedError("no tail yet") if self.tail.startswith(rest) else ValueError("no tail")
        )

    def _is_ended(self, text: str, at: int) -> bool:
        return text[at:].lstrip().startswith(self.end)

    def _behind(self, text: str, at: int) -> int:
        """The place behind the section's end, where that follows."""
        rest = text[at:].lstrip()
        if self.end and rest.startswith(self.end):
            return len(text) - len(rest) + len(self.end)
        return len(text) if self.end and self.end.startswith(rest) else at
