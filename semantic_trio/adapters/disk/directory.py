"""A whole cache directory from outside: which models have memory in it, which of their files are
damaged, and which nothing leads to.

Knows files, and changes none but by the methods that say so: those are for who holds the lock.
Knows nothing of servers.
"""

import collections
import contextlib
import shutil
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import attrs

from semantic_trio.adapters.disk import format as file_format
from semantic_trio.adapters.disk.files import ModelFiles
from semantic_trio.adapters.disk.format import Label
from semantic_trio.adapters.disk.layout import AGENT, SHORT, ModelPaths
from semantic_trio.adapters.disk.parsing import NewerError, UnfitError, shown
from semantic_trio.adapters.disk.quarantine import Quarantine
from semantic_trio.adapters.disk.records import decode
from semantic_trio.domain.content import AgentRecord, Item
from semantic_trio.domain.errors import CacheCorruptionError
from semantic_trio.domain.lineage import Lineage, lineage

LEAST_PREFIX = 4  # digits of a fingerprint that may stand for a model
UNKNOWN = "unknown"  # the name of a model none of whose files can be read


@attrs.frozen
class Damaged:
    """A file that is not what it should be, or cannot be read."""

    path: Path
    kind: str
    reason: str
    is_readable: bool = True  # it could be read, and so it will stay damaged


@attrs.frozen
class Newer:
    """A file that a newer version of this server has written."""

    path: Path


@attrs.define(eq=False, slots=False)
class StoredModel:
    """Memory of one model in a directory."""

    layout: ModelPaths
    name: str  # for people

    @classmethod
    def of(cls, root: Path, label: Label) -> "StoredModel":
        """The model a file is of, whether it has anything here or not."""
        return cls(ModelPaths(root, label.fingerprint), label.model)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model; where no file has it, the part that names its directory."""
        return self.layout.fingerprint

    @property
    def files(self) -> ModelFiles:
        """Files as a server would use them."""
        return ModelFiles(self.layout.root, self.fingerprint, self.name)

    def is_called(self, wanted: str) -> bool:
        """True if `wanted` is the model's name or the beginning of its fingerprint."""
        return wanted == self.name or (
            len(wanted) >= LEAST_PREFIX and self.fingerprint.startswith(wanted.lower())
        )

    # ----------------------------------------------------------------------------------- to be read

    @cached_property
    def sizes(self) -> dict[Item, int]:
        """The blocks and snapshots that were there at the first look. Raises `OSError`."""
        return dict(self.layout.items())

    @property
    def bytes(self) -> int:
        """Bytes on disk, records included. Raises `OSError`."""
        return sum(self.sizes.values()) + sum(_size(path) for path in self.layout.records())

    def agents(self) -> Iterator[tuple[AgentRecord, Lineage]]:
        """The agents whose records are whole, the one used last at the end, and what each leads to.

        Raises `OSError`.
        """
        found: list[tuple[AgentRecord, Lineage]] = []
        for path in self.layout.records():
            with contextlib.suppress(UnfitError, FileNotFoundError):
                found.append(self._agent(path))
        yield from sorted(found, key=lambda one: one[0].used)

    def agent(self, agent: str) -> tuple[AgentRecord, Lineage] | None:
        """An agent by its id, and what it leads to. Raises `CacheCorruptionError`, `OSError`."""
        path = self.layout.path(agent)
        try:
            return self._agent(path)
        except FileNotFoundError:
            return None
        except UnfitError as error:
            raise CacheCorruptionError(
                f"the record of {agent} ({self.layout.name(path)})", str(error)
            ) from error

    def used_at(self, agent: str) -> float:
        """Return the time of an agent's last use, in seconds of the file system's clock.

        It is for the order among models.
        """
        return self.layout.path(agent).stat().st_mtime

    def damaged(self) -> Iterator[Damaged | Newer | Path]:
        """Read every file: those that are damaged come with the reason, those of a newer version as
        such, the others as they are.
        """
        for item in self.sizes:
            yield from self._examined(self.layout.path(item), item)
        for path in self.layout.records():
            yield from self._examined(path, None)

    @property
    def has_newer(self) -> bool:
        """True if a newer version has written a record here. Raises `OSError`."""
        return any(
            isinstance(found, Newer)
            for path in self.layout.records()
            for found in self._examined(path, None)
        )

    def unreached(self) -> list[Item]:
        """Blocks and snapshots that no record leads to. Raises `OSError`.

        None where a record is a newer version's: what that leads to is not known.
        """
        if self.has_newer:
            return []
        reached = {item for _, belongings in self.agents() for item in belongings}
        return [item for item in self.sizes if item not in reached]

    # -------------------------------------------------------------------------------- to be changed

    def remove(self, items: Iterable[Item]) -> int:
        """Delete blocks and snapshots; the bytes that gives back."""
        freed = 0
        for item in items:
            self.layout.path(item).unlink(missing_ok=True)
            freed += self.sizes.pop(item, 0)
        return freed

    def put_aside(self, damaged: Damaged) -> None:
        """Put a damaged file in quarantine."""
        name = f"{damaged.kind}-{damaged.path.stem}"
        Quarantine(self.layout.root, self.layout.quarantine).take(
            damaged.path, name, f"{self.layout.name(damaged.path)} of {self.name}: {damaged.reason}"
        )

    def remove_all(self) -> None:
        """Forget the model."""
        shutil.rmtree(self.layout.home)

    def _agent(self, path: Path) -> tuple[AgentRecord, Lineage]:
        """Raises `UnfitError`, `OSError`."""
        name, content = file_format.read(path, AGENT, self.fingerprint)
        record = decode(content)
        if record.id != name or self.layout.path(name) != path:
            raise UnfitError(f"is named {shown(name)}, and holds {record.id}")
        try:
            return record, lineage(record, self.fingerprint)
        except ValueError as error:
            raise UnfitError(str(error)) from error

    def _examined(self, path: Path, item: Item | None) -> Iterator[Damaged | Newer | Path]:
        kind = item.kind if item else AGENT
        try:
            if item is None:
                self._agent(path)
            else:
                self._read(path, item)
        except FileNotFoundError:  # deleted since
            return
        except NewerError:
            yield Newer(path)
        except UnfitError as error:
            yield Damaged(path, kind, str(error))
        except OSError as error:
            yield Damaged(path, kind, error.strerror or str(error), is_readable=False)
        else:
            yield path

    def _read(self, path: Path, item: Item) -> None:
        name, _ = file_format.read_raw(path, item.kind, self.fingerprint)
        if name != item.key.hex():
            raise UnfitError(f"is named {shown(name)}")


