"""What can be known to be unsafe or impossible before anything starts."""

import errno
import os
from pathlib import Path

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.settings import Settings

# A disk that is full or read-only today keeps nobody from being served; the memory of agents then lasts as long as the process.
BAD_DAYS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def check(settings: Settings) -> None:
    """What can be known to be wrong before anything starts. Raises `InvalidRequestError` or `PermissionError`; makes the cache directory."""
    if settings.host not in LOOPBACK and not settings.allow_remote:
        raise InvalidRequestError(f"{settings.host} is reachable from outside; that needs --allow-remote and an API key", field="host")
    if settings.allow_remote and not settings.key:
        raise InvalidRequestError("needs an API key (--api-key-file or SEMANTIC_API_KEY)", field="allow_remote")
    _make_private(settings.cache_dir)


def _make_private(directory: Path) -> None:
    """Create a directory only its owner can enter. Raises `PermissionError` when it cannot be written to, and not only today."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        probe = directory / f".probe-{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        if error.errno in BAD_DAYS:
            return
        raise PermissionError(f"cache_dir: {directory} cannot be written to: {error.strerror}") from error
