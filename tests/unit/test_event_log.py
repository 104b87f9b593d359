"""The event log: its format, its file, and the commands that read it."""

import itertools
import json
import os
import stat
from pathlib import Path

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner

from semantic_trio.adapters.events import (
    SCHEMA_FILE,
    EventFile,
    InvalidLine,
    follow,
    invalid_lines,
    last_lines,
)
from semantic_trio.adapters.events import file as event_file
from semantic_trio.adapters.events.lines import LINES, AnyLine, line_of
from semantic_trio.domain.observation import Observation, Observed
from semantic_trio.entrypoints.cli import main
from tests.observations import SAMPLES

MANUAL = Path(__file__).parents[2] / "docs" / "assets" / "events.schema.json"
SCHEMA = json.loads(SCHEMA_FILE.read_text())
samples = pytest.mark.parametrize("observation", SAMPLES.values(), ids=SAMPLES)


def observed(observation: Observation, number: int = 1) -> Observed:
    return Observed(number, 1_800_000_000.25, 5.0, observation)


def written(observation: Observation) -> dict[str, object]:
    line: dict[str, object] = json.loads(msgspec.json.encode(line_of(observed(observation))))
    return line


def is_valid(line: object) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(line))


def is_decoded(line: object) -> bool:
    try:
        msgspec.json.decode(json.dumps(line), type=AnyLine)
    except msgspec.DecodeError:
        return False
    return True


# ------------------------------------------------------------------------------------------- format


def test_there_is_a_sample_of_every_observation() -> None:
    assert {type(observation) for observation in SAMPLES.values()} == set(LINES)


@samples
def test_every_line_is_of_the_published_schema(observation: Observation) -> None:
    line = written(observation)

    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(
        line
    )
    assert is_decoded(line)
    assert (line["time"], line["number"]) == ("2027-01-15T08:00:00.250000Z", 1)


@samples
def test_a_line_with_a_field_more_or_fewer_is_not(observation: Observation) -> None:
    line = written(observation)
    for name in line:
        fewer = {other: value for other, value in line.items() if other != name}
        assert not is_valid(fewer), name
        assert not is_decoded(fewer), name
    assert not is_valid(line | {"prompt": "hush"})
    assert not is_decoded(line | {"prompt": "hush"})


@samples
def test_a_line_with_a_value_of_another_type_is_not(observation: Observation) -> None:
    line = written(observation)
    for name in line:
        wrong = line | {name: [0]}
        assert not is_valid(wrong), name
        assert not is_decoded(wrong), name


def test_the_schema_in_the_manual_is_that_of_the_package() -> None:
    if not MANUAL.parent.is_dir():
        pytest.skip("needs a checkout")
    assert MANUAL.read_text() == SCHEMA_FILE.read_text()


def test_a_line_says_what_was_observed() -> None:
    line = written(SAMPLES["request"])

    assert {
        name: line[name]
        for name in (
            "event",
            "seconds",
            "prompt_tokens",
            "reused_tokens",
            "completion_tokens",
            "agent",
        )
    } == {
        "event": "request",
        "seconds": 2.5,
        "prompt_tokens": 10,
        "reused_tokens": 4,
        "completion_tokens": 5,
        "agent": "a",
    }
    assert written(SAMPLES["generation"])["completion_tokens"] == 2
    assert written(SAMPLES["reuse with a cause"])["cause"] == "evicted"


# --------------------------------------------------------------------------------------------- file


@pytest.fixture
def log(tmp_path: Path) -> EventFile:
    return EventFile(tmp_path / "logs" / "events.jsonl")


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["number"] for line in path.read_text().splitlines()]


def fill(log: EventFile, *wanted: int) -> None:
    log.write([observed(SAMPLES["evict"], number) for number in wanted])


def test_lines_are_appended_and_only_their_owner_reads_them(log: EventFile) -> None:
    fill(log, 1, 2)
    fill(log, 3)

    assert numbers(log.path) == [1, 2, 3]
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_a_full_file_is_put_aside_and_the_oldest_is_removed(
    log: EventFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, 10)
    monkeypatch.setattr(event_file, "FILE_BYTES", 2 * log.path.stat().st_size)
    for number in range(11, 25):
        fill(log, number)

    names = [
        log.path,
        *(
            log.path.with_name(f"events.jsonl.{number}")
            for number in range(1, event_file.FULL_FILES + 1)
        ),
    ]
    assert set(log.path.parent.iterdir()) == set(names)
    assert [numbers(path) for path in names] == [[24], [22, 23], [20, 21], [18, 19], [16, 17]]


