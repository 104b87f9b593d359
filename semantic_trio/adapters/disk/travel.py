"""Export of an agent from a directory, and import into one.

Knows which files belong to an agent, and refuses files whose content does not match their name. The
keys and values in a block cannot be verified without computing them: an archive is as trustworthy
as its origin. So its files can be renamed under a salt that no other agent has.
"""

import contextlib
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import attrs
import structlog

from semantic_trio.adapters.disk import format as file_format
from semantic_trio.adapters.disk.archive import (
    LARGEST_FILE,
    LARGEST_RECORD,
    RECORD,
    ArchiveReader,
    ending,
    framed,
    member_name,
)
from semantic_trio.adapters.disk.format import Label
from semantic_trio.adapters.disk.layout import AGENT, ModelPaths
from semantic_trio.adapters.disk.parsing import UnfitError, shown
from semantic_trio.adapters.disk.publishing import TEMPORARY, make_private, publish_once
from semantic_trio.adapters.disk.records import decode, encode
from semantic_trio.domain.agent import AGENT_ID
from semantic_trio.domain.content import AgentRecord, Content, Item
from semantic_trio.domain.errors import AgentExistsError
from semantic_trio.domain.lineage import lineage, salted
from semantic_trio.domain.records import arriving
from semantic_trio.domain.salt import Salt

FINGERPRINT = re.compile(r"[0-9a-f]{64}")
SHOWN_DIGITS = 12  # of a fingerprint

log = structlog.get_logger(__name__)


def departing(layout: ModelPaths, model: str, record: AgentRecord) -> Iterator[bytes]:
    """Yield an agent's archive in chunks, with one file at a time in memory.

    Files that are missing, damaged or too large are left out.

    Raises `ValueError` for a record whose tokens are not those of its blocks.
    """
    belongings = lineage(record, layout.fingerprint)
    yield from framed(
        RECORD,
        memoryview(
            file_format.sealed(Label(AGENT, record.id, layout.fingerprint, model), encode(record))
        ),
    )
    for item in belongings:
        content = _content(layout, item)
        if content is not None:
            yield from framed(member_name(item), content)
    yield ending()


def _content(layout: ModelPaths, item: Item) -> memoryview | None:
    path = layout.path(item)
    with contextlib.suppress(FileNotFoundError):
        try:
            name, content = file_format.read_raw(path, item.kind, layout.fingerprint)
            if name == item.key.hex() and len(content) <= LARGEST_FILE:
                return content
            reason = f"is named {shown(name)}, and has {len(content)} bytes"
        except UnfitError as error:
            reason = str(error)
        log.warning(
            "a damaged file is left out of an archive", file=layout.name(path), reason=reason
        )
    return None


def label_of(stream: BinaryIO) -> Label:
    """Return the agent and the model of an archive, read from its record alone.

    The stream has to be at its beginning, and is there again afterwards.

    Raises `UnfitError`, `OSError`.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / RECORD
        reader = ArchiveReader(stream)
        _expect_record(reader)
        reader.copy_to(file)
        stream.seek(0)
        try:
            label = file_format.read_label(file)
        except UnfitError as error:
            raise UnfitError(f"{RECORD} {error}") from error
    if (
        label.kind != AGENT
        or not AGENT_ID.fullmatch(label.name)
        or not FINGERPRINT.fullmatch(label.fingerprint)
    ):
        raise UnfitError(f"{RECORD} is no agent's")
    return label


def _expect_record(reader: ArchiveReader) -> None:
    member = reader.next_member(LARGEST_RECORD)
    if member is None or member.name != RECORD:
        raise UnfitError(
            f"begins with {shown(member.name) if member else 'its end'}, not with {RECORD}"
        )


@attrs.define(eq=False)
class Arrival:
    """Import of one archive.

    Its files are removed again if a later part of the archive is invalid.
    """

    layout: ModelPaths
    model: str  # name for messages
    archive: ArchiveReader
    _come: list[Path] = attrs.field(init=False, factory=list)  # files that this import has made

    @classmethod
    def of(cls, layout: ModelPaths, model: str, stream: BinaryIO) -> "Arrival":
        """Return the import of an archive, which is read from its beginning."""
        return cls(layout, model, ArchiveReader(stream))

    def take(self, name: str | None, salt: Salt | None) -> AgentRecord:
        """Store blocks and snapshots, under the names that a salt gives them; with None under their
        own.

        Returns the record, which is not stored. Raises `UnfitError`, `AgentExistsError` or
        `OSError`, and has then stored nothing.
        """
        try:
            record, names = self._salted(self.record(name), salt)
            if self.layout.path(record.id).exists():
                raise AgentExistsError(record.id)
            self._take_all(names)
        except BaseException:
            for path in self._come:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        return record

    def record(self, name: str | None = None) -> AgentRecord:
        """Return the record alone; see `arriving`."""
        _expect_record(self.archive)
        return arriving(self._read_record(), name)

    def _read_record(self) -> AgentRecord:
        make_private(self.layout.root, self.layout.agents)
        temporary = self.layout.agents / f"{TEMPORARY}-{uuid.uuid4().hex}"
        try:
            self.archive.copy_to(temporary)
            self._check_model(file_format.read_label(temporary))
            name, content = file_format.read(temporary, AGENT, self.layout.fingerprint)
        except UnfitError as error:
            raise UnfitError(f"{RECORD} {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        record = decode(content)
        if record.id != name:
            raise UnfitError(f"{RECORD} is named {shown(name)}, and holds {record.id}")
        return record

    def _check_model(self, label: Label) -> None:
        ours = self.layout.fingerprint
        if label.fingerprint != ours:
            theirs = f"{shown(label.model)} ({shown(label.fingerprint[:SHOWN_DIGITS])})"
            raise UnfitError(
                f"is of model {theirs}, and this is {self.model} ({ours[:SHOWN_DIGITS]})"
            )

    def _salted(
        self, record: AgentRecord, salt: Salt | None
    ) -> tuple[AgentRecord, Mapping[Item, Item]]:
        try:
            return salted(record, self.layout.fingerprint, salt)
        except ValueError as error:
            raise UnfitError(f"{RECORD}: {error}") from error

    def _take_all(self, names: Mapping[Item, Item]) -> None:
        items = {member_name(item): (item, name) for item, name in names.items()}
        while (member := self.archive.next_member()) is not None:
            if member.name not in items:
                raise UnfitError(f"has {shown(member.name)}, which does not belong to its agent")
            self._take(*items[member.name])

    def _take(self, item: Item, name: Item) -> None:
        path = self.layout.path(name)
        make_private(self.layout.root, path.parent)

        def fill(temporary: Path) -> None:
            self.archive.copy_to(temporary)
            content = self._verified(temporary, item)
            if name != item:
                label = Label(name.kind, name.key.hex(), self.layout.fingerprint, self.model)
                file_format.write(temporary, label, content)

        if publish_once(path, fill):
            self._come.append(path)

    def _verified(self, temporary: Path, item: Item) -> Content:
        try:
            name, content = file_format.read(temporary, item.kind, self.layout.fingerprint)
        except UnfitError as error:
            raise UnfitError(f"{member_name(item)} {error}") from error
        if name != item.key.hex():
            raise UnfitError(f"{member_name(item)} is named {shown(name)}")
        return content
