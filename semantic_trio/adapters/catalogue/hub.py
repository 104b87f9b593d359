"""Models of the Hugging Face Hub, in huggingface_hub's own cache."""

import dataclasses
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from semantic_trio.adapters.catalogue.directory import is_model
from semantic_trio.adapters.catalogue.progress import Progress
from semantic_trio.adapters.catalogue.weights import PARTIAL, cached, fetch_weights
from semantic_trio.domain.errors import ModelNotFoundError

# What a model directory needs, and nothing of what other frameworks keep beside it. Code is not
# fetched but for that of tokenizers, of which constants are read: none is ever run.
FILES = (
    "*.json",
    "model*.safetensors",
    "tokenizer.model",
    "tiktoken.model",
    "tokenization_*.py",
    "*.tiktoken",
    "*.txt",
    "*.jinja",
)

# Faults of the disk: pulling again is of use once it has been seen to.
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

# (repository id, progress of a download or None where only local files count). Raises what
# `snapshot_download` and `fetch_weights` do.
Snapshot = Callable[[str, Progress | None], Path]


def snapshot(repository: str, progress: Progress | None) -> Path:
    """The newest snapshot of a repository, downloaded or only looked up."""
    if progress is not None:
        fetch_weights(repository, FILES, progress)
    return Path(
        huggingface_hub.snapshot_download(
            repository, allow_patterns=list(FILES), local_files_only=progress is None
        )
    )


@attrs.frozen
class HubModel:
    """A repository on the Hub."""

    name: str
    snapshot: Snapshot = snapshot

    def find(self) -> Path | None:
        """The snapshot on this machine, if it is complete. No network is used."""
        try:
            directory = self.snapshot(self.name, None)
        except (OSError, ValueError):
            return None
        return directory if is_model(directory) else None

    def fetch(self, progress: Progress) -> Path:
        """The newest snapshot, or the one that is here when the Hub cannot be asked.

        Raises `ModelNotFoundError`, `OSError` where the disk takes no more.
        """
        progress.step(f"downloading {self.name} from the Hub")
        try:
            directory = self.snapshot(self.name, progress)
        except PermissionError:
            raise
        except Exception as error:  # the client raises whatever its several transports do
            if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                raise
            if (
                isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled)
                and (here := self.find()) is not None
            ):
                return here
            raise ModelNotFoundError(self.name, _reason(self.name, error)) from error
        if not is_model(directory):
            raise ModelNotFoundError(
                self.name,
                "the repository has no config.json with model*.safetensors: not an MLX model",
            )
        return directory

    def remove(self) -> int:
        """Remove all its snapshots, and what an interrupted download has left, and return their
        bytes.

        Raises `ModelNotFoundError` where there are none, `OSError`.
        """
        directory = cached(self.name)
        if not directory.is_dir():
            raise ModelNotFoundError(self.name, "not on this machine")
        freed = sum(partial.stat().st_size for partial in directory.glob(f"blobs/{PARTIAL}"))
        cache = huggingface_hub.scan_cache_dir()
        found = next((one for one in cache.repos if one.repo_path == directory.resolve()), None)
        if found is not None:
            # Among its own snapshots alone: a repository and its copy have commits of the same
            # hashes.
            own = dataclasses.replace(cache, repos=frozenset({found}))
            removal = own.delete_revisions(*(one.commit_hash for one in found.revisions))
            removal.execute()
            freed += removal.expected_freed_size
        if directory.is_dir():  # it had no snapshot yet
            shutil.rmtree(directory)
        return freed


def downloaded() -> Iterator[HubModel]:
    """The models of the Hub that are on this machine."""
    try:
        repositories = huggingface_hub.scan_cache_dir().repos
    except (huggingface_hub.CacheNotFound, OSError):
        return
    names = sorted(
        repository.repo_id for repository in repositories if repository.repo_type == "model"
    )
    yield from (model for model in map(HubModel, names) if model.find() is not None)


def _reason(name: str, error: Exception) -> str:
    """Return what is wrong and what to do about it, in one line."""
    if isinstance(error, GatedRepoError):
        return (
            f"its owner asks for consent: accept the terms at https://huggingface.co/{name}, then "
            "run `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            "the Hub has no such repository, or it is private: run `hf auth login` if it is yours"
        )
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return (
            "the Hub cannot be reached and the model is not on this machine: connect and pull it "
            "once, or name a local directory"
        )
    return str(error).strip().partition("\n")[0]
