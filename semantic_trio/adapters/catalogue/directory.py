"""A model directory in the layout MLX reads: configuration, weights and tokenizer side by side."""

import json
import os
from pathlib import Path

import attrs

from semantic_trio.adapters.catalogue.progress import Progress
from semantic_trio.domain.errors import ModelNotFoundError

INDEX = "model.safetensors.index.json"


@attrs.frozen
class LocalDirectory:
    """A directory that is somebody else's: it is used and never written to."""

    name: str

    def find(self) -> Path | None:
        """The directory, if there is a whole model in it."""
        directory = self.path
        return directory.resolve() if is_model(directory) else None

    def fetch(self, progress: Progress) -> Path:
        """Return the directory. Raises `ModelNotFoundError` that names the missing files."""
        directory = self.path
        missing = missing_files(directory)
        if missing:
            raise ModelNotFoundError(
                self.name,
                f"no {', '.join(missing)} in {directory}"
                if directory.is_dir()
                else "no such directory",
            )
        return directory.resolve()

    @property
    def path(self) -> Path:
        """The directory; a home of nobody stays as it is written, and is not there."""
        return Path(os.path.expanduser(self.name))  # noqa: PTH111  # pathlib's own raises

    def remove(self) -> int:
        """Raise `ModelNotFoundError`: the directory was not made here."""
        raise ModelNotFoundError(self.name, "a directory of your own is removed by you")


def is_model(directory: Path) -> bool:
    """True if all files of a model are there."""
    return not missing_files(directory)


def missing_files(directory: Path) -> list[str]:
    """The files that keep a directory from being a model; at most the first few."""
    missing = [] if (directory / "config.json").is_file() else ["config.json"]
    if not any(directory.glob("model*.safetensors")):
        return [*missing, "model*.safetensors"]
    return missing + [name for name in _shards(directory) if not (directory / name).is_file()][:3]


def _shards(directory: Path) -> list[str]:
    """The weight files an index names, where there is one."""
    index = directory / INDEX
    if not index.is_file():
        return []
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, LookupError, AttributeError):
        return [f"readable {INDEX}"]
