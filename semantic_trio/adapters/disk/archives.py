"""Archives of one model's agents: written from its files, and read into them."""

import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

import attrs

from semantic_trio.adapters.disk.layout import ModelPaths
from semantic_trio.adapters.disk.parsing import UnfitError
from semantic_trio.adapters.disk.publishing import TEMPORARY
from semantic_trio.adapters.disk.travel import Arrival, departing
from semantic_trio.domain.content import AgentRecord
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.salt import Salt


@attrs.frozen(eq=False)
class ModelArchives:
    """See `AgentArchives`."""

    layout: ModelPaths
    model: str  # its name, for people
    # makes the model's directory, and has the lock on it. Raises `OSError`
    enter: Callable[[], None]

    def export_agent(self, record: AgentRecord) -> Iterator[bytes]:
        """See `AgentArchives.export_agent`."""
        return departing(self.layout, self.model, record)

    def import_agent(
        self, archive: BinaryIO, name: str | None = None, salt: Salt | None = None
    ) -> AgentRecord:
        """See `AgentArchives.import_agent`."""
        self.enter()
        try:
            return Arrival.of(self.layout, self.model, archive).take(name, salt)
        except UnfitError as error:
            raise InvalidRequestError(str(error), "archive") from error

    def spool(self) -> BinaryIO:
        """See `AgentArchives.spool`."""
        self.enter()
        return tempfile.TemporaryFile(dir=self.layout.home, prefix=TEMPORARY)
