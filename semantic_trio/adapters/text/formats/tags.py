"""Tags of the formats whose arguments stand one by one, as text.

Knows how they are written; knows nothing of whole calls.
"""

import functools
import re

import attrs

from semantic_trio.adapters.text.formats.typed import Schema

NAME = r"[^\s<>\"'=]+"
# Characters of the longest tag.
LONGEST_TAG = 300
# The part of a pattern before its first choice, group or repetition.
LITERAL = re.compile(r"(?:[^\\()\[\]{}?*+.|]|\\\W)+")
TEXT: Schema = {"type": "string"}
JSON: Schema = {"type": ["object", "array", "number", "boolean", "null"]}


@attrs.frozen(slots=False)
class Tags:
    """Tags around calls, around each call, and around each argument."""

    format: str
    start: str
    end: str
    call: re.Pattern[str]  # what a call begins with; group 1: the name
    call_end: str  # empty where the section holds one call, which ends with it
    # What an argument begins with; group 1: its name, group `json`: its value is JSON, group
    # `text`: it is text.
    argument: re.Pattern[str]
    argument_end: str
    lead: str = ""  # what every call begins with
    pads: tuple[tuple[str, str], ...] = ()  # what may stand around a value and is no part of it

    @functools.cached_property
    def nested(self) -> re.Pattern[str]:
        """Pattern of a call's beginning, up to where it is certainly a call."""
        before = "" if self.lead else re.escape(self.start) + r"\s*"
        end = re.escape(self.call_end or self.end)
        return re.compile(rf"{before}{self.call.pattern}(?=\s*(?:{self.argument.pattern}|{end}))")

    @functools.cached_property
    def argument_lead(self) -> str:
        """The text that every argument begins with."""
        found = LITERAL.match(self.argument.pattern)
        return re.sub(r"\\(.)", r"\1", found[0]) if found else ""

    def pad(self, text: str, at: int) -> tuple[str, str]:
        """Return the text around the value that begins at a place, and is no part of the value."""
        return next((pad for pad in self.pads if text.startswith(pad[0], at)), ("", ""))


def name_of(opening: "re.Match[str]") -> str:
    """The name in a tag, which some models put between quotes."""
    return opening[1].strip("\"'")


def typed_schema(argument: "re.Match[str]", schema: Schema) -> Schema:
    """The schema of an argument's value: what its tag tells, or else what the tool's schema has."""
    groups = argument.groupdict()
    return TEXT if groups.get("text") else JSON if groups.get("json") else schema


def tag(before: str, after: str, name: str = rf"{NAME}|\"[^\"]*\"|'[^']*'") -> re.Pattern[str]:
    """A tag with a name in it."""
    return re.compile(rf"{before}\s*({name})\s*{after}")
