"""The files of one model: what is kept, found again, and put aside where it is not as it was
written.

Knows what each file has to be. Knows nothing of budgets, or of which of them are needed.
"""

import errno
import functools
import shutil
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

import attrs
import structlog

from semantic_trio.adapters.disk import format as file_format
from semantic_trio.adapters.disk.archives import ModelArchives
from semantic_trio.adapters.disk.format import Label
from semantic_trio.adapters.disk.layout import AGENT, AgentFiles, ModelPaths
from semantic_trio.adapters.disk.parsing import NewerError, UnfitError, shown
from semantic_trio.adapters.disk.publishing import make_private, publish
from semantic_trio.adapters.disk.quarantine import Quarantine
from semantic_trio.adapters.disk.records import decode, encode
from semantic_trio.domain.content import AgentRecord, Content, Item
from semantic_trio.domain.errors import (
    CacheCorruptionError,
    CacheInUseError,
    IncompatibleCacheError,
)

log = structlog.get_logger(__name__)


def _nothing() -> None:
    pass


@attrs.define(eq=False)
class ModelFiles:
    """See `CacheFiles`.

    The first index is to be made before anything is written: it removes what a killed process was
    writing.
    """

    root: Path
    fingerprint: str
    model: str  # its name, for people
    # has the lock on `root`, made again where it was deleted; raises `CacheInUseError`, `OSError`
    claim: Callable[[], None] = _nothing
    _layout: ModelPaths = attrs.field(init=False)
    _quarantine: Quarantine = attrs.field(init=False)
    _is_tidy: bool = attrs.field(init=False, default=False)
    # the model's directory was there when it was looked at last
    _has_home: bool = attrs.field(init=False, default=False)
    # names of records that a newer version has written
    _newer: frozenset[str] = attrs.field(init=False, default=frozenset())

    def __attrs_post_init__(self) -> None:
        self._layout = ModelPaths(self.root, self.fingerprint)
        self._quarantine = Quarantine(self.root, self._layout.quarantine)

    def index(self) -> Mapping[Item, int]:
        """See `CacheFiles.index`. Raises `OSError` where a directory cannot be read."""
        if not self._is_tidy:
            self._layout.tidy()
            self._is_tidy = True
        self._has_home = self._layout.home.is_dir()
        return dict(self._layout.items())

    def write(self, item: Item, content: Content) -> int:
        """See `CacheFiles.write`."""
        return self._write(self._layout.path(item), item.kind, item.key.hex(), content)

    def read(self, item: Item) -> Content:
        """See `CacheFiles.read`."""
        path = self._layout.path(item)
        try:
            return self._read(path, item)
        except FileNotFoundError as error:
            raise CacheCorruptionError(self._layout.name(path), "is gone") from error
        except NewerError as error:
            raise IncompatibleCacheError(self._layout.name(path), str(error)) from error
        except UnfitError as error:
            self._try_to_put_aside(path, item.kind, str(error))
            raise CacheCorruptionError(self._layout.name(path), str(error)) from error

    def remove(self, item: Item) -> None:
        """See `CacheFiles.remove`."""
        self._layout.path(item).unlink(missing_ok=True)

    def agents(self) -> Sequence[AgentRecord]:
        """See `CacheFiles.agents`."""
        newer: dict[str, str] = {}  # reasons
        records = [
            record
            for path in self._layout.records()
            if (record := self._record(path, newer)) is not None
        ]
        self._newer = frozenset(newer)
        if newer:
            log.warning(
                "agents of a newer version are left as they are",
                agents=len(newer),
                reason=next(iter(newer.values())),
            )
        return sorted(records, key=lambda record: record.used)

    def newer(self) -> Container[str]:
        """See `CacheFiles.newer`."""
        return AgentFiles(self._newer)

    def elsewhere(self) -> Container[str]:
        """See `CacheFiles.elsewhere`."""
        return self._layout.elsewhere()

    def write_agent(self, record: AgentRecord) -> int:
        """See `CacheFiles.write_agent`."""
        return self._write(self._layout.path(record.id), AGENT, record.id, encode(record))

    def remove_agent(self, agent: str) -> None:
        """See `CacheFiles.remove_agent`."""
        self._layout.path(agent).unlink(missing_ok=True)

    def put_aside(self, item: Item | str, reason: str) -> None:
        """See `CacheFiles.put_aside`."""
        self._put_aside(
            self._layout.path(item), item.kind if isinstance(item, Item) else AGENT, reason
        )

    @property
    def archives(self) -> ModelArchives:
        """See `CacheFiles.archives`."""
        return ModelArchives(self._layout, self.model, self._enter)

    def free_bytes(self) -> int:
        """See `CacheFiles.free_bytes`."""
        return shutil.disk_usage(
            next(path for path in (self.root, *self.root.absolute().parents) if path.is_dir())
        ).free

    def _enter(self) -> None:
        """Have the model's directory, and the lock.

        Raises `OSError`, once also where the directory was deleted since it was looked at.
        """
        try:
            self.claim()
        except CacheInUseError as error:
            raise OSError(errno.EBUSY, str(error)) from error
        if self._has_home and not self._layout.home.is_dir():
            self._has_home = False
            raise FileNotFoundError(
                errno.ENOENT, "the directory was deleted under the server", str(self._layout.home)
            )
        make_private(self.root, self._layout.home)
        self._has_home = True

    def _write(self, path: Path, kind: str, name: str, content: Content) -> int:
        self._enter()
        make_private(self.root, path.parent)
        label = Label(kind, name, self.fingerprint, self.model)
        return publish(path, functools.partial(file_format.write, label=label, content=content))

    def _read(self, path: Path, item: Item) -> Content:
        name, content = file_format.read(path, item.kind, self.fingerprint)
        if name != item.key.hex():
            raise UnfitError(f"is named {shown(name)}")
        return content

    def _record(self, path: Path, newer: dict[str, str]) -> AgentRecord | None:
        """Return a record; None if it is damaged, cannot be read today, or is a newer version's.

        Records of a newer version are added to `newer`, with the reason.
        """
        try:
            return self._read_record(path)
        except NewerError as error:
            newer[path.name] = str(error)
        except UnfitError as error:
            log.warning(
                "record of an agent is damaged", file=self._layout.name(path), reason=str(error)
            )
            self._try_to_put_aside(path, AGENT, str(error))
        except OSError as error:
            log.warning(
                "record of an agent cannot be read", file=self._layout.name(path), reason=str(error)
            )
        return None

    def _read_record(self, path: Path) -> AgentRecord:
        name, content = file_format.read(path, AGENT, self.fingerprint)
        record = decode(content)
        if record.id != name or self._layout.path(name) != path:
            raise UnfitError(f"is named {shown(name)}, and holds {record.id}")
        return record

    def _try_to_put_aside(self, path: Path, kind: str, reason: str) -> None:
        try:
            self._put_aside(path, kind, reason)
        except OSError as error:
            log.warning(
                "damaged file stays where it is", file=self._layout.name(path), reason=str(error)
            )

    def _put_aside(self, path: Path, kind: str, reason: str) -> None:
        self._quarantine.take(
            path, f"{kind}-{path.stem}", f"{self._layout.name(path)} of {self.model}: {reason}"
        )
