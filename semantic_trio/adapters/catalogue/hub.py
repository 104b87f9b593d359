"""Models of the Hugging Face Hub, in huggingface_hub's own cache."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import huggingface_hub
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from semantic_trio.adapters.catalogue.directory import is_model
from semantic_trio.adapters.catalogue.progress import Progress
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

# (repository id, local files only). Raises what `snapshot_download` does.
Snapshot = Callable[[str, bool], Path]


def snapshot(repository: str, local_only: bool) -> Path:
    """The newest snapshot of a repository, downloaded or only looked up."""
    return Path(
        huggingface_hub.snapshot_download(
            repository, allow_patterns=list(FILES), local_files_only=local_only
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
            directory = self.snapshot(self.name, True)
        except (OSError, ValueError):
            return None
        return directory if is_model(directory) else None

    def fetch(self, progress: Progress) -> Path:
        """The newest snapshot, or the one that is here when the Hub cannot be asked.

        Raises `ModelNotFoundError`.
        """
        progress.step(f"downloading {self.name} from the Hub")
        try:
            directory = self.snapshot(self.name, False)
        except PermissionError:
            raise
        except Exception as error:  # the client raises whatever its several transports do
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
        """Remove all its snapshots and return their bytes.

        Raises `ModelNotFoundError` where there are none, `OSError`.
        """
        cache = huggingface_hub.scan_cache_dir() if Path(HF_HUB_CACHE).is_dir() else None
        found = (
            next(
                (
                    one
                    for one in cache.repos
                    if (one.repo_type, one.repo_id) == ("model", self.name)
                ),
                None,
            )
            if cache is not None
            else None
        )
        if cache is None or found is None:
            raise ModelNotFoundError(self.name, "not on this machine")
        # Among its own snapshots alone: a repository and its copy have commits of the same hashes.
        own = dataclasses.replace(cache, repos=frozenset({found}))
        removal = own.delete_revisions(*(revision.commit_hash for revision in found.revisions))
        removal.execute()
        return removal.expected_freed_size


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
