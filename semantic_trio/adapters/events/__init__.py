"""The event log: observations as lines of JSON in a file that is rotated by its size."""

from semantic_trio.adapters.events.file import EventFile
from semantic_trio.adapters.events.lines import SCHEMA_FILE
from semantic_trio.adapters.events.reading import InvalidLine, follow, invalid_lines, last_lines

__all__ = ["SCHEMA_FILE", "EventFile", "InvalidLine", "follow", "invalid_lines", "last_lines"]
