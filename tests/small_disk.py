"""A file system of a few MiB that a test may fill and make read-only: a tmpfs, mounted by root or
in a namespace of one's own.

Knows mounts and bytes. Knows nothing of servers: those that are to see it are started `within`.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

MIB = 1 << 20
INODES = 1000


@attrs.define(eq=False)
class SmallDisk:
    """A mounted file system."""

    path: Path  # for processes that see it
    within: tuple[str, ...]  # what a command is prefixed with to see it
    _seen_at: Path  # for this process

    def fill(self) -> None:
        """Leave not a byte."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        assert shutil.disk_usage(self._seen_at).free == 0

    def fill_with_files(self) -> None:
        """Leave room for bytes, and for no file."""
        with contextlib.suppress(OSError):
            for number in itertools.count():
                self._ballast.with_name(f"ballast-{number}").touch()

    def empty(self) -> None:
        """Take away what it was filled with."""
        for file in self.files("ballast*"):
            file.unlink()

    def forbid_writing(self) -> None:
        """Read-only for whoever opens a file from now on, as a kernel makes it after errors.

        A remount would be refused while a file is open.
        """
        run(*self.within, "mount", "--bind", str(self.path), str(self.path))
        run(*self.within, "mount", "-o", "remount,bind,ro", str(self.path))

    def allow_writing(self) -> None:
        """Undo that."""
        run(*self.within, "umount", str(self.path))

    def files(self, pattern: str) -> list[Path]:
        """What is there."""
        return sorted(self._seen_at.rglob(pattern))

    @property
    def _ballast(self) -> Path:
        return self._seen_at / "ballast"


@contextlib.contextmanager
def small_disk(path: Path, mebibytes: int) -> Iterator[SmallDisk]:
    """A file system at a path, gone at the end. Skips the test where this machine permits none."""
    path.mkdir()
    mount = (
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={mebibytes}m,nr_inodes={INODES},mode=700",
        "tmpfs",
        str(path),
    )
    with contextlib.ExitStack() as stack:
        yield _first_that_works(stack, path, mount)


def _first_that_works(stack: contextlib.ExitStack, path: Path, mount: tuple[str, ...]) -> SmallDisk:
    refusals = []
    for way in (_mounted, _mounted_elsewhere):
        try:
            return stack.enter_context(way(path, mount))
        except MountRefusedError as error:
            refusals.append(str(error))
    pytest.skip(
        f"no file system may be mounted here, neither as this user ({refusals[0]}) nor in a "
        f"namespace ({refusals[1]})"
    )


class MountRefusedError(Exception):
    """This machine does not permit it; the text says why."""


@contextlib.contextmanager
def _mounted(path: Path, mount: tuple[str, ...]) -> Iterator[SmallDisk]:
    """For everybody to see: as root."""
    run(*mount)
    try:
        yield SmallDisk(path, (), path)
    finally:
        while os.path.ismount(path):
            run("umount", "--lazy", str(path))


@contextlib.contextmanager
def _mounted_elsewhere(path: Path, mount: tuple[str, ...]) -> Iterator[SmallDisk]:
    """For processes of a namespace, which a sleeping one keeps: without being root."""
    try:
        keeper = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", "echo; read line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        raise MountRefusedError(f"unshare: {error.strerror}") from error
    with keeper:
        try:
            if keeper.stdout.readline() != "\n":
                raise MountRefusedError(f"unshare ended with {keeper.wait()}")
            within = (
                "nsenter",
                "--target",
                str(keeper.pid),
                "--user",
                "--mount",
                "--preserve-credentials",
            )
            run(*within, *mount)
            yield SmallDisk(path, within, Path(f"/proc/{keeper.pid}/root{path}"))
        finally:
            keeper.stdin.close()


def run(*command: str) -> None:
    """Run a command. Raises `MountRefusedError`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        raise MountRefusedError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise MountRefusedError(
            " ".join(done.stderr.split()) or f"{command[0]} ended with {done.returncode}"
        )
