"""A report as text for people."""

from collections.abc import Iterator

from semantic_trio.entrypoints.bench.results import Report, Rows
from semantic_trio.entrypoints.printing import aligned, counted


def lines(report: Report) -> Iterator[str]:
    """Lines of a report: where it ran, its tables, its notes.

    A range in a cell is the smallest and the largest of the rounds.
    """
    yield from _head(report)
    for name, rows in report.summary.items():
        if rows:
            yield ""
            yield from aligned(_table(name, rows))
    yield from ([""] if report.notes else [])
    yield from (f"note: {note}" for note in report.notes)


def _head(report: Report) -> Iterator[str]:
    machine, options = report.machine, report.options
    yield (
        f"{report.model}, {counted(options.rounds, 'round')}, answers of {options.tokens} tokens, "
        f"{report.started_at}"
    )
    yield (
        f"{machine.platform}, {machine.processor}, {machine.cores} cores, load before: "
        f"{machine.load_before:.1f}"
    )
    yield ", ".join(
        ([machine.device] if machine.device else [])
        + [f"{name} {version}" for name, version in report.versions.items()]
    )


def _table(name: str, rows: Rows) -> Iterator[tuple[str, ...]]:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    yield name, *columns
    for label, row in rows.items():
        yield label, *(str(row.get(column, "-")) for column in columns)
