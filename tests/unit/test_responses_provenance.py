"""What follows from what was said is bound to it: not a byte can be changed unseen."""

import hashlib

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given

from semantic_trio.domain.errors import ResponseConflictError, ResponseNotFoundError
from semantic_trio.domain.responses import (
    Misfit,
    StoredResponse,
    input_hash,
    is_storable,
    is_to_be_written,
    output_hash,
    verify,
)


def response(
    number: int = 0,
    parent: StoredResponse | None = None,
    status: str = "completed",
    said: bytes = b'["hi"]',
) -> StoredResponse:
    return StoredResponse.of(
        id=f"resp_{number}",
        parent=parent,
        model="tiny",
        created_at=1000 + number,
        status=status,
        input=said,
        output=b'{"n": %d}' % number,
    )


def conversation(turns: int) -> tuple[StoredResponse, ...]:
    chain: list[StoredResponse] = []
    for number in range(turns):
        chain.append(response(number, chain[-1] if chain else None))
    return tuple(chain)


def test_the_hashes_are_what_the_manual_says() -> None:
    """Others can compute them: lengths are eight bytes, the highest first."""
    first, second = conversation(2)

    def hashed(*parts: bytes) -> str:
        return hashlib.sha256(
            b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        ).hexdigest()

    assert first.input_hash == hashed(b"", b"", b'["hi"]')
    assert first.output_hash == hashed(b'{"n": 0}', first.input_hash.encode())
    assert second.input_hash == hashed(
        first.input_hash.encode(), first.output_hash.encode(), b'["hi"]'
    )


def test_a_chain_as_it_was_made_fits() -> None:
    assert verify(conversation(5)) == ()
    assert verify(()) == ()


@given(
    st.integers(0, 4), st.sampled_from(["input", "output"]), st.integers(0, 5), st.integers(1, 255)
)
def test_a_changed_byte_is_found_where_it_is(turn: int, field: str, at: int, by: int) -> None:
    chain = list(conversation(5))
    content = bytearray(getattr(chain[turn], field))
    content[at] ^= by
    chain[turn] = attrs.evolve(chain[turn], **{field: bytes(content)})

    assert verify(chain) == (Misfit(f"resp_{turn}", f"{field}_hash"),)


@given(st.integers(0, 4), st.sampled_from(["input_hash", "output_hash", "id", "parent"]))
def test_a_changed_hash_or_place_is_found(turn: int, field: str) -> None:
    chain = list(conversation(5))
    chain[turn] = attrs.evolve(chain[turn], **{field: "0" * 64})

    found = verify(chain)

    if (turn, field) == (4, "id"):
        assert found == (), "nothing is bound to the name of the last one"
    else:
        assert {misfit.response for misfit in found} <= {
            chain[turn].id,
            f"resp_{turn}",
            f"resp_{turn + 1}",
        }
        assert found


@pytest.mark.parametrize("turn", range(4))
def test_who_changes_a_turn_has_to_change_all_that_follow(turn: int) -> None:
    """Also where its own hashes are made to fit."""
    chain = list(conversation(5))
    forged = attrs.evolve(chain[turn], output=b'{"forged": 1}')
    chain[turn] = attrs.evolve(forged, output_hash=output_hash(b'{"forged": 1}', forged.input_hash))

    assert verify(chain) == (Misfit(f"resp_{turn + 1}", "input_hash"),)


def test_a_turn_that_is_left_out_or_moved_is_found() -> None:
    chain = conversation(4)

    assert verify(chain[1:]) == (Misfit("resp_1", "parent"), Misfit("resp_1", "input_hash"))
    assert verify(chain[:1] + chain[2:]) == (
        Misfit("resp_2", "parent"),
        Misfit("resp_2", "input_hash"),
    )
    assert {misfit.response for misfit in verify((chain[0], chain[2], chain[1], chain[3]))} == {
        "resp_1",
        "resp_2",
        "resp_3",
    }


