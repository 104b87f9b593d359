"""Request bodies: bounded while they arrive, and decoded with errors that name the field.

Knows ASGI messages and JSON. Knows nothing of what the fields mean.
"""

import re
from typing import TypeVar

import msgspec
import trio
from hypercorn.typing import ASGIReceiveCallable

from semantic_trio.adapters.http.faults import Fault

T = TypeVar("T")

# Silence in the middle of a body after which its sender has gone to sleep.
STALLED_SECONDS = 60
AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>\$[^`]*)`)?$", re.DOTALL)
MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`")
UNSUPPORTED = re.compile(r"^Invalid (?:enum )?value (?P<value>.*)$", re.DOTALL)


async def read_body(headers: dict[str, str], receive: ASGIReceiveCallable, limit_bytes: int) -> bytes | None:
    """The whole body, or None when the client left before its end.

    Raises `Fault` 413 as soon as it is known to be larger than `limit_bytes` (at once when its length was declared), 408 when it stalls.
    """
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    pieces: list[bytes] = []
    size = 0
    while True:
        with trio.move_on_after(STALLED_SECONDS) as scope:
            message = await receive()
        if scope.cancelled_caught:
            raise Fault(408, f"the request's body stalled for {STALLED_SECONDS} s")
        if message["type"] != "http.request":
            return None
        pieces.append(message["body"])
        size += len(pieces[-1])
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        if not message["more_body"]:
            return b"".join(pieces)


def decode(body: bytes, kind: type[T]) -> T:
    """The body as a `kind`. Raises `Fault` 400 that names the field, dotted: `messages.0.content`."""
    try:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError as error:
            if "got `float`" not in str(error):
                raise
            # 32000.0 is an integer to JSON Schema, and to languages that know one kind of number.
            return msgspec.convert(_with_whole_numbers(msgspec.json.decode(body)), kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Fault(400, f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise Fault(400, "the body is nested too deeply") from error


def _with_whole_numbers(value: object) -> object:
    if isinstance(value, dict):
        return {key: _with_whole_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _invalid(told: str) -> Fault:
    match = AT_PATH.match(told)
    what, path = (match["what"], match["path"]) if match else (told, None)
    field = _dotted(path or "$")
    if missing := MISSING.match(what):
        field, what = ".".join(filter(None, (field, missing["name"]))), "Field required"
    elif unsupported := UNSUPPORTED.match(what):
        what = f"{unsupported['value']} is not supported"
    return Fault(400, f"{field}: {what}" if field else what, field=field or None)


def _dotted(path: str) -> str:
    return re.sub(r"\[(\d+|\.\.\.)\]", r".\1", path).removeprefix("$").removeprefix(".")


def _too_large(limit_bytes: int) -> Fault:
    return Fault(413, f"Request too large: the body may have {limit_bytes} bytes")
