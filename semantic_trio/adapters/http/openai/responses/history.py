"""History of a request: the stored responses it continues, and the items it refers to by id.

Knows the store and items. Blocks: called in a worker thread.
"""

import attrs
import msgspec

from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.openai.responses.ids import response_id, response_of
from semantic_trio.adapters.http.openai.responses.input_items import ItemReference
from semantic_trio.adapters.http.openai.responses.item_messages import (
    ReadItem,
    read_input,
    stored_items,
)
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.responses import StoredResponse
from semantic_trio.ports.response_store import ResponseStore

PREVIOUS = "previous_response_id"


class Output(msgspec.Struct, frozen=True):
    """The output of a stored response."""

    output: list[msgspec.Raw]


class Named(msgspec.Struct, frozen=True):
    """The id of an item."""

    id: str | None = None


@attrs.frozen
class History:
    """The items before a request, and those of the request."""

    parent: StoredResponse | None
    before: tuple[ReadItem, ...]
    new: tuple[ReadItem, ...]
    given: bytes = b"[]"  # the request's items as they are stored
    chain: tuple[str, ...] = ()  # ids of the stored responses before it

    @property
    def responses(self) -> tuple[str, ...]:
        """Return the ids of all responses whose items are in the conversation, sent by the client
        or found in the store.
        """
        owners = (response_of(told.id) for told in (*self.before, *self.new))
        return tuple({*self.chain, *(owner for owner in owners if owner is not None)})


NOTHING_BEFORE = History(None, (), ())


def history(
    store: ResponseStore, previous: str | None, new: tuple[ReadItem, ...], stem: str
) -> History:
    """Return the history of a request, with referenced items in their places.

    Calls the store in any case, so that no response that has to be stored is generated in vain.
    Raises `StoreError`; `Fault` for a response or an item that is not there, `InvalidRequestError`
    for a response that cannot be continued.
    """
    chain = store.chain(previous or response_id(stem))
    if previous is not None:
        _check(chain, previous)
    before = tuple(
        one
        for record in chain
        for one in (*read_input(_input(record)), *read_input(_output(record)))
    )
    found = {
        one.item.id: _item(store, one.item.id) for one in new if isinstance(one.item, ItemReference)
    }
    resolved = tuple(
        found[one.item.id] if isinstance(one.item, ItemReference) else one for one in new
    )
    ids = tuple(record.id for record in chain)
    return History(
        chain[-1] if chain else None, before, resolved, stored_items(resolved, stem), ids
    )


def input_items(record: StoredResponse) -> list[dict[str, object]]:
    """Return the items that came with the request for a response, in order."""
    return decode(msgspec.Raw(record.input or b"[]"), list[dict[str, object]])


def _check(chain: tuple[StoredResponse, ...], previous: str) -> None:
    if not chain:
        raise Fault(
            404,
            f"Previous response with id {previous!r} not found.",
            field=PREVIOUS,
            code="previous_response_not_found",
            is_private=True,
        )
    if chain[-1].is_deleted:
        raise Fault(
            404,
            f"Previous response with id {previous!r} was deleted.",
            field=PREVIOUS,
            code="previous_response_not_found",
            is_private=True,
        )
    if deleted := [record.id for record in chain if record.is_deleted]:
        raise InvalidRequestError(
            (
                f"{deleted[0]}, which is before it, was deleted: what was said there is not known "
                "any more"
            ),
            PREVIOUS,
        )
    if chain[0].parent is not None:
        raise InvalidRequestError(f"{chain[0].parent}, which is before it, is not stored", PREVIOUS)
    if chain[-1].is_pending:
        raise InvalidRequestError(
            f"{previous} has no answer: it is being made, or the server that made it was ended",
            PREVIOUS,
        )
    if chain[-1].status == "failed":
        raise InvalidRequestError(
            f"{previous} has failed: there is nothing to go on from", PREVIOUS
        )


def _input(record: StoredResponse) -> list[msgspec.Raw]:
    return decode(msgspec.Raw(record.input or b"[]"), list[msgspec.Raw])


def _output(record: StoredResponse) -> list[msgspec.Raw]:
    return decode(msgspec.Raw(record.output or b'{"output":[]}'), Output).output


def _item(store: ResponseStore, item_id: str) -> ReadItem:
    owner = response_of(item_id)
    record = store.get(owner) if owner is not None else None
    for raw in [*_input(record), *_output(record)] if record is not None else []:
        if decode(raw, Named).id == item_id:
            [told] = read_input([raw])
            return told
    raise Fault(404, f"Item with id {item_id!r} not found.", field="input", is_private=True)
