"""Responses as they are stored, and their provenance: each is bound by hashes to what was said
before it.

Knows what follows from what, and what may take the place of what. Knows nothing of databases, or of
what is in a response.
"""

import hashlib
from collections.abc import Sequence
from typing import Self

import attrs

from semantic_trio.domain.errors import ResponseConflictError, ResponseNotFoundError

# What a response is called that is still being made: only such a record may be replaced, and
# nothing may follow it yet.
PENDING = frozenset({"queued", "in_progress"})
# of the number before each part of what is hashed: parts that are cut elsewhere have another hash
LENGTH_BYTES = 8


def is_storable(text: str) -> bool:
    """True if every database takes a text: a request may hold anything that JSON can."""
    return "\0" not in text and not any("\ud800" <= one <= "\udfff" for one in text)


def _storable(_: object, field: "attrs.Attribute[str]", text: str | None) -> None:
    if text is not None and not is_storable(text):
        raise ValueError(f"{field.name} holds what no database takes")


@attrs.frozen
class StoredResponse:
    """One turn: what came, what was answered, and the hashes that bind both to the turn before.

    When it is deleted its place in the chain stays, so that what follows it can still be verified:
    `input` and `output` are None then.
    """

    id: str = attrs.field(validator=_storable)
    parent: str | None = attrs.field(validator=_storable)  # the id of the turn before
    model: str = attrs.field(validator=_storable)
    created_at: int  # seconds since 1970
    status: str = attrs.field(validator=_storable)
    # JSON array: the items of this turn alone, as they came
    input: bytes | None = attrs.field(repr=False)
    output: bytes | None = attrs.field(repr=False)  # JSON object: the response, as it was answered
    input_hash: str
    output_hash: str

    @classmethod
    def of(  # its words are those of the API
        cls,
        *,
        id: str,  # noqa: A002
        parent: "StoredResponse | None",
        model: str,
        created_at: int,
        status: str,
        input: bytes,  # noqa: A002
        output: bytes,
    ) -> Self:
        """A response to `input` after `parent`, with its hashes."""
        hashed = input_hash(parent, input)
        before = parent.id if parent else None
        return cls(
            id,
            before,
            model,
            created_at,
            status,
            input,
            output,
            hashed,
            output_hash(output, hashed),
        )

    @property
    def is_deleted(self) -> bool:
        """True if only the place of the response in its chain is left."""
        return self.input is None or self.output is None

    @property
    def is_pending(self) -> bool:
        """True while the response is being made."""
        return self.status in PENDING

    def answered(self, status: str, output: bytes) -> Self:
        """The same turn when more is known of its answer."""
        return attrs.evolve(
            self, status=status, output=output, output_hash=output_hash(output, self.input_hash)
        )

    def deleted(self) -> Self:
        """Return what is left of the response."""
        return attrs.evolve(self, input=None, output=None)


@attrs.frozen
class Misfit:
    """A response that does not fit into its chain."""

    response: str  # its id
    field: str  # parent, input_hash or output_hash


def input_hash(parent: StoredResponse | None, items: bytes) -> str:
    """SHA-256, in hex, of the parent's two hashes (empty where there is none) and the bytes of the
    input, each after its length.
    """
    before = (parent.input_hash.encode(), parent.output_hash.encode()) if parent else (b"", b"")
    return _hash(*before, items)


def output_hash(answer: bytes, own_input_hash: str) -> str:
    """SHA-256, in hex, of the bytes of the response and its own `input_hash`, each after its
    length.
    """
    return _hash(answer, own_input_hash.encode())


def verify(chain: Sequence[StoredResponse]) -> tuple[Misfit, ...]:
    """Find responses of a chain, root first, that are not as they were made.

    What a deleted record held cannot be looked at any more; that its hashes are the ones which its
    successors were bound to can.
    """
    pairs = zip((None, *chain), chain, strict=False)  # the last one is nobody's parent
    return tuple(
        Misfit(record.id, field) for parent, record in pairs for field in _misfits(parent, record)
    )


def is_to_be_written(
    record: StoredResponse, known: StoredResponse | None, parent: StoredResponse | None
) -> bool:
    """True if a store has to write a record: it knows `known` under the same id, and `parent` as
    its parent (maybe without its content).

    Raises `ResponseNotFoundError` where the record was deleted meanwhile, or its parent is not
    there; `ResponseConflictError` where the id is another's, or where the record is not what
    follows from its parent.
    """
    if known == record:
        return False
    if known is not None:
        _check_successor(record, known)
    if record.parent is not None and parent is None:
        raise ResponseNotFoundError(record.parent)
    if parent is not None and parent.is_pending:
        raise ResponseConflictError(record.id, f"{parent.id}, which it follows, has no answer yet")
    if record.is_deleted or list(_misfits(parent, record)):
        raise ResponseConflictError(record.id, "it does not follow from what is before it")
    return True


def _check_successor(record: StoredResponse, known: StoredResponse) -> None:
    if known.is_deleted:
        raise ResponseNotFoundError(record.id)
    turns = [(one.parent, one.model, one.created_at, one.input_hash) for one in (record, known)]
    if not known.is_pending or turns[0] != turns[1]:
        raise ResponseConflictError(record.id, "there is another of this id")


def _misfits(parent: StoredResponse | None, record: StoredResponse) -> list[str]:
    """The fields of a record that do not fit."""
    fits = {"parent": record.parent == (parent.id if parent else None)}
    if record.input is not None:
        fits["input_hash"] = record.input_hash == input_hash(parent, record.input)
    if record.output is not None:
        fits["output_hash"] = record.output_hash == output_hash(record.output, record.input_hash)
    return [field for field, does in fits.items() if not does]


def _hash(*parts: bytes) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(LENGTH_BYTES, "big"))
        hashed.update(part)
    return hashed.hexdigest()
