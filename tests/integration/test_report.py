"""The report on layouts that users send from machines of their own."""

from click.testing import CliRunner

from semantic_trio.entrypoints.cli import main


def test_doctor_reports_that_every_layout_holds_on_this_device() -> None:
    lines = [
        line
        for line in CliRunner().invoke(main, ["doctor", "--report"]).output.splitlines()
        if line.startswith("  layout")
    ]

    assert len(lines) == 6
    assert sum("pages, gathered: differs by" in line for line in lines) == 3
    assert sum("rows of their own: differs by" in line for line in lines) == 3
