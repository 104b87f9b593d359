"""A report as a picture, PNG or SVG, drawn by matplotlib, which is an extra: `pip install
'semantic-trio[bench]'`.

On a white ground of its own, so that it can be read on light and dark pages.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.bench.results import Report, Rows, Spread, number
from semantic_trio.entrypoints.bench.summary import (
    BARE,
    CONVERSATION,
    FIRST_TOKEN,
    GAP,
    NEIGHBOURS,
    RATIO,
    SERVED,
    THROUGHPUT,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = (".png", ".svg")
BLUE, ORANGE = "#0b62c4", "#c4560b"
TEXT, GRID = "#1c232b", "#d7dde3"
INCHES, DPI = (12.0, 4.2), 150


def check_plot(path: Path) -> None:
    """Raises `InvalidRequestError` where a picture cannot be written there: before anything is
    measured, not after.
    """
    if path.suffix not in KINDS:
        raise InvalidRequestError(f"{path} ends neither in {' nor in '.join(KINDS)}", "--plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidRequestError(
            "needs matplotlib, which is not installed: pip install 'semantic-trio[bench]'", "--plot"
        )


def draw(report: Report, path: Path) -> None:
    """Write the picture of a report."""
    import matplotlib as mpl  # an extra, and slow to import
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {
            "text.color": TEXT,
            "axes.labelcolor": TEXT,
            "xtick.color": TEXT,
            "ytick.color": TEXT,
            "axes.edgecolor": GRID,
            "font.size": 9,
        }
    ):
        figure = Figure(figsize=INCHES, layout="constrained", facecolor="white")
        left, middle, right = figure.subplots(1, 3)
        _throughput(left, report)
        unit = f"seconds (prompt of {report.options.words:,} words)"
        _bars(middle, report.summary[CONVERSATION], FIRST_TOKEN, "Conversation: first token", unit)
        _bars(right, report.summary[NEIGHBOURS], GAP, "Longest gap of a stream", unit)
        machine, versions = (
            report.machine,
            ", ".join(
                f"{name} {report.versions.get(name, '?')}"
                for name in ("semantic-trio", "mlx", "mlx-lm")
            ),
        )
        figure.suptitle(
            (
                f"{report.model} on {machine.device or machine.processor}, {machine.cores} cores: "
                f"{versions} {report.commit}"
            ),
            fontsize=10,
        )
        figure.savefig(path, dpi=DPI)


def _throughput(axes: "Axes", report: Report) -> None:
    """Lines over the numbers of streams, each point of what was served with its ratio to bare."""
    rows, streams = list(report.summary[THROUGHPUT].values()), list(report.options.streams)
    for column, label, color in (
        (SERVED, "served over HTTP", BLUE),
        (BARE, "mlx-lm's bare engine", ORANGE),
    ):
        found = [row[column] for row in rows if column in row]
        if len(found) == len(rows):
            axes.errorbar(
                streams,
                [one.median for one in found],
                _errors(found),
                label=label,
                color=color,
                marker="o",
                capsize=3,
            )
    for place, row in zip(streams, rows, strict=True):
        if RATIO in row:
            text = f"{row[RATIO].median:.2f}"
            axes.annotate(
                text,
                (place, row[SERVED].high),
                (0, 7),
                textcoords="offset points",
                ha="center",
                color=BLUE,
            )
    axes.set(
        title="Throughput (numbers: served / bare)",
        xlabel="streams",
        ylabel="tokens per second",
        xticks=streams,
    )
    axes.margins(x=0.1, y=0.2)
    axes.set_ylim(bottom=0)
    axes.grid(color=GRID)
    axes.legend(frameon=False, loc="lower right")


def _bars(axes: "Axes", rows: Rows, column: str, title: str, unit: str) -> None:
    """Horizontal bars, the first row on top, each with its number."""
    found = {label: row[column] for label, row in rows.items()}
    if not found:
        axes.set_axis_off()
        return
    spreads = list(found.values())
    axes.barh(
        [label.replace(" after", "\nafter") for label in found],
        [one.median for one in spreads],
        color=BLUE,
        height=0.5,
    )
    axes.errorbar(
        [one.median for one in spreads],
        range(len(spreads)),
        xerr=_errors(spreads),
        fmt="none",
        ecolor=TEXT,
        capsize=3,
    )
    for place, one in enumerate(spreads):
        axes.annotate(
            number(one.median), (one.high, place), (6, 0), textcoords="offset points", va="center"
        )
    axes.set(title=title, xlabel=unit)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)


def _errors(spreads: Sequence[Spread]) -> list[list[float]]:
    return [[one.median - one.low for one in spreads], [one.high - one.median for one in spreads]]
