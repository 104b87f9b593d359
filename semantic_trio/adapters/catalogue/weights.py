"""Large files of a repository on the Hub, each of which goes on where its download was interrupted.

Knows the layout of huggingface_hub's cache. Knows nothing of models: `hub.py` says which files are
wanted, and has huggingface_hub link them into a snapshot.

huggingface_hub itself begins a file anew in every process, since it writes to a name of that
process alone (2.4.0, huggingface/huggingface_hub#4196). Drop this file when it goes on by itself.
"""

import errno
import hashlib
import shutil
from fnmatch import fnmatch
from pathlib import Path

import attrs
import huggingface_hub
from filelock import FileLock
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # documented

from semantic_trio.adapters.catalogue.progress import Progress
from semantic_trio.adapters.catalogue.shelf import acquire

# The Hub hands out larger files by Xet alone, which huggingface_hub speaks.
LARGEST_BYTES = 50 * 10**9
MB = 1e6  # as the Hub shows sizes
PARTIAL = "*.incomplete"  # `hf cache` shows and removes such files too


@attrs.frozen
class WeightFile:
    """A file that the Hub keeps under the hash of its content (Git LFS)."""

    name: str
    sha256: str
    size: int  # bytes
    url: str

    def whole_in(self, blobs: Path) -> Path:
        """Where it is when it is whole."""
        return blobs / self.sha256

    def partial_in(self, blobs: Path) -> Path:
        """Where it is until then. Only whoever holds the file's lock writes to it."""
        return blobs / f"{self.sha256}{PARTIAL[1:]}"

    def missing_bytes(self, blobs: Path) -> int:
        """Bytes of it that are not here."""
        if self.whole_in(blobs).exists():
            return 0
        partial = self.partial_in(blobs)
        return max(0, self.size - partial.stat().st_size) if partial.exists() else self.size


def fetch_weights(repository: str, patterns: tuple[str, ...], progress: Progress) -> None:
    """Put the large files of a repository's newest commit into the cache, if the Hub tells them.

    Bytes that are here stay, also where this raises or the process is killed. Raises what
    `http_get` does, `ConnectionError` where the connection is lost, `OSError` with `ENOSPC` before
    the first byte where the disk is too small, and `ValueError` where a file is not what the Hub
    says, which is then removed.
    """
    blobs = cached(repository) / "blobs"
    try:
        listed = _listed(repository, patterns)
    except Exception:  # noqa: BLE001 - huggingface_hub asks the same next, and says what is wrong
        return
    files = [file for file in listed if not file.whole_in(blobs).exists()]
    if not files:
        return
    blobs.mkdir(parents=True, exist_ok=True)
    missing, free = sum(file.missing_bytes(blobs) for file in files), shutil.disk_usage(blobs).free
    if missing > free:
        raise OSError(
            errno.ENOSPC,
            f"has {free / MB:,.0f} MB free, {missing / MB:,.0f} MB are needed",
            str(blobs),
        )
    for file in files:
        _fetch(file, blobs, progress)


def cached(repository: str) -> Path:
    """The directory of a repository in huggingface_hub's cache."""
    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def _listed(repository: str, patterns: tuple[str, ...]) -> list[WeightFile]:
    info = huggingface_hub.HfApi().model_info(repository, revision="main", files_metadata=True)
    return [
        WeightFile(
            one.rfilename,
            one.lfs.sha256,
            one.lfs.size,
            huggingface_hub.hf_hub_url(repository, one.rfilename, revision=info.sha),
        )
        for one in info.siblings or []
        if one.lfs is not None
        and one.lfs.size <= LARGEST_BYTES
        and any(fnmatch(one.rfilename, pattern) for pattern in patterns)
    ]


def _fetch(file: WeightFile, blobs: Path, progress: Progress) -> None:
    # The lock that huggingface_hub takes for the same file.
    lock = FileLock(blobs.parents[1] / ".locks" / blobs.parent.name / f"{file.sha256}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    acquire(lock, f"{file.name}: another process is downloading it", progress)
    try:
        if not file.whole_in(blobs).exists():
            _download(file, file.partial_in(blobs), progress)
            file.partial_in(blobs).rename(file.whole_in(blobs))
    finally:
        lock.release()


def _download(file: WeightFile, partial: Path, progress: Progress) -> None:
    with partial.open("ab") as into:
        here = into.tell()
        if here > file.size:
            into.truncate(here := 0)
        after = f", {here / MB:,.1f} MB of it are here" if here else ""
        progress.step(f"{file.name}: {file.size / MB:,.1f} MB{after}")
        try:
            http_get(
                file.url,
                into,
                resume_size=here,
                headers=build_hf_headers(),
                expected_size=file.size,
                displayed_filename=file.name,
            )
        except (OSError, ValueError):  # of the disk, or what the Hub answers
            raise
        except Exception as error:  # those of the client's transport, which is not ours to name
            raise ConnectionError(
                f"the download of {file.name} broke off ({error}): the next pull goes on from there"
            ) from error
    with partial.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != file.sha256:
        partial.unlink()
        raise ValueError(f"{file.name} has the SHA-256 {found}, the Hub says {file.sha256}")
