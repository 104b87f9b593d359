"""Text of calls after their arguments, found in a sample of two calls."""

import json
import re

import attrs

from semantic_trio.adapters.text.argument_shape import ArgumentShape


@attrs.frozen
class CallShape:
    """Text of calls after their arguments, which stand right after `CallFormat.middle`."""

    close: str  # from the end of the last call's arguments on
    again: str  # from the end of a call's arguments to the name in the next call
    arguments: ArgumentShape | None = None  # None where they stand as one JSON object


@attrs.frozen
class MessageShape:
    """An answer as messages: asides, and then what is said or a call."""

    asides: tuple[str, ...]  # in front of a thought, or of words before a call
    aside_end: str  # from the end of an aside to the next message
    answer: str  # in front of what is said
    # before a tool's name, and from its end to the arguments: each way to write a call
    calls: tuple[tuple[str, str], ...]


def json_shape(sample: str, front: str) -> CallShape | None:
    """Find the text after the arguments of two calls, which are one JSON object each behind
    `front`.

    Returns None where they are not.
    """
    try:
        again, close = (text[_end_of_object(text) :] for text in between(sample, front))
    except ValueError:
        return None
    return CallShape(close, again)


def between(text: str, front: str) -> tuple[str, str]:
    """Return the text behind each of two fronts, which may have different numbers.

    Raises `ValueError` where there are not two.
    """
    nothing, one, other = re.split(re.sub("[0-9]+", "[0-9]+", re.escape(front)), text)
    if nothing:
        raise ValueError("it begins with something else")
    return one, other


def _end_of_object(text: str) -> int:
    """Return the end of the object that a text begins with. Raises `ValueError` without one."""
    found, end = json.JSONDecoder().raw_decode(text)
    if not isinstance(found, dict):
        raise ValueError("arguments are an object")
    return end
