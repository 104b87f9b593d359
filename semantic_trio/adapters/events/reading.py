"""Reading of an event log: lines that are not of the format, the last lines, and those that are
still to come.
"""

import collections
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import msgspec

from semantic_trio.adapters.events.lines import AnyLine


@attrs.frozen
class InvalidLine:
    """A line that is not of the format."""

    number: int  # from 1 on
    reason: str


def invalid_lines(path: Path) -> Iterator[InvalidLine | None]:
    """Check a file: yield None for each valid line, and the reason for each other one.

    Raises `OSError`.
    """
    decoder = msgspec.json.Decoder(AnyLine)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield _checked(decoder, number, line)


def _checked(
    decoder: "msgspec.json.Decoder[AnyLine]", number: int, line: bytes
) -> InvalidLine | None:
    if not line.endswith(b"\n"):
        return InvalidLine(
            number, "the line has no end: the server was ended while it wrote, or is writing"
        )
    try:
        decoder.decode(line)
    except msgspec.DecodeError as error:
        return InvalidLine(number, str(error))
    return None


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last whole lines of a file. Raises `OSError`."""
    with path.open("rb") as file:
        lines = collections.deque((line for line in file if line.endswith(b"\n")), maxlen=count)
    return [_text(line) for line in lines]


def follow(path: Path, wait: Callable[[], None]) -> Iterator[str]:
    """Yield the lines that are appended from now on, for ever; `wait` is called whenever there is
    none.

    Goes on in the new file after a rotation.

    Raises `OSError`.
    """
    file = path.open("rb")
    try:
        file.seek(0, 2)
        rest = b""
        while True:
            rest += file.readline()
            if rest.endswith(b"\n"):
                yield _text(rest)
                rest = b""
            elif _is_put_aside(path, file.fileno()):
                file.close()
                file, rest = path.open("rb"), b""
            else:
                wait()
    finally:
        file.close()


def _is_put_aside(path: Path, descriptor: int) -> bool:
    """True if another file has the name now.

    A file that nobody has made again yet is still the one to follow.
    """
    return path.exists() and path.stat().st_ino != os.fstat(descriptor).st_ino


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\n")
