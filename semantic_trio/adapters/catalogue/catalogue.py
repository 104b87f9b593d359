"""Finds and fetches models by the names people use for them.

Knows where models come from and where they are kept. Knows nothing of what is done with them: a
model is a directory.
"""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import attrs

from semantic_trio.adapters.catalogue import hub
from semantic_trio.adapters.catalogue.directory import LocalDirectory
from semantic_trio.adapters.catalogue.hub import HubModel
from semantic_trio.adapters.catalogue.progress import Progress, Silent
from semantic_trio.adapters.catalogue.shelf import Shelf
from semantic_trio.adapters.catalogue.smollm2 import SmolLM2
from semantic_trio.adapters.catalogue.tiny_random import TinyRandom
from semantic_trio.domain.errors import ModelNotFoundError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# A name that begins so means a path, whether or not something is there.
PATH_STARTS = ("/", "./", "../", "~", f".{os.sep}", f"..{os.sep}")


class ModelSource(Protocol):
    """A model: built in, in a directory, or on the Hub."""

    @property
    def name(self) -> str:
        """Name by which the model is asked for."""

    def find(self) -> Path | None:
        """Return the model's directory, None unless it is here and complete. Uses no network."""

    def fetch(self, progress: Progress) -> Path:
        """Fetch the model unless it is here, and return its directory.

        Raises `ModelNotFoundError` and `OSError`.
        """

    def remove(self) -> int:
        """Remove it from this machine and return its bytes.

        Raises `ModelNotFoundError` where it is not there, or is not ours; `OSError`.
        """


class Recipe(Protocol):
    """Recipe of a built-in model. Another version of a recipe makes another directory."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> str:
        """Changes when what is built changes."""

    @property
    def about(self) -> str:
        """One line for people."""

    def build(self, into: Path, progress: Progress) -> None:
        """Fill an empty directory. Raises `ModelNotFoundError`, `OSError`."""

    def tidy(self) -> None:
        """Drop what is not needed once the directory is finished."""


@attrs.frozen
class BuiltIn:
    """A model this package knows how to make."""

    recipe: Recipe
    shelf: Shelf

    @property
    def name(self) -> str:
        """See `ModelSource.name`."""
        return self.recipe.name

    def find(self) -> Path | None:
        """See `ModelSource.find`."""
        return self.shelf.find(self.recipe.name, self.recipe.version)

    def fetch(self, progress: Progress) -> Path:
        """See `ModelSource.fetch`."""
        if (here := self.find()) is not None:
            return here
        path = self.shelf.install(
            self.recipe.name,
            self.recipe.version,
            lambda into: self.recipe.build(into, progress),
            progress,
        )
        self.recipe.tidy()
        return path

    def remove(self) -> int:
        """See `ModelSource.remove`."""
        size = self.shelf.remove(self.recipe.name, Silent())
        if not size:
            raise ModelNotFoundError(self.name, "not on this machine")
        return size


@attrs.frozen
class ListedModel:
    """A model in the list of models. `path` is None where the model is not on this machine."""

    name: str
    path: Path | None
    about: str


@attrs.frozen
class Catalogue:
    """The models that can be named."""

    built_in: Mapping[str, BuiltIn]

    def resolve(self, name: str) -> ModelSource:
        """Return the source that a model of this name would come from.

        Raises `ModelNotFoundError` for a name that means nothing.
        """
        if name in self.built_in:
            return self.built_in[name]
        if name.startswith(PATH_STARTS) or (name and Path(name).is_dir()):
            return LocalDirectory(name)
        if HUB_ID.fullmatch(name):
            return HubModel(name)
        known = ", ".join(self.built_in)
        raise ModelNotFoundError(
            name, f"neither a built-in name ({known}) nor a directory nor a Hub id like org/name"
        )

    def path(self, name: str) -> Path:
        """The directory of a model that is on this machine.

        Raises `ModelNotFoundError`, also where it cannot be read; never fetches.
        """
        try:
            return self._path(name)
        except OSError as error:
            raise ModelNotFoundError(name, f"cannot be read: {error.strerror or error}") from error

    def _path(self, name: str) -> Path:
        source = self.resolve(name)
        if isinstance(source, LocalDirectory):
            return source.fetch(Silent())
        if (path := source.find()) is None:
            raise ModelNotFoundError(
                name, f"not on this machine: run `semantic-trio models pull {name}`"
            )
        return path

    def pull(self, name: str, progress: Progress) -> Path:
        """The directory of a model, fetched and built where need be: hub models are brought up to
        date.

        Raises `ModelNotFoundError` when it cannot be had, `PermissionError` when its place cannot
        be written to. May take minutes.
        """
        try:
            return self.resolve(name).fetch(progress)
        except OSError as error:
            raise _disk_fault(name, error) from error

    def remove(self, name: str) -> int:
        """Remove a model from this machine and return its bytes.

        Raises `ModelNotFoundError`, and `PermissionError` where it may not be removed.
        """
        try:
            return self.resolve(name).remove()
        except OSError as error:
            raise _disk_fault(name, error) from error

    def ensure(self, name: str, progress: Progress) -> Path:
        """The directory of a model; fetched only if it is not on this machine, so no network is
        needed for one that is.
        """
        return self.resolve(name).find() or self.pull(name, progress)

    def entries(self) -> Iterator[ListedModel]:
        """Yield the built-in models, and the models of the Hub that are on this machine."""
        for model in self.built_in.values():
            yield ListedModel(model.name, model.find(), model.recipe.about)
        for downloaded in hub.downloaded():
            yield ListedModel(downloaded.name, downloaded.find(), "from the Hub")


def open_catalogue(data_dir: Path) -> Catalogue:
    """The catalogue that keeps its models under `data_dir`.

    Nothing is written until a model is pulled.
    """
    shelf = Shelf(data_dir / "models")
    smollm2 = BuiltIn(SmolLM2(data_dir / "downloads"), shelf)
    tiny = BuiltIn(TinyRandom(smollm2.fetch), shelf)
    return Catalogue({model.name: model for model in (smollm2, tiny)})


def _disk_fault(name: str, error: OSError) -> Exception:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionError(f"data_dir:{where} cannot be written to: {error.strerror}")
    return ModelNotFoundError(name, f"cannot be kept:{where} {error.strerror or error}")
