"""The cache of one model on disk, and archives of its agents."""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import BinaryIO, Protocol

from semantic_trio.domain.content import AgentRecord, Content, Item
from semantic_trio.domain.salt import Salt


class CacheFiles(Protocol):
    """Memory of one model as files.

    Blocking: called in worker threads, by several at a time, but never twice for the same thing.

    What is written is there whole or not at all, whatever happens to process and machine.
    """

    def index(self) -> Mapping[Item, int]:
        """The blocks and snapshots that are there, with the bytes they take on disk.

        Opens no file.
        """

    def write(self, item: Item, content: Content) -> int:
        """Keep a block or snapshot; the bytes it takes on disk.

        Raises `OSError`, and then nothing is left behind.
        """

    def read(self, item: Item) -> Content:
        """Return the content of an item.

        Raises `CacheCorruptionError` where that is not there any more as it was (and puts what is
        there aside), `IncompatibleCacheError` where a newer version has written it (and leaves it),
        `OSError` else.
        """

    def remove(self, item: Item) -> None:
        """Delete a block or snapshot, if it is there. Raises `OSError`."""

    def agents(self) -> Sequence[AgentRecord]:
        """All records of agents, in the order of their use.

        Damaged ones are put aside. Raises `OSError` where the directory cannot be read.
        """

    def elsewhere(self) -> Container[str]:
        """The ids of agents that other models in the same place have records of, now.

        Opens no file. Raises `OSError`.
        """

    def newer(self) -> Container[str]:
        """The ids of agents whose records `agents` has left as they are, because a newer version
        has written them.
        """

    def write_agent(self, record: AgentRecord) -> int:
        """Keep a record in the place of the one before; the bytes it takes on disk.

        Raises `OSError`, and then the one before is still there.
        """

    def remove_agent(self, agent: str) -> None:
        """Delete the record of an agent, if it is there. Raises `OSError`."""

    def put_aside(self, item: Item | str, reason: str) -> None:
        """Take a block, snapshot or agent's record that turned out to be wrong out of use, and keep
        it with the reason.

        Raises `OSError`.
        """

    @property
    def archives(self) -> "AgentArchives":
        """Archives of the agents whose memory these files are."""

    def free_bytes(self) -> int:
        """Bytes the file system has left. Raises `OSError`."""


class AgentArchives(Protocol):
    """Agents as archives, which leave and come. Blocking, as `CacheFiles` is."""

    def export_agent(self, record: AgentRecord) -> Iterator[bytes]:
        """An agent as an archive, in pieces: its record, and of the blocks and snapshots that leads
        to what is there.

        What is damaged is left out.

        Each piece may be asked for by another thread. Raises `OSError` on the way.
        """

    def import_agent(
        self, archive: BinaryIO, name: str | None = None, salt: Salt | None = None
    ) -> AgentRecord:
        """Keep the blocks and snapshots of an archive; what is there already stays as it is.

        With a salt they get the names that they have under it, and so no other agent finds them;
        without one they keep the names they have. Returns the record, under the name that is given;
        to write it, last of all, is left to the caller. Raises `AgentExistsError` where there is a
        record of that name, `InvalidRequestError` for an archive that is damaged, another model's
        or of more than belongs to its agent, `OSError`; and then nothing of it is left. Believes
        that a block's content is what its tokens make of it: that cannot be known without computing
        it.
        """

    def spool(self) -> BinaryIO:
        """A file without a name for an archive that is on its way in; it is gone when it is closed,
        or with the process.

        Raises `OSError`.
        """
