"""Facts on a terminal: one to a line, aligned, in units people read."""

from collections.abc import Iterable, Iterator

import click

KIB = 1024
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def human(size: float) -> str:
    """Return bytes with a unit that people read.

    >>> human(832), human(1.5 * 2**30)
    ('832 B', '1.5 GiB')
    """
    for unit in UNITS[:-1]:
        if size < KIB:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= KIB
    return f"{size:.1f} {UNITS[-1]}"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "file"), counted(2_000, "file")
    ('1 file', '2,000 files')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def tell_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and what is to be said of each."""
    tell_table([(name, str(fact)) for name, fact in facts])


def tell_table(rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table."""
    for line in aligned(rows):
        click.echo(line)


def aligned(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Lines of a table whose columns are as wide as they have to be."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def printable(text: str) -> str:
    """A text that comes from a file, without what a terminal would act upon."""
    return "".join(one if one.isprintable() else "?" for one in text)
