"""Adoption of what earlier processes have left on disk: files are indexed, and agents on record are
known again.

Knows the memory and the files. Runs once, before anything is written.
"""

from collections.abc import Container, Mapping, Sequence

import attrs
import structlog
import trio

from semantic_trio.application.reading import DiskReader
from semantic_trio.application.threads import WatchedWork
from semantic_trio.domain.content import AgentRecord, Item
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.records import adopt, listed, size_of, usable_histories
from semantic_trio.ports.cache_files import CacheFiles

log = structlog.get_logger(__name__)


@attrs.define(eq=False)
class Adoption:
    """Takes in the files and records of one model."""

    memory: Memory
    files: CacheFiles
    reads: WatchedWork
    reading: DiskReader
    _used: int = attrs.field(init=False, default=0)

    async def run(self) -> int:
        """Take in everything.

        Returns the last number given in the order of records. Raises `OSError` if the directory
        cannot be read.
        """
        started = trio.current_time()
        index, records, self.memory.agents.elsewhere = await self.reads.do(self._found)
        self.memory.agents.newer = self.files.newer()
        for item, size in index.items():
            self.memory.disk.added(item, size)
        await self._adopt_all(records)
        seconds = round(trio.current_time() - started, 3)
        if index or records:
            log.info(
                "memory found on disk",
                agents=len(records),
                items=len(index),
                bytes=self.memory.disk.used,
                seconds=seconds,
            )
        else:
            log.info("no memory on disk yet", seconds=seconds)
        return self._used

    def _found(self) -> tuple[Mapping[Item, int], Sequence[AgentRecord], Container[str]]:
        return self.files.index(), self.files.agents(), self.files.elsewhere()

    async def _adopt_all(self, records: Sequence[AgentRecord]) -> None:
        lost, misfits = [], 0
        for record in records:
            misfits += bool(record.history) and not self.memory.agents.fits(record.text_fingerprint)
            if gone := await self._adopt(record):
                lost.append(gone)
            await trio.lowlevel.checkpoint()
        if lost:
            log.warning(
                "a part of the memory is gone and will be computed again",
                agents=len(lost),
                tokens=sum(lost),
            )
        if misfits:
            log.warning(
                (
                    "tokenizer or chat template has changed: these agents' conversations are read "
                    "again"
                ),
                agents=misfits,
            )

    async def _adopt(self, record: AgentRecord) -> int:
        """Adopt an agent on record.

        Returns the number of tokens of its history whose blocks are gone.
        """
        memory = self.memory
        try:
            gone = adopt(memory, record)
        except ValueError as error:
            await self.reading.put_aside(record.id, str(error))
            return 0
        except InvalidRequestError as error:
            memory.agents.crowded_out.add(record.id)
            log.warning("an agent on disk is not known again", agent=record.id, reason=str(error))
            return 0
        self._used = max(self._used, record.used)
        agent = memory.agents.find(record.id)
        if agent is None:
            return gone
        memory.disk.recorded(agent, size_of(record), listed(memory, record))
        memory.touch(agent)
        memory.token_histories.adopt(record.id, usable_histories(memory, record), record.salt)
        return gone
