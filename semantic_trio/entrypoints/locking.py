"""The lock on a cache directory: one process works with it at a time, and a second one is told
which.
"""

import contextlib
import os
from collections.abc import Iterator

import structlog

from semantic_trio.adapters.disk import CacheLock
from semantic_trio.domain.authority import authority
from semantic_trio.domain.errors import CacheInUseError
from semantic_trio.entrypoints.settings import Settings

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def cache_locked(settings: Settings) -> Iterator[CacheLock | None]:
    """The lock on the cache directory, which this process has while the context lasts.

    It has none where the settings want no disk, where the directory cannot be written, and where
    another process works with it: then one line says so, and what agents remember lasts as long as
    the process.
    """
    with contextlib.ExitStack() as stack:
        yield _locked(stack, settings) if settings.disk_budget_mb > 0 else None


def holder(settings: Settings, port: int) -> str:
    """Return the text that a process reads which finds the directory locked; the server's address
    stands at the end.
    """
    return f"pid {os.getpid()}, {settings.model_id} on http://{authority(settings.host, port)}"


def _locked(stack: contextlib.ExitStack, settings: Settings) -> CacheLock | None:
    try:
        return stack.enter_context(CacheLock(settings.cache_dir, holder(settings, settings.port)))
    except CacheInUseError as error:
        log.warning(
            "memory is not kept on disk: give one of the two another --cache-dir", reason=str(error)
        )
    except OSError as error:
        log.warning(
            "memory is not kept on disk", directory=str(settings.cache_dir), reason=error.strerror
        )
    return None
