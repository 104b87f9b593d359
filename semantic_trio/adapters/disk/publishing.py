"""Files that appear whole or not at all, in directories that are their owner's alone.

Knows names and modes. Knows nothing of what is in files.
"""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

PRIVATE = 0o700
PRIVATE_FILE = 0o600
OTHERS = 0o077
# What the name of a file begins with that is being written. safetensors writes under such a name
# too before it uses the one it was told.
TEMPORARY = ".tmp"


def publish(path: Path, fill: Callable[[Path], None]) -> int:
    """Have `fill` write a file, flush it and give it its name; the bytes it takes.

    Whatever is raised, what was there before is still there, and nothing beside it.
    """
    temporary = path.with_name(f"{TEMPORARY}-{path.name}")
    try:
        _make_private_file(temporary)
        fill(temporary)
        temporary.chmod(PRIVATE_FILE)
        sync(temporary)
        size = temporary.stat().st_size
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    # Some file systems refuse. The file is whole; only a power cut in the next seconds could take
    # it back.
    with contextlib.suppress(OSError):
        sync(path.parent)
    return size


def publish_once(path: Path, fill: Callable[[Path], None]) -> bool:
    """The same for a file that stays as it is where it is there already, which is found out last;
    whether it was not.

    Many may do so at once.

    What `fill` raises keeps the file from getting its name.
    """
    temporary = path.with_name(f"{TEMPORARY}-{uuid.uuid4().hex}-{path.name}")
    try:
        _make_private_file(temporary)
        fill(temporary)
        temporary.chmod(PRIVATE_FILE)
        if path.exists():
            return False
        sync(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # see above
        sync(path.parent)
    return True


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on disk before anything else happens.

    Raises `OSError`.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_private_file(file: Path) -> None:
    """Make an empty file that others cannot read while it is being filled, wherever it is.

    Raises `OSError`.
    """
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE))


def make_private(root: Path, directory: Path) -> None:
    """Make a directory under `root` and what is missing above it; from `root` on all are closed to
    others.

    Raises `OSError`.
    """
    _make(directory)
    for one in (directory, *directory.parents):
        if one.is_relative_to(root):
            close_to_others(one)


def close_to_others(directory: Path) -> None:
    """Best effort: it may be somebody else's."""
    with contextlib.suppress(OSError):
        if directory.stat().st_mode & OTHERS:
            directory.chmod(PRIVATE)


def _make(directory: Path) -> None:
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(mode=PRIVATE, exist_ok=True)
        directory.chmod(PRIVATE)  # a umask may have taken away what the owner needs
