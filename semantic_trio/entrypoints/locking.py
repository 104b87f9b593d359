"""Who works with a cache directory: one process at a time, and what a second one does."""

import contextlib
import os
from collections.abc import Iterator

import structlog

from semantic_trio.adapters.disk import CacheLock
from semantic_trio.domain.errors import CacheInUseError
from semantic_trio.entrypoints.settings import Settings

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def cache_locked(settings: Settings) -> Iterator[bool]:
    """Whether this process has the cache directory, while the context lasts.

    It has not where the settings want no disk, where the directory cannot be written, and where another process works with it: then one line says so,
    and what agents remember lasts as long as the process.
    """
    with contextlib.ExitStack() as stack:
        yield settings.disk_budget_mb > 0 and _has_locked(stack, settings)


def _has_locked(stack: contextlib.ExitStack, settings: Settings) -> bool:
    holder = f"pid {os.getpid()}, {settings.model_id} on http://{settings.host}:{settings.port}"
    try:
        stack.enter_context(CacheLock(settings.cache_dir, holder))
    except CacheInUseError as error:
        log.warning("memory is not kept on disk: give one of the two another --cache-dir", reason=str(error))
        return False
    except OSError as error:
        log.warning("memory is not kept on disk", directory=str(settings.cache_dir), reason=error.strerror)
        return False
    return True
