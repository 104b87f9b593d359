"""JSON that may be anything, taken apart strictly.

Knows one error. Knows nothing of what is in files.
"""

import json
from typing import Annotated, TypeVar

import msgspec

Shape = TypeVar("Shape")

# Larger than any file, and small enough for products of 64 of them to cost nothing.
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]

# Characters of what was found that are worth repeating.
SHOWN = 100


class UnfitError(Exception):
    """A file has content that does not fit; the text says why, in one line of ASCII."""


class NewerError(UnfitError):
    """A newer version of this server has written what was read; the text says so.

    It is not damaged, and stays as it is.
    """


def shown(text: str) -> str:
    """A text of any length and content, fit to be logged."""
    line = ascii(text[: SHOWN + 1])[1:-1]
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


def parse(text: bytes | memoryview) -> object:
    """Parse JSON; strings may hold halves of surrogate pairs.

    Raises `UnfitError`, also where a key is there twice.
    """
    try:
        return json.loads(str(text, "utf-8", "surrogatepass"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnfitError(f"is no JSON: {shown(str(error))}") from error


def strictly(found: object, shape: type[Shape], what: str) -> Shape:
    """Return what was parsed as a shape that msgspec knows. Raises `UnfitError`."""
    try:
        return msgspec.convert(found, shape)
    except (ValueError, msgspec.ValidationError) as error:
        raise UnfitError(f"has no valid {what}: {shown(str(error))}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnfitError("has a key twice")
    return found
