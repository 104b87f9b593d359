"""End of a process: a code for its supervisor, one line for people."""

import contextlib
import enum
import os
import sys
from collections.abc import Iterator

from semantic_trio.domain.errors import (
    AddressError,
    EngineDeadError,
    ModelNotFoundError,
    SemanticError,
)


class ExitCode(enum.IntEnum):
    """Exit codes. docs/operations.md explains them to people."""

    OK = 0
    ENGINE_DIED = 1
    USAGE = 2
    MODEL_NOT_FOUND = 3
    ADDRESS_UNAVAILABLE = 4
    DIRECTORY_UNWRITABLE = 5


CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (EngineDeadError, ExitCode.ENGINE_DIED),
    (ModelNotFoundError, ExitCode.MODEL_NOT_FOUND),
    (AddressError, ExitCode.ADDRESS_UNAVAILABLE),
    (SemanticError, ExitCode.USAGE),
    (PermissionError, ExitCode.DIRECTORY_UNWRITABLE),
    (OSError, ExitCode.ADDRESS_UNAVAILABLE),
)


@contextlib.contextmanager
def known_ends() -> Iterator[None]:
    """Turn faults we know into one line on standard error and an exit code; what we do not know
    keeps its traceback.
    """
    fault: Exception | None = None
    try:
        yield
    except* (SemanticError, OSError) as group:
        fault = _first(group)
    if fault is not None:
        text = fault.strerror if type(fault) is OSError and fault.strerror else str(fault)
        print(f"semantic-trio: {text}", file=sys.stderr, flush=True)
        code = next(code for kind, code in CODES if isinstance(fault, kind))
        if code is ExitCode.ENGINE_DIED:
            # A thread may still hang in MLX, and then the interpreter's own way out aborts: nothing
            # is left to save here.
            os._exit(code)
        sys.exit(code)


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
