"""Agents that leave a running server, and agents that come to it.

Knows what has to be on disk before an agent can leave, and who has to hear of one that has come.
Knows nothing of what archives look like.
"""

import io
import secrets
from collections.abc import Iterable, Mapping
from typing import BinaryIO

import attrs
import trio

from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.content import AgentRecord, ImportTrust, Item, TokenHistory
from semantic_trio.domain.errors import AgentExistsError, CachePersistenceError, InvalidRequestError
from semantic_trio.domain.lineage import Lineage, largest_token, lineage
from semantic_trio.domain.prompt import NOTHING_KNOWN
from semantic_trio.domain.records import adopt, listed, record_of, usable_histories
from semantic_trio.domain.salt import SALT_BYTES, Salt

# How long who has sent an agent waits for its record to be on disk. It is known without; a crash
# within that time would lose it.
RECORD_SECONDS = 5.0


@attrs.frozen(eq=False)
class Archives:
    """The way in and out, over the disk tier of one model."""

    persistence: Persistence

    async def write_out(self, agent: Agent, seconds: float) -> AgentRecord:
        """Have everything of an agent on disk within so long; what its record says then.

        Raises `CachePersistenceError` where it is not there.
        """
        memory, persistence = self.persistence.memory, self.persistence
        self._refuse_without_disk()
        if memory.agents.is_apart(agent.id):
            raise CachePersistenceError(
                f"the disk has another record of {agent.id}, which a newer version has written or "
                "for which there was no place"
            )
        memory.write(agent)
        with trio.move_on_after(seconds):
            while self._unwritten(agent) and memory.disk.is_open:
                await persistence.progressed()
        if count := self._unwritten(agent):
            raise CachePersistenceError(
                persistence.refused
                or f"{count} files of {agent.id} are not on disk after {seconds:.0f} s"
            )
        return record_of(memory, agent, used=0)

    async def take_in(self, archive: BinaryIO, name: str, vocabulary: int = 0) -> Agent:
        """Take an agent in from an archive; it is known from then on.

        `vocabulary`: how many tokens the model knows; 0: unknown.

        What the archive brings is used by other agents only where archives are trusted: else it
        gets a salt of its own.

        Raises `AgentExistsError`, `InvalidRequestError` and `CachePersistenceError`, and then there
        is no such agent.
        """
        files, in_thread = self.persistence.files, self.persistence.in_thread
        try:
            size = archive.seek(0, io.SEEK_END)
            await self.refuse_without_room(size)
            await self._removed_all()  # a record of this name may be among that
            archive.seek(0)
            record = await in_thread(
                files.archives.import_agent,
                archive,
                name,
                salt_of_import(self.persistence.import_trust),
            )
            await self._removed_all()
            index = await in_thread(files.index)
        except OSError as error:
            raise _refusal(error) from error
        self.persistence.allowance.spend(size, trio.current_time())
        if vocabulary and await in_thread(largest_token, record) >= vocabulary:
            raise InvalidRequestError(
                f"has tokens beyond the {vocabulary} of the model", "archive", quotes=False
            )
        agent = self._know(record, index)
        with trio.move_on_after(RECORD_SECONDS):
            while (
                self.persistence.memory.disk.is_to_record(agent)
                and self.persistence.memory.disk.is_open
            ):
                await self.persistence.progressed()
        return agent

    async def refuse_without_room(self, coming_bytes: int) -> None:
        """Raises `CachePersistenceError` where so many bytes cannot be written to disk now."""
        self._refuse_without_disk()
        try:
            free = await self.persistence.in_thread(self.persistence.files.free_bytes)
        except OSError as error:
            raise _refusal(error) from error
        floor, refused = self.persistence.floor_bytes, self.persistence.refused
        if refused or free - coming_bytes < floor:
            raise CachePersistenceError(
                refused
                or (
                    f"{free} bytes are free on the disk, {coming_bytes} are coming, and {floor} "
                    "are to stay free"
                )
            )

    def _know(self, record: AgentRecord, index: Mapping[Item, int]) -> Agent:
        """Know an agent whose blocks and snapshots have come, as far as they are in the index, and
        have its record written.

        Raises `AgentExistsError`, and `InvalidRequestError` for a record that names its blocks
        otherwise or where the register is full.
        """
        memory, disk = self.persistence.memory, self.persistence.memory.disk
        if memory.agents.find(record.id) is not None:
            raise AgentExistsError(record.id)
        for item in self._lineage(record):
            if item in index and not disk.is_to_remove(item):
                disk.added(item, index[item])
        try:
            adopt(memory, record)
        except ValueError as error:
            raise InvalidRequestError(str(error), "archive") from error
        agent = memory.agents.get(record.id)
        disk.recorded(agent, 0, listed(memory, record))  # it takes no room before it is written
        memory.touch(agent)
        memory.token_histories.adopt(
            record.id,
            self._unknown_here(usable_histories(memory, record), record.salt),
            record.salt,
        )
        memory.write(agent)  # which makes the room that has been taken
        return agent

    def _refuse_without_disk(self) -> None:
        if not self.persistence.memory.disk.exists:
            raise CachePersistenceError(
                "memory is not kept on disk: the settings want none, or another process has the "
                "cache directory"
            )

    def _unwritten(self, agent: Agent) -> int:
        memory = self.persistence.memory
        chain = [block for block in memory.chain(agent) if not block.is_on_disk]
        snapshots = [
            snapshot for snapshot in memory.snapshots_of(agent) if memory.disk.is_to_write(snapshot)
        ]
        return len(chain) + len(snapshots) + memory.disk.is_to_record(agent)

    async def _removed_all(self) -> None:
        disk = self.persistence.memory.disk
        while disk.next_removal() is not None and disk.is_open:
            await self.persistence.progressed()

    def _lineage(self, record: AgentRecord) -> Lineage:
        try:
            return lineage(record, self.persistence.memory.spec.fingerprint)
        except ValueError as error:
            raise InvalidRequestError(str(error), "archive") from error

    def _unknown_here(self, histories: Iterable[TokenHistory], salt: Salt) -> list[TokenHistory]:
        """Token histories without the conversations that are known here already, in other tokens
        perhaps.
        """
        here = self.persistence.memory.token_histories
        found = [
            (
                history,
                tuple(
                    end
                    for end in history.ends
                    if here.known((salt + end.digest, b"")) == NOTHING_KNOWN
                ),
            )
            for history in histories
        ]
        return [TokenHistory(history.packed, ends) for history, ends in found if ends]


def salt_of_import(trust: ImportTrust) -> Salt | None:
    """The salt of an agent that comes in an archive: a new one; None where the archive is trusted,
    and the agent keeps the salt it has.
    """
    return None if trust is ImportTrust.SHARED else secrets.token_bytes(SALT_BYTES)


def _refusal(error: OSError) -> CachePersistenceError:
    return CachePersistenceError(error.strerror or str(error))
