"""Logs: one line per event, JSON for machines or coloured for people. Prompt text never, unless asked for."""

import logging
import sys

import structlog


def configure(log_format: str, log_level: str) -> None:
    """Set structlog and the standard library's logging up for the process. `auto` is console on a terminal and JSON elsewhere."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
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
    # Plain tracebacks: the prettier ones print local variables, and prompts are among them.
    pretty = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer = pretty if console else structlog.processors.JSONRenderer()
    processors: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if not console:
        processors.append(structlog.processors.format_exc_info)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*processors, renderer]))
    logging.basicConfig(handlers=[handler], level=log_level.upper(), force=True)
    for chatty in ("httpx", "filelock", "huggingface_hub", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
