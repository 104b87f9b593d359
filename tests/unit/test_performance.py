"""The regression check: which ratios are demanded, and what it says of those that are not
reached.
"""

from pathlib import Path

import attrs
import msgspec
import pytest

from semantic_trio.entrypoints.bench.comparison import compared, read_baseline
from semantic_trio.entrypoints.bench.results import (
    Machine,
    Options,
    Report,
    Round,
    Spread,
    Throughput,
    Turns,
    TurnTimes,
)
from semantic_trio.entrypoints.bench.summary import summary
from tests.performance import RATIOS, breaches, main, ratios, read_thresholds


def report(rate: float, streams: tuple[int, ...] = (1, 3, 5, 7, 10)) -> Report:
    """A report of a run whose served rate is so many times the bare one, and of conversations that
    are twenty times faster later.
    """

    def answers(rate: float) -> dict[int, Throughput]:
        return {one: Throughput(100, 10 / rate, (0.1,)) for one in streams}

    turns = Turns(TurnTimes(20.0, 2000, 0), TurnTimes(1.0, 2050, 2000), TurnTimes(1.0, 2100, 2050))
    measured = Round(
        answers(rate),
        answers(1.0),
        turns,
        None,
        in_turn=answers(rate / 2),
        contexts={2048: turns, 4096: turns},
    )
    options = Options(streams, 48, 1000, 1, "7", has_bare=True)
    machine = Machine("Linux", "a processor", 2, 8 << 30, "3.11", 0.5, "cpu")
    return Report(
        1,
        "now",
        10.0,
        machine,
        {},
        "abc",
        "smollm2-135m",
        "",
        {"port": "1"},
        options,
        (),
        summary([measured]),
        (measured,),
    )


def test_a_report_above_every_threshold_is_fine() -> None:
    assert list(breaches(report(0.9), read_thresholds())) == []


def test_a_ratio_below_its_threshold_is_named_with_both_numbers() -> None:
    assert "throughput: 1 stream: served / bare: 0.300, and at least 0.6 is demanded" in list(
        breaches(report(0.3), read_thresholds())
    )


def test_a_ratio_that_was_not_measured_is_a_breach() -> None:
    assert list(breaches(report(0.9, (1, 3, 5)), read_thresholds())) == [
        "throughput: 10 streams: served / bare: not measured"
    ]


def test_a_report_of_another_model_is_not_judged() -> None:
    assert list(breaches(attrs.evolve(report(0.3), model="tiny-random"), read_thresholds())) == [
        "the thresholds are for smollm2-135m, and the report is of tiny-random"
    ]


def test_every_threshold_is_of_a_ratio_that_a_full_report_has() -> None:
    measured = report(0.9).summary

    for table, rows in read_thresholds().thresholds.items():
        for row, columns in rows.items():
            assert columns.keys() <= measured[table][row].keys() & RATIOS


def checked(one: Report, directory: Path, *options: str) -> int:
    """The exit code of the check of a report."""
    path = directory / "report.json"
    path.write_bytes(msgspec.json.encode(one))
    return main([str(path), *options])


def test_a_regression_fails_and_says_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(report(0.59), tmp_path) == 1
    assert (
        "3 streams: served / bare: 0.590, and at least 0.6 is demanded" in capsys.readouterr().out
    )
    assert checked(report(0.61), tmp_path) == 0
    assert capsys.readouterr().out == "performance: fine\n"


def test_a_baseline_is_written_of_a_fine_report_of_a_quiet_machine_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline, fine = tmp_path / "baseline.json", report(0.9)
    option = "--baseline", str(baseline)
    busy = attrs.evolve(fine, machine=attrs.evolve(fine.machine, load_before=1.0))

    codes = [checked(one, tmp_path, *option) for one in (report(0.3), busy)]
    assert (codes, baseline.exists()) == ([1, 1], False)
    assert "no baseline: the load before the run was 1.0" in capsys.readouterr().out
    assert checked(fine, tmp_path, *option) == 0

    text = list(compared(report(0.45), read_baseline(baseline)))
    assert text[0] == "compared with smollm2-135m of now, abc"
    assert "throughput: 3 streams: served / bare 0.450 0.900 0.500" in [
        " ".join(line.split()) for line in text
    ]


def test_a_threshold_that_is_misspelt_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.yaml"
    path.write_text(
        "model: x\nthresholds: {throughput: {1 stream: {served / bare: {atleast: 1}}}}\n"
    )

    with pytest.raises(msgspec.ValidationError, match="at_least"):
        read_thresholds(path)


def test_a_baseline_has_the_ratios_alone() -> None:
    kept = ratios(report(0.9))

    assert {
        column for rows in kept.summary.values() for row in rows.values() for column in row
    } <= RATIOS
    assert kept.summary["throughput"]["3 streams"] == {
        "served / bare": Spread.of([0.9]),
        "at once / in turn": Spread.of([2.0]),
    }
    assert (kept.rounds, kept.settings) == ((), {})
