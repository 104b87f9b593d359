"""Logs: one line per event, JSON for machines or coloured for people.

Prompt text never, unless asked for.
"""

import logging
import logging.handlers
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog

# Size of a log file, and the number of full ones kept beside it: 50 MB are about 200,000 requests.
FILE_BYTES, FULL_FILES = 10_000_000, 4
# Parts of an entry that have lines of their own.
TRACEBACKS = frozenset({"exception", "stack"})


def configure(log_format: str, log_level: str, log_file: Path | None = None) -> None:
    """Set structlog and the standard library's logging up for the process.

    `auto` is console on a terminal and JSON elsewhere.

    Raises `PermissionError` for a file that cannot be written.
    """
    console = log_format == "console" or (
        log_format == "auto" and log_file is None and sys.stderr.isatty()
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr) if log_file is None else _rotated(log_file)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=formatters(console=console)
        )
    )
    logging.basicConfig(handlers=[handler], level=log_level.upper(), force=True)
    for chatty in ("httpx", "filelock", "huggingface_hub", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def adopt(library: str) -> None:
    """Write the log lines of an imported library that has a handler of its own as lines of this
    process.
    """
    logger = logging.getLogger(library)
    logger.handlers.clear()
    logger.propagate = True


def _rotated(file: Path) -> logging.Handler:
    """Return the handler of a file that becomes `FILE.1` when it is full.

    Makes its directory. Raises `PermissionError`.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return logging.handlers.RotatingFileHandler(
            file, maxBytes=FILE_BYTES, backupCount=FULL_FILES, encoding="utf-8"
        )
    except OSError as error:
        raise PermissionError(f"log_file: {file} cannot be written to: {error.strerror}") from error


def formatters(*, console: bool) -> list[structlog.typing.Processor]:
    """Processors that turn an entry into its line, in either format."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        # plain tracebacks: the prettier ones print local variables, and prompts are among them
        structlog.processors.format_exc_info,
        escape_controls,
        renderer,
    ]


def escape_controls(
    _: object, __: str, entry: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The entry with every control character escaped: one in a path would reach the terminal that
    shows the log, or begin a line of its own.
    """
    return {
        _escaped(name): _escaped_lines(value) if name in TRACEBACKS else _escaped_value(value)
        for name, value in entry.items()
    }


def _escaped_value(value: object) -> object:
    match value:
        case str():
            return _escaped(value)
        case Mapping():
            return {_escaped_value(name): _escaped_value(one) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_escaped_value(one) for one in value]
        case int() | float() | None:
            return value
        case _:
            return _escaped(str(value))


def _escaped_lines(value: object) -> object:
    return (
        "\n".join(map(_escaped, value.split("\n")))
        if isinstance(value, str)
        else _escaped_value(value)
    )


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