def test_what_is_deleted_still_holds_the_chain_together() -> None:
    chain = list(conversation(4))
    chain[1] = chain[1].deleted()

    assert (chain[1].is_deleted, chain[1].input, chain[1].output, verify(chain)) == (
        True,
        None,
        None,
        (),
    )

    chain[1] = attrs.evolve(chain[1], output_hash="0" * 64)
    assert verify(chain) == (Misfit("resp_2", "input_hash"),)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_no_two_contents_share_a_hash(one: bytes, other: bytes) -> None:
    parent = response()

    assert (input_hash(parent, one) == input_hash(parent, other)) == (one == other)
    assert input_hash(None, one) != input_hash(parent, one)
    assert output_hash(one, "") != input_hash(None, one)


def test_an_answer_that_comes_later_changes_the_answer_alone() -> None:
    queued = response(status="queued")
    done = queued.answered("completed", b'{"done": 1}')

    assert (queued.is_pending, done.is_pending) == (True, False)
    assert done == StoredResponse.of(
        id="resp_0",
        parent=None,
        model="tiny",
        created_at=1000,
        status="completed",
        input=b'["hi"]',
        output=b'{"done": 1}',
    )


def test_what_was_said_is_not_shown() -> None:
    assert "hi" not in repr(response())


@pytest.mark.parametrize("field", ["id", "parent", "model", "status"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x\udfff"])
def test_what_no_database_takes_is_in_no_response(field: str, text: str) -> None:
    assert not is_storable(text)
    with pytest.raises(ValueError, match=field):
        attrs.evolve(response(1, response()), **{field: text})


# -------------------------------------------------------------------- what may be written over what

FIRST, SECOND = conversation(2)
PENDING = response(2, SECOND, "in_progress")
DONE = PENDING.answered("completed", b'{"done": 1}')


@pytest.mark.parametrize(
    ("record", "known", "parent"),
    [
        (FIRST, None, None),
        (SECOND, None, FIRST),
        (SECOND, None, FIRST.deleted()),
        (DONE, PENDING, SECOND),
    ],
)
def test_what_is_new_is_written(
    record: StoredResponse, known: StoredResponse | None, parent: StoredResponse | None
) -> None:
    assert is_to_be_written(record, known, parent)


@pytest.mark.parametrize("record", [FIRST, SECOND, PENDING, FIRST.deleted()])
def test_what_is_there_is_not_written_again(record: StoredResponse) -> None:
    assert not is_to_be_written(record, record, None)


@pytest.mark.parametrize(
    ("record", "known", "parent"),
    [
        (FIRST.answered("completed", b"{}"), FIRST, None),
        (FIRST.answered("queued", b"{}"), FIRST, None),
        (response(2, SECOND, said=b"[]"), PENDING, SECOND),
        (attrs.evolve(DONE, created_at=0), PENDING, SECOND),
        (attrs.evolve(DONE, model="other"), PENDING, SECOND),
        (response(3, PENDING), None, PENDING),
        (response(3, DONE), None, PENDING),
        (response(3, SECOND.answered("completed", b"{}")), None, SECOND),
        (attrs.evolve(FIRST, output=b"{}"), None, None),
        (FIRST.deleted(), None, None),
    ],
)
def test_what_does_not_follow_is_refused(
    record: StoredResponse, known: StoredResponse | None, parent: StoredResponse | None
) -> None:
    with pytest.raises(ResponseConflictError) as refused:
        is_to_be_written(record, known, parent)

    assert refused.value.response == record.id


def test_what_was_deleted_does_not_come_back() -> None:
    with pytest.raises(ResponseNotFoundError, match="resp_2"):
        is_to_be_written(DONE, PENDING.deleted(), SECOND)
    with pytest.raises(ResponseNotFoundError, match="resp_1"):
        is_to_be_written(DONE, None, None)
