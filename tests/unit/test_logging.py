"""Log lines cannot be forged, and cannot drive the terminal that shows them."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from _pytest.logging import LogCaptureHandler

from semantic_trio.entrypoints.logging import FULL_FILES, adopt, configure, formatters

ESCAPES = {
    "ESC": "\x1b[2J\x1b]0;owned\x07",
    "BEL": "\x07",
    "a second line": "/v1/x\nsignal: draining",
    "carriage return": "/v1/x\rsignal: draining",
    "backspace": "abc\b\b\b",
    "DEL": "\x7f",
    "C1, an escape in one byte": "\x9b2J",
    "a line separator": "a\u2028b",
    "text that runs backwards": "a\u202eb",
    "half a character": "a\ud800b",
}


@pytest.fixture(params=["console", "json"])
def output(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[io.StringIO]:
    """What is logged, in each format."""
    root = logging.getLogger()
    handlers, level, processors = root.handlers[:], root.level, structlog.get_config()
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    monkeypatch.setenv("NO_COLOR", "1")
    configure(request.param, "info")
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**processors)


def without_pytest() -> None:
    """Keep pytest from the log of this test: what it captures goes into its report, and a report
    cannot hold half a character.
    """
    root = logging.getLogger()
    root.handlers[:] = [
        handler for handler in root.handlers if not isinstance(handler, LogCaptureHandler)
    ]


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)
def test_control_characters_are_escaped_wherever_they_stand(text: str, output: io.StringIO) -> None:
    without_pytest()
    log = structlog.get_logger("test")
    log.info("request", path=text, values=[text, {text: text}], error=ValueError(text))
    log.info(text)
    logging.getLogger("hypercorn.error").warning("foreign: %s", text)
    structlog.contextvars.bind_contextvars(agent=text)
    log.info("bound")
    structlog.contextvars.clear_contextvars()

    lines = output.getvalue().removesuffix("\n").split("\n")
    assert len(lines) == 4
    for line in lines:
        assert uncoloured(line).isprintable(), line


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)
def test_a_traceback_has_lines_and_no_other_control_character(
    text: str, output: io.StringIO
) -> None:
    without_pytest()
    try:
        raise ValueError(text)
    except ValueError:
        structlog.get_logger("test").exception("request failed")

    for line in output.getvalue().removesuffix("\n").split("\n"):
        assert uncoloured(line).isprintable(), line
    assert "Traceback" in output.getvalue()


def uncoloured(line: str) -> str:
    """A line without the colours of the log itself, which stand in front of what it tells."""
    for code in ("0", "1", "2", "32", "33", "31", "35", "36", "41"):
        line = line.replace(f"\x1b[{code}m", "")
    return line


def test_text_of_any_language_stays_as_it_is() -> None:
    *_, escape, renderer = formatters(console=False)
    told = "größer 日本 🦊"

    assert escape(
        None, "info", {"event": told, "count": 3, "rate": 0.5, "is_new": True, "agent": None}
    ) == {
        "event": told,
        "count": 3,
        "rate": 0.5,
        "is_new": True,
        "agent": None,
    }
    assert json.loads(str(renderer(None, "info", {"event": told}))) == {"event": told}


def test_a_library_with_a_handler_of_its_own_logs_through_the_process(output: io.StringIO) -> None:
    library, own = logging.getLogger("a library"), io.StringIO()
    library.addHandler(logging.StreamHandler(own))
    library.propagate = False

    adopt("a library")
    library.warning("one line")

    assert len([line for line in output.getvalue().splitlines() if "one line" in line]) == 1
    assert own.getvalue() == ""


def test_a_log_file_is_rotated_and_standard_error_stays_empty(
    tmp_path: Path,
    output: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr("semantic_trio.entrypoints.logging.FILE_BYTES", 1000)
    file = tmp_path / "logs" / "server.log"
    configure("json", "info", file)
    request.addfinalizer(logging.getLogger().handlers[0].close)
    for number in range(200):
        structlog.get_logger("test").info("line", number=number)

    names = {"server.log", *(f"server.log.{number}" for number in range(1, FULL_FILES + 1))}
    assert {path.name for path in file.parent.iterdir()} == names
    assert all(path.stat().st_size <= 1000 for path in file.parent.iterdir())
    assert json.loads(file.read_text().splitlines()[-1])["number"] == 199
    assert output.getvalue() == ""


def test_a_log_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(PermissionError, match=r"log_file: .*file/server.log cannot be written to"):
        configure("json", "info", tmp_path / "file" / "server.log")
