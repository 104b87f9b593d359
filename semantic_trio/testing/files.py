"""Files that last as long as the object that plays them: given to a second server, they are what
the first one left behind.
"""

import io
import itertools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import BinaryIO

import attrs

from semantic_trio.domain.content import AgentRecord, Content, Item
from semantic_trio.domain.errors import AgentExistsError, CacheCorruptionError, InvalidRequestError
from semantic_trio.domain.lineage import lineage, salted
from semantic_trio.domain.records import arriving
from semantic_trio.domain.salt import Salt

HEADER_BYTES = 512  # what a file takes beside its content, about


def _nothing(what: str) -> None:
    pass


@attrs.frozen(eq=False)
class _Archived:
    """Content of an archive."""

    fingerprint: str
    record: AgentRecord
    contents: dict[Item, Content]


# By what such an archive consists of: a number, which is understood as long as the process lasts.
_archives: dict[bytes, _Archived] = {}
_numbers = itertools.count(1)


@attrs.define(eq=False)
class MemoryFiles:
    """See `CacheFiles`."""

    free: int = 1 << 40
    # is told the method that was called; may raise or wait, to play a disk that is full, broken or
    # slow
    before: Callable[[str], None] = _nothing
    fingerprint: str = "fake"  # of the model whose files they are
    # agents whose records a newer version has written
    by_newer: set[str] = attrs.field(factory=set)
    # agents that other models have records of
    others: set[str] = attrs.field(init=False, factory=set)
    # what, and why
    put_aside_for: list[tuple[Item | str, str]] = attrs.field(init=False, factory=list)
    _contents: dict[Item, Content] = attrs.field(init=False, factory=dict)
    _records: dict[str, AgentRecord] = attrs.field(init=False, factory=dict)
    _damage: dict[Item | str, str] = attrs.field(init=False, factory=dict)

    def damage(self, what: Item | str, reason: str = "checksum is 0, not 1") -> None:
        """Damage what was written, so that reading it fails from now on."""
        self._damage[what] = reason

    def index(self) -> Mapping[Item, int]:
        """See `CacheFiles.index`."""
        self.before("index")
        return {item: _content_bytes(content) for item, content in list(self._contents.items())}

    def write(self, item: Item, content: Content) -> int:
        """See `CacheFiles.write`."""
        self.before("write")
        self._contents[item] = {
            name: attrs.evolve(tensor, data=memoryview(bytes(tensor.data)))
            for name, tensor in content.items()
        }
        self._damage.pop(item, None)
        return _content_bytes(content)

    def read(self, item: Item) -> Content:
        """See `CacheFiles.read`."""
        self.before("read")
        if item not in self._contents:
            raise CacheCorruptionError(_name(item), "is gone")
        if item in self._damage:
            reason = self._damage[item]
            self._take_out(item, reason)
            raise CacheCorruptionError(_name(item), reason)
        return self._contents[item]

    def remove(self, item: Item) -> None:
        """See `CacheFiles.remove`."""
        self.before("remove")
        self._contents.pop(item, None)

    def agents(self) -> Sequence[AgentRecord]:
        """See `CacheFiles.agents`."""
        self.before("agents")
        for agent in [agent for agent in self._records if agent in self._damage]:
            self._take_out(agent, self._damage[agent])
        return sorted(
            (record for record in self._records.values() if record.id not in self.by_newer),
            key=lambda record: record.used,
        )

    def newer(self) -> Container[str]:
        """See `CacheFiles.newer`."""
        return self.by_newer

    def elsewhere(self) -> Container[str]:
        """See `CacheFiles.elsewhere`."""
        self.before("elsewhere")
        return self.others

    def write_agent(self, record: AgentRecord) -> int:
        """See `CacheFiles.write_agent`."""
        self.before("write_agent")
        self._records[record.id] = record
        self._damage.pop(record.id, None)
        return HEADER_BYTES + len(record.history)

    def remove_agent(self, agent: str) -> None:
        """See `CacheFiles.remove_agent`."""
        self.before("remove_agent")
        self._records.pop(agent, None)

    def put_aside(self, item: Item | str, reason: str) -> None:
        """See `CacheFiles.put_aside`."""
        self.before("put_aside")
        self._take_out(item, reason)

    @property
    def archives(self) -> "MemoryArchives":
        """See `CacheFiles.archives`."""
        return MemoryArchives(self)

    def free_bytes(self) -> int:
        """See `CacheFiles.free_bytes`."""
        self.before("free_bytes")
        return self.free

    def _take_out(self, what: Item | str, reason: str) -> None:
        there = (
            self._records.pop(what, None)
            if isinstance(what, str)
            else self._contents.pop(what, None)
        )
        self._damage.pop(what, None)
        if there is not None:
            self.put_aside_for.append((what, reason))


@attrs.frozen(eq=False)
class MemoryArchives:
    """See `AgentArchives`."""

    files: MemoryFiles

    def export_agent(self, record: AgentRecord) -> Iterator[bytes]:
        """See `AgentArchives.export_agent`."""
        self.files.before("export_agent")
        items = [
            item
            for item in lineage(record, self.files.fingerprint)
            if item in self.files._contents and item not in self.files._damage
        ]
        ticket = b"archive %d\n" % next(_numbers)
        _archives[ticket] = _Archived(
            self.files.fingerprint, record, {item: self.files._contents[item] for item in items}
        )
        yield ticket[:4]
        self.files.before("export_agent")
        yield ticket[4:]

    def import_agent(
        self, archive: BinaryIO, name: str | None = None, salt: Salt | None = None
    ) -> AgentRecord:
        """See `AgentArchives.import_agent`."""
        self.files.before("import_agent")
        found = _archives.get(archive.read())
        if found is None:
            raise InvalidRequestError("is no archive", "archive")
        if found.fingerprint != self.files.fingerprint:
            raise InvalidRequestError(
                f"is of model {found.fingerprint}, and this is {self.files.fingerprint}", "archive"
            )
        record, names = salted(arriving(found.record, name), self.files.fingerprint, salt)
        if record.id in self.files._records:
            raise AgentExistsError(record.id)
        self.files._contents = {
            **{names[item]: content for item, content in found.contents.items()},
            **self.files._contents,
        }
        return record

    def spool(self) -> BinaryIO:
        """See `AgentArchives.spool`."""
        self.files.before("spool")
        return io.BytesIO()


def _content_bytes(content: Content) -> int:
    return HEADER_BYTES + sum(len(tensor.data) for tensor in content.values())


def _name(item: Item) -> str:
    return f"{item.kind}s/{item.key.hex()}"