def test_a_line_that_was_cut_off_by_the_end_of_a_process_spoils_no_other(log: EventFile) -> None:
    fill(log, 1)
    append(log.path, b'{"event":"evi')
    fill(log, 2)

    assert [one and one.number for one in invalid_lines(log.path)] == [None, 2, None]


def test_nothing_of_a_batch_that_the_disk_refuses_stays_in_the_file(
    log: EventFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, 1)
    before = log.path.read_bytes()
    write = os.write

    def full(file: int, text: memoryview) -> int:
        if len(text) < 50:
            raise OSError(28, "No space left on device")
        return write(file, text[:40])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        fill(log, 2, 3)
    monkeypatch.undo()
    assert log.path.read_bytes() == before

    fill(log, 4)
    assert numbers(log.path) == [1, 4]


def test_a_place_that_cannot_be_written_to_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError):
        fill(EventFile(tmp_path / "file" / "logs" / "events.jsonl"), 1)


def test_a_file_that_was_deleted_is_made_again(log: EventFile) -> None:
    fill(log, 1)
    log.path.unlink()
    fill(log, 2)

    assert numbers(log.path) == [2]


# ------------------------------------------------------------------------------------------ reading


def test_the_last_lines_are_whole_lines(log: EventFile) -> None:
    fill(log, *range(1, 6))
    append(log.path, b'{"event":"evi')

    assert [json.loads(line)["number"] for line in last_lines(log.path, 2)] == [4, 5]
    assert last_lines(log.path, 0) == []


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_following_goes_on_after_a_rotation_and_shows_no_half_line(log: EventFile) -> None:
    fill(log, 1)
    line = log.path.read_bytes()
    steps = iter(
        [
            lambda: fill(log, 2, 3),
            lambda: append(log.path, line[:10]),
            lambda: None,
            lambda: append(log.path, line[10:]),
            lambda: log.path.replace(log.path.with_suffix(".1")),
            lambda: fill(log, 4),
        ]
    )
    lines = follow(log.path, lambda: next(steps)())

    assert [json.loads(line)["number"] for line in itertools.islice(lines, 4)] == [2, 3, 1, 4]
    lines.close()  # type: ignore[attr-defined]


def test_an_invalid_line_is_told_with_its_reason(log: EventFile) -> None:
    fill(log, 1)
    with log.path.open("ab") as file:
        file.write(
            b'{"event":"evict","time":"2027-01-15T08:00:00Z","number":0,"tier":"ram","entries":1}\nno json\n{'
        )

    first, second, third, fourth = invalid_lines(log.path)
    assert first is None
    assert second is not None
    assert "$.number" in second.reason
    assert third is not None
    assert fourth == InvalidLine(
        4, "the line has no end: the server was ended while it wrote, or is writing"
    )


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["events", *arguments])
    return result.exit_code, result.output


def test_the_command_validates(log: EventFile) -> None:
    fill(log, 1, 2)
    assert run("validate", str(log.path)) == (0, "2 lines, 0 not of the format\n")

    with log.path.open("a") as file:
        file.write("no json\n")
    code, output = run("validate", str(log.path))
    assert code == 1
    assert output.startswith("line 3: ")
    assert output.endswith("3 lines, 1 not of the format\n")


def test_the_command_shows_the_last_lines_of_the_configured_file(
    log: EventFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, *range(1, 20))
    monkeypatch.setenv("SEMANTIC_EVENT_LOG", str(log.path))

    code, output = run("tail", "-n", "3")
    assert code == 0
    assert [json.loads(line)["number"] for line in output.splitlines()] == [17, 18, 19]


@pytest.mark.parametrize("command", ["validate", "tail"])
def test_a_file_that_is_not_there_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEMANTIC_EVENT_LOG", raising=False)
    monkeypatch.chdir(tmp_path)

    assert run(command) == (
        2,
        (
            "semantic-trio: event_log: no file is given, and the settings name none: the event log "
            "is off\n"
        ),
    )
    code, output = run(command, "nowhere.jsonl")
    assert (code, output) == (2, "semantic-trio: event_log: there is no file nowhere.jsonl\n")
