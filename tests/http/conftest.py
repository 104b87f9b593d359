"""Plain log lines: the default's tracebacks are slow, and show what was said."""

import pytest
import structlog


@pytest.fixture(autouse=True)
def plain_log() -> None:
    """No colours, no local variables."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(),
    ]
    structlog.configure(processors=processors)