@attrs.frozen
class CacheDirectory:
    """A directory, whether it is there or not."""

    root: Path

    def models(self) -> list[StoredModel]:
        """The models that have memory here, by their names. Raises `OSError`."""
        memory = self.root / "memory"
        homes = (
            [path for path in memory.iterdir() if len(path.name) == SHORT and path.is_dir()]
            if memory.is_dir()
            else []
        )
        return sorted(map(self._model, homes), key=lambda model: (model.name, model.fingerprint))

    def quarantined(self) -> list[Path]:
        """The files in quarantine. Raises `OSError`."""
        return Quarantine(self.root, self.root / "quarantine").files()

    def temporaries(self, models: Iterable[StoredModel]) -> list[Path]:
        """Files that were begun and not finished. Raises `OSError`."""
        layouts = [ModelPaths(self.root, ""), *(model.layout for model in models)]
        return list(dict.fromkeys(path for layout in layouts for path in layout.temporaries()))

    def _model(self, home: Path) -> StoredModel:
        for path in _files_of(ModelPaths(self.root, home.name)):
            label = _label(path)
            if label is not None and label.fingerprint.startswith(home.name):
                return StoredModel.of(self.root, label)
        return StoredModel(ModelPaths(self.root, home.name), UNKNOWN)


def to_be_given_up(
    models: Iterable[StoredModel], limit_bytes: int
) -> Iterator[tuple[StoredModel, Item]]:
    """Yield what only agents lead to, least recently used agents first and the ends of their
    histories first, until all models take `limit_bytes`.

    Pinned agents keep what they have. Whoever takes one removes it. Raises `OSError`.
    """
    models = list(models)
    used = sum(model.bytes for model in models)
    agents = [
        (model, record, belongings) for model in models for record, belongings in model.agents()
    ]
    leads = collections.Counter(
        (model.fingerprint, item) for model, _, belongings in agents for item in belongings
    )
    for model, record, belongings in sorted(agents, key=lambda one: one[0].used_at(one[1].id)):
        if record.is_pinned:
            continue
        own = [
            item
            for item in belongings
            if leads[model.fingerprint, item] == 1 and item in model.sizes
        ]
        leads.subtract((model.fingerprint, item) for item in belongings)
        for item in reversed(own):
            if used <= limit_bytes:
                return
            used -= model.sizes[item]
            yield model, item


def _files_of(layout: ModelPaths) -> Iterator[Path]:
    """Records first: they are small."""
    yield from layout.records()
    yield from (layout.path(item) for item, _ in layout.items())


def _label(path: Path) -> Label | None:
    try:
        return file_format.read_label(path)
    except (UnfitError, OSError):
        return None


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
