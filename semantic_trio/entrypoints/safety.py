"""Checks of settings that are unsafe or impossible, before anything starts."""

import errno
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.settings import Settings, aliases_of

# A disk that is full or read-only today keeps nobody from being served; the memory of agents then
# lasts as long as the process.
BAD_DAYS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# Open files that mlx-lm demands as the hard limit when it is imported.
OPEN_FILES = 4096
# Names of the directory for temporary files, where MLX puts what it compiles; the first that is set
# is used.
TEMPORARY_NAMES = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def check(settings: Settings) -> None:
    """Refuse settings that are unsafe or impossible.

    Raises `InvalidRequestError` or `PermissionError`; makes the cache directory.
    """
    if settings.host not in LOOPBACK and not settings.allow_remote:
        raise InvalidRequestError(
            f"{settings.host} is reachable from outside; that needs --allow-remote and an API key",
            field="host",
        )
    check_process()
    key = settings.key
    if settings.allow_remote and not key:
        raise InvalidRequestError(
            "needs an API key (--api-key-file or SEMANTIC_API_KEY)", field="allow_remote"
        )
    _make_private(settings.cache_dir)


def check_models(settings: Settings, directory: Callable[[str], object]) -> None:
    """Refuse models that `directory` does not find, and aliases of what is not served.

    Raises `ModelNotFoundError` or `InvalidRequestError`.
    """
    for name in settings.models:
        directory(name)
    served = (settings.model_id, *settings.models)
    for alias, model in aliases_of(settings.aliases).items():
        if model not in served:
            raise InvalidRequestError(
                f"{alias} stands for {model}, which is not among the models: {', '.join(served)}",
                field="aliases",
            )


def check_process() -> None:
    """Raises `InvalidRequestError` or `PermissionError` where the process lacks what its libraries
    take for granted.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise InvalidRequestError(
            (
                f"{hard} open files are allowed, and mlx-lm needs {OPEN_FILES}: raise the hard "
                "limit (ulimit -Hn)"
            ),
            "ulimit -n",
        )
    name = next((name for name in TEMPORARY_NAMES if os.environ.get(name) is not None), None)
    directory = os.environ[name] if name else "/tmp"  # noqa: S108 - as the C++ library of MLX chooses it
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        if error.errno not in BAD_DAYS:
            raise PermissionError(
                f"{name or 'TMPDIR'}: {directory!r} cannot be written to: {error.strerror}"
            ) from error


def _make_private(directory: Path) -> None:
    """Create a directory only its owner can enter.

    Raises `PermissionError` when it cannot be written to, and not only today.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        probe = directory / f".probe-{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        if error.errno in BAD_DAYS:
            return
        raise PermissionError(
            f"cache_dir: {directory} cannot be written to: {error.strerror}"
        ) from error
