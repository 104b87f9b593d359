"""Regression check of a report of `semantic-trio bench --json`: ratios against
tests/performance_thresholds.yaml.

python -m tests.performance REPORT [--baseline FILE]

Ends with 1 where a ratio is beyond its threshold or was not measured. With --baseline the ratios of
a report that is fine are written to a file, for `semantic-trio bench --compare`; a report of a busy
machine is refused.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import msgspec
import yaml

from semantic_trio.entrypoints.bench.results import Report, Rows

THRESHOLDS = Path(__file__).parent / "performance_thresholds.yaml"
# Load of the last minute below which a machine counts as one that does nothing else.
QUIET_LOAD = 1.0
# Columns that do not depend on the machine's speed alone: each is a quotient of two figures of one
# round.
RATIOS = {
    "served / bare",
    "at once / in turn",
    "times faster",
    "next turn, times faster",
    "after a restart, times faster",
    "blocks / padded",
}


@attrs.frozen
class Bound:
    """What a median has to be."""

    at_least: float


@attrs.frozen
class Thresholds:
    """The file: bounds by table, row and column."""

    model: str
    thresholds: Mapping[str, Mapping[str, Mapping[str, Bound]]]


def read_thresholds(path: Path = THRESHOLDS) -> Thresholds:
    """Read the file. Raises `msgspec.ValidationError` where it is not of this form."""
    return msgspec.convert(yaml.safe_load(path.read_text()), Thresholds)


def breaches(report: Report, wanted: Thresholds) -> Iterator[str]:
    """Yield a line for each ratio that is missing or beyond its bound."""
    if report.model != wanted.model:
        yield f"the thresholds are for {wanted.model}, and the report is of {report.model}"
        return
    for table, rows in wanted.thresholds.items():
        for row, columns in rows.items():
            for column, bound in columns.items():
                found = report.summary.get(table, {}).get(row, {}).get(column)
                if found is None:
                    yield f"{table}: {row}: {column}: not measured"
                elif found.median < bound.at_least:
                    yield (
                        f"{table}: {row}: {column}: {found}, and at least {bound.at_least} is "
                        "demanded"
                    )


def busy(report: Report) -> Iterator[str]:
    """Yield a line if the machine did other work before the run."""
    if report.machine.load_before >= QUIET_LOAD:
        yield (
            f"no baseline: the load before the run was {report.machine.load_before:.1f}, and below "
            f"{QUIET_LOAD} is demanded"
        )


def ratios(report: Report) -> Report:
    """Return a report with its ratios alone: figures that another machine can be compared with."""
    summary = {table: _ratios(rows) for table, rows in report.summary.items()}
    return attrs.evolve(
        report,
        settings={},
        rounds=(),
        summary={table: rows for table, rows in summary.items() if rows},
    )


def _ratios(rows: Rows) -> Rows:
    kept = {
        row: {column: spread for column, spread in figures.items() if column in RATIOS}
        for row, figures in rows.items()
    }
    return {row: figures for row, figures in kept.items() if figures}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a report, and write the baseline if one is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path)
    parser.add_argument("--baseline", type=Path)
    options = parser.parse_args(arguments)
    report = msgspec.json.decode(options.report.read_bytes(), type=Report)
    found = list(breaches(report, read_thresholds()))
    if options.baseline:
        found += busy(report)
    print("\n".join(found) or "performance: fine")
    if found:
        return 1
    if options.baseline:
        options.baseline.write_bytes(
            msgspec.json.format(msgspec.json.encode(ratios(report)), indent=2) + b"\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
