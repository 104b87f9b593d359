"""A report beside an earlier one: figures that both have, as quotients."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import msgspec

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.bench.results import Report, Rows, Spread, number
from semantic_trio.entrypoints.printing import aligned


@attrs.frozen
class Baseline:
    """The report that is compared with: a whole one, or one with a part of its figures."""

    started_at: str
    model: str
    commit: str
    summary: dict[str, Rows]


def read_baseline(path: Path) -> Baseline:
    """Read an earlier report.

    Raises `InvalidRequestError` where it is none, and `OSError` where it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Baseline)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(
            f"{path} is no report of `semantic-trio bench --json`: {error}", "--compare"
        ) from error


def compared(report: Report, baseline: Baseline) -> Iterator[str]:
    """Yield lines: each figure that both have, now and then, and the quotient of the medians."""
    yield (
        f"compared with {baseline.model} of {baseline.started_at}"
        f"{f', {baseline.commit}' if baseline.commit else ''}"
    )
    rows = list(_rows(report.summary, baseline.summary))
    if not rows:
        yield "no figure is in both"
        return
    yield from aligned([("figure", "now", "then", "now / then"), *rows])


def _rows(now: dict[str, Rows], then: dict[str, Rows]) -> Iterator[tuple[str, ...]]:
    for table, rows in now.items():
        for row, figures in rows.items():
            earlier = then.get(table, {}).get(row, {})
            for column in figures:
                if column in earlier:
                    yield f"{table}: {row}: {column}", *_quotient(figures[column], earlier[column])


def _quotient(now: Spread, then: Spread) -> tuple[str, str, str]:
    return str(now), str(then), number(now.median / then.median) if then.median else "-"
