"""The command line's `events`: check and show an event log."""

import sys
import time
from pathlib import Path

import click

from semantic_trio.adapters.events import follow, invalid_lines, last_lines
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints import settings_loading
from semantic_trio.entrypoints.exits import known_ends
from semantic_trio.entrypoints.printing import counted

# Seconds between two looks at a file that is followed.
LOOK_SECONDS = 0.2

event_file = click.argument("file", type=click.Path(path_type=Path), required=False)


@click.group()
def events() -> None:
    """Event log of a server (`event_log`)."""


@events.command()
@event_file
def validate(file: Path | None) -> None:
    """Check every line of FILE, by default the event log of the settings.

    The exit code is 1 if one is not of the format.
    """
    with known_ends():
        checked = list(invalid_lines(_chosen(file)))
    invalid = [one for one in checked if one is not None]
    for one in invalid:
        click.echo(f"line {one.number}: {one.reason}")
    click.echo(f"{counted(len(checked), 'line')}, {len(invalid)} not of the format")
    sys.exit(1 if invalid else 0)


@events.command()
@event_file
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=10, show_default=True, help="Lines to show."
)
@click.option(
    "-f",
    "--follow",
    "is_followed",
    is_flag=True,
    help="Go on with the lines that are written from now on, until Ctrl-C.",
)
def tail(file: Path | None, lines: int, *, is_followed: bool) -> None:
    """Show the last lines of FILE, by default of the event log of the settings."""
    with known_ends():
        path = _chosen(file)
        for line in last_lines(path, lines):
            click.echo(line)
        for line in follow(path, lambda: time.sleep(LOOK_SECONDS)) if is_followed else ():
            click.echo(line)


def _chosen(file: Path | None) -> Path:
    """Return the file to read.

    Raises `InvalidRequestError` if none is given and the settings name none, or if there is no such
    file.
    """
    path = file or settings_loading.load({}).settings.event_log
    if path is None:
        raise InvalidRequestError(
            "no file is given, and the settings name none: the event log is off", field="event_log"
        )
    if not path.is_file():
        raise InvalidRequestError(f"there is no file {path}", field="event_log")
    return path
