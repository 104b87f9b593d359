"""Formats that only a parser from elsewhere reads: text between two delimiters is handed to it."""

import json
from collections.abc import Callable, Iterable, Sequence

import attrs

from semantic_trio.adapters.text.syntax import Begun, CallsRead, Ending
from semantic_trio.domain.conversation import Tool

# Names and arguments (JSON, of an object) of the calls in a text. Raises anything at all for what
# is none.
Parse = Callable[[str, Sequence[Tool]], Iterable[tuple[str, str]]]


@attrs.frozen
class ForeignCalls:
    """Whatever a parser makes of the text between `start` and `end`."""

    format: str
    start: str
    end: str
    _parse: Parse

    @property
    def openings(self) -> tuple[str, ...]:
        """See `ToolSyntax.openings`."""
        return (self.start,)

    @property
    def delimiters(self) -> tuple[str, ...]:
        """See `ToolSyntax.delimiters`."""
        return ()

    @property
    def fronts(self) -> tuple[str, ...]:
        """See `ToolSyntax.fronts`."""
        return ()

    def read(self, text: str, tools: Sequence[Tool], ending: Ending) -> CallsRead | None:
        """See `ToolSyntax.read`.

        The end may stand within a string of JSON: then the parser complains of a string without an
        end.
        """
        at = text.find(self.end, len(self.start)) if self.end else -1
        while at >= 0:
            try:
                calls = tuple(self._parse(text[len(self.start) : at], tools))
            except Exception as error:  # noqa: BLE001 - parsers of many hands; whatever they raise, it is no call
                calls = ()
                if isinstance(error, json.JSONDecodeError) and error.msg.startswith(
                    "Unterminated string"
                ):
                    at = text.find(self.end, at + 1)
                    continue
            return CallsRead(calls, at + len(self.end))
        return None if ending is Ending.OPEN else self._unended(text, tools)

    def begun(self, text: str, tools: Sequence[Tool], behind: int = 0) -> Begun | None:
        """See `ToolSyntax.begun`. What the parser makes of a text is known at its end."""
        return None

    def _unended(self, text: str, tools: Sequence[Tool]) -> CallsRead:
        try:
            return CallsRead(tuple(self._parse(text[len(self.start) :], tools)), len(text))
        except Exception:  # noqa: BLE001 - as above
            return CallsRead((), len(text))
