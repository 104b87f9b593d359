"""JSON of requests, decoded with errors that name the field.

Knows JSON. Knows nothing of what the fields mean.
"""

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec
import trio

from semantic_trio.adapters.http.common.faults import Fault

T = TypeVar("T")

# Bytes above which a body is parsed in a worker thread: 32,000 take 0.1 ms of the event loop, 3 ms
# where they are thousands of blocks.
IN_LOOP_BYTES = 32_000
AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>\$[^`]*)`)?$", re.DOTALL)
MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`")
# An escape in JSON. The group `half` matches a surrogate without its other half.
ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
BROKEN = rb"\ufffd"
# Matches strings whole, so that digits in a string are no number; the group matches a fraction or
# an exponent.
STRING_OR_NUMBER = re.compile(
    rb'"(?:[^"\\]|\\.)*"|-?[0-9]+(?P<fraction>\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)?',
    re.DOTALL,
)
UNSUPPORTED = re.compile(r"^Invalid (?:enum )?value (?P<value>.*)$", re.DOTALL)


async def parsed(body: bytes, understand: Callable[[bytes], T]) -> T:
    """Return the parsed body; a large body is parsed in a worker thread."""
    if len(body) <= IN_LOOP_BYTES:
        return understand(body)
    return await trio.to_thread.run_sync(understand, body)


def decode(body: bytes | msgspec.Raw, kind: type[T], at: str = "") -> T:
    """Decode the body, or the part of it `at` a path, as a `kind`.

    Raises `Fault` 400 that names the field, dotted: `messages.0.content`.
    """
    try:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError as error:
            if "got `float`" not in str(error):
                raise
            return msgspec.json.decode(_with_whole_numbers(body), type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), at) from error
    except (msgspec.DecodeError, ValueError) as error:
        if (whole := ESCAPE.sub(_whole_character, bytes(body))) != body:
            return decode(whole, kind, at)
        raise _unreadable(f"not valid JSON: {error}", at) from error
    except RecursionError as error:
        raise _unreadable("nested too deeply", at) from error


def _whole_character(escape: re.Match[bytes]) -> bytes:
    """Replace an escaped lone surrogate, as clients send it that cut a text within an emoji, by
    U+FFFD.
    """
    return BROKEN if escape["half"] else escape[0]


def _with_whole_numbers(body: bytes | msgspec.Raw) -> bytes:
    """Rewrite whole numbers as integers, and nothing else: 32000.0 is an integer to JSON Schema,
    and to languages with one kind of number.
    """
    return STRING_OR_NUMBER.sub(_whole_number, bytes(body))


def _whole_number(found: re.Match[bytes]) -> bytes:
    if found["fraction"] is None:
        return found[0]
    value = float(found[0])
    return str(int(value)).encode() if value.is_integer() else found[0]


def _invalid(message: str, at: str) -> Fault:
    match = AT_PATH.match(message)
    what, path = (match["what"], match["path"]) if match else (message, None)
    field = ".".join(filter(None, (at, _dotted(path or "$"))))
    missing, unsupported = MISSING.match(what), UNSUPPORTED.match(what)
    if missing:
        field, what = ".".join(filter(None, (field, missing["name"]))), "Field required"
    elif unsupported:
        what = f"{unsupported['value']} is not supported"
    return Fault(
        400,
        f"{field}: {what}" if field else what,
        field=field or None,
        is_private=bool(unsupported),
    )


def _unreadable(what: str, at: str) -> Fault:
    return Fault(400, f"{at}: {what}" if at else f"the body is {what}", field=at or None)


def _dotted(path: str) -> str:
    """Return a path as clients write it, without the placeholder for keys of maps."""
    return (
        re.sub(r"\[(\d+)\]", r".\1", path).replace("[...]", "").removeprefix("$").removeprefix(".")
    )
