"""Responses of the Responses API that outlive the process."""

from typing import Protocol

from semantic_trio.domain.responses import StoredResponse


class ResponseStore(Protocol):
    """Responses that outlive the process.

    Blocking: called in worker threads, by several at a time; other processes may work on the same
    store.

    Every method raises `StoreError` where the database cannot be reached, read or written, and then
    nothing has changed; but where a connection broke just when a change was being confirmed, that
    is not known. Waits for a database that does not answer, seconds or a minute, never for ever.
    """

    def put(self, response: StoredResponse) -> None:
        """Keep a response: whatever happens to process and machine from now on, it is there.

        The same again is nothing.

        Takes the place of the same turn while that is queued or in progress, and of nothing else.
        Raises `ResponseNotFoundError` where it was deleted meanwhile, or its parent is not there;
        `ResponseConflictError` where the id is another's, the parent has no answer yet, or the
        hashes are not those that follow from the parent and the content.
        """

    def get(self, response_id: str) -> StoredResponse | None:
        """A response with what was said in it; None where there is none, or it was deleted."""

    def chain(self, response_id: str) -> tuple[StoredResponse, ...]:
        """A response and all before it, the first one first, those that were deleted among them;
        empty where there is none.

        Says nothing of whether they fit: `verify` does.
        """

    def delete(self, response_id: str) -> bool:
        """Forget what was said in a response, for good; its place in the chain stays.

        Whether there was anything to forget.
        """

    def prune(self, today: int, days: int) -> int:
        """Note that a server is working `today` (days since 1970), and remove what came more than
        so many days before: of those that were noted.

        What newer responses follow stays. Returns how many were removed, deleted ones too; with 0
        days nothing is. A clock that leaps ahead makes one day of all that it leaves out, and one
        that goes back none.
        """

    def close(self) -> None:
        """Give the database back. Afterwards everything but another `close` raises `StoreError`."""
