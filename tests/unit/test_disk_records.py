"""A record of an agent comes back as it was, and one that could not have been written does not come
back at all.
"""

import json
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from semantic_trio.adapters.disk.parsing import UnfitError
from semantic_trio.adapters.disk.records import decode, encode
from semantic_trio.domain.chain import TOKEN_BYTES, pack
from semantic_trio.domain.content import AgentRecord, Content, HistoryEnd, Tensor, TokenHistory
from semantic_trio.domain.conversation import (
    Calling,
    Conversation,
    Message,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from semantic_trio.domain.eviction import Rank

# with halves of surrogate pairs, in any order
TEXT = st.text(st.characters(exclude_categories=()), max_size=6)
KEY = st.binary(min_size=32, max_size=32)
ADAPTER = st.binary(min_size=16, max_size=16)
ID = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,8}", fullmatch=True)
TOKEN = st.integers(0, 2**31 - 1)
PARTS = st.one_of(
    st.builds(Text, TEXT),
    st.builds(Thinking, TEXT),
    st.builds(ToolCall, TEXT, TEXT, TEXT),
    st.builds(ToolResult, TEXT, TEXT, st.booleans(), st.lists(TEXT, max_size=2).map(tuple)),
)
MESSAGES = st.builds(
    Message,
    st.sampled_from(Role),
    st.lists(PARTS, max_size=3).map(tuple),
    st.none() | st.sampled_from(Rank),
)
CONVERSATIONS = st.builds(
    Conversation,
    st.lists(MESSAGES, max_size=4).map(tuple),
    st.lists(st.builds(Tool, TEXT, TEXT, TEXT, st.booleans(), st.booleans()), max_size=2).map(
        tuple
    ),
    st.builds(
        ToolChoice,
        st.sampled_from(Calling),
        st.none() | TEXT,
        st.booleans(),
        st.none() | st.lists(TEXT, max_size=2).map(tuple),
    ),
    st.none() | st.booleans(),
    st.none() | TEXT,
    st.none() | st.integers(0, 2**31),
    st.none() | TEXT,
)


@st.composite
def lines(draw: st.DrawFn, history: list[int]) -> TokenHistory:
    tokens = history[: draw(st.integers(0, len(history)))] + draw(st.lists(TOKEN, max_size=4))
    ends = st.builds(HistoryEnd, KEY, st.integers(0, len(tokens)), st.booleans())
    return TokenHistory(pack(tokens), tuple(draw(st.lists(ends, max_size=3))))


@st.composite
def records(draw: st.DrawFn) -> AgentRecord:
    history = draw(st.lists(TOKEN, max_size=8))
    return AgentRecord(
        id=draw(ID),
        is_named=draw(st.booleans()),
        is_kept=draw(st.booleans()),
        is_pinned=draw(st.booleans()),
        parent=draw(st.none() | ID),
        turns=draw(st.integers(0, 2**40)),
        used=draw(st.integers(0, 2**40)),
        history=pack(history),
        prompt_tokens=draw(st.integers(0, len(history))),
        text_fingerprint=draw(st.sampled_from(["", "7e" * 32])),
        chain=draw(KEY),
        salt=draw(st.just(b"") | KEY) + draw(st.just(b"") | ADAPTER),
        snapshots=tuple(draw(st.lists(st.tuples(st.integers(1, len(history)), KEY), max_size=3)))
        if history
        else (),
        conversation=draw(CONVERSATIONS),
        token_histories=tuple(draw(st.lists(lines(history), max_size=3))),
    )


CALL = Message(
    Role.ASSISTANT, (Thinking("Hm."), Text("Look:"), ToolCall("c1", "look", "{}")), Rank.LONG
)
RESULT = Message(Role.USER, (ToolResult("c1", "It rains.", loads=("umbrella",)),))
HISTORIES = (
    TokenHistory(pack(range(10)), (HistoryEnd(b"d" * 32, 10, is_answer=True),)),
    TokenHistory(pack([0, 1, 99]), (HistoryEnd(b"e" * 32, 3, is_answer=False),)),
)
RECORD = AgentRecord(
    id="main", is_named=True, is_kept=True, is_pinned=False, parent="mother", turns=3, used=7, history=pack(range(10)), prompt_tokens=8,
    chain=bytes(range(32)), snapshots=((4, bytes(32)), (10, b"m" * 32)), conversation=Conversation((CALL, RESULT), (Tool("look"),)),
    token_histories=HISTORIES,
)  # fmt: skip


def exactly(record: AgentRecord) -> tuple[AgentRecord, list[Rank | None]]:
    """With what is no part of what is said, and so not of what is compared."""
    return record, [message.rank for message in record.conversation.messages]


@given(record=records())
def test_a_record_comes_back_as_it_was(record: AgentRecord) -> None:
    assert exactly(decode(encode(record))) == exactly(record)


@pytest.mark.parametrize(
    "characters",
    [[0xD83D], [0xDE00, 0xD83D], [0xD83D, 0xDE00], [0x1F600], [0], [0x22, 0x5C, 0x2028]],
)
def test_no_text_is_another_afterwards(characters: list[int]) -> None:
    """Two halves of a surrogate pair are not the character they would be together."""
    text = "".join(map(chr, characters))
    record = attrs.evolve(RECORD, conversation=Conversation((Message(Role.USER, (Text(text),)),)))

    assert decode(encode(record)).conversation.messages[0].text == text


def test_a_record_without_a_salt_is_written_as_before_there_were_any() -> None:
    assert "salt" not in written(encode(RECORD))
    assert written(encode(attrs.evolve(RECORD, salt=b"s" * 32)))["salt"] == (b"s" * 32).hex()


def test_tokens_are_numbers_for_everybody() -> None:
    tensor = encode(RECORD)["history"]

    assert (tensor.dtype, tensor.shape, bytes(tensor.data)) == ("I32", (10,), RECORD.history)


def test_a_line_costs_only_what_is_not_in_the_history() -> None:
    content = encode(RECORD)

    assert (content["said.0"].shape, content["said.1"].shape) == ((0,), (1,))


def written(content: Content) -> Any:
    return json.loads(bytes(content["agent"].data))


def with_text(text: bytes) -> Content:
    return {**encode(RECORD), "agent": Tensor("U8", (len(text),), memoryview(text))}


def with_agent(agent: object) -> Content:
    return with_text(json.dumps(agent).encode())


def changed(*path: object, to: object) -> Content:
    """The record with one thing in another place or shape."""
    agent = at = written(encode(RECORD))
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return with_agent(agent)


def packed(*tokens: int) -> Tensor:
    return Tensor("I32", (len(tokens),), memoryview(pack(tokens)))


def without(name: str) -> Content:
    return {key: tensor for key, tensor in encode(RECORD).items() if key != name}


KEY_OF_63 = "0" * 63
PART = ("conversation", "messages", 0, "parts", 0)
IMPOSSIBLE = {
    "no agent": without("agent"),
    "no history": without("history"),
    "a line without tokens": without("said.1"),
    "tokens without a line": {**encode(RECORD), "said.2": packed()},
    "a tensor too much": {**encode(RECORD), "more": packed()},
    "a history of other numbers": {
        **encode(RECORD),
        "history": Tensor("F32", (10,), memoryview(RECORD.history)),
    },
    "a history of rows": {
        **encode(RECORD),
        "history": Tensor("I32", (2, 5), memoryview(RECORD.history)),
    },
    "a negative token": {**encode(RECORD), "history": packed(*range(9), -1)},
    "a negative token in a line": {**encode(RECORD), "said.1": packed(-1)},
    "an agent of other numbers": {**encode(RECORD), "agent": packed(1)},
    "no JSON": with_text(b"{]"),
    "no UTF-8": with_text(b'"\xff"'),
    "nested too deep": with_text(b"[" * 100_000),
    "a list": with_agent([]),
    "a field too much": changed("more", to=1),
    "a field too few": with_agent(
        {key: value for key, value in written(encode(RECORD)).items() if key != "used"}
    ),
    "no id": changed("id", to=""),
    "an id that is a path": changed("id", to="../main"),
    "an id that is a directory": changed("id", to=".."),
    "an id of two lines": changed("id", to="main\n"),
    "an id too long": changed("id", to="a" * 129),
    "an id that is no text": changed("id", to=1),
    "a parent that is a path": changed("parent", to="a/b"),
    "truth that is a number": changed("is_named", to=1),
    "turns that are truth": changed("turns", to=True),
    "a negative count": changed("used", to=-1),
    "a broken count": changed("turns", to=1.5),
    "a whole count that is broken all the same": changed("turns", to=1.0),
    "no number": changed("turns", to=float("nan")),
    "a number too large": changed("used", to=10**40),
    "a prompt longer than the history": changed("prompt_tokens", to=11),
    "a short salt": changed("salt", to=KEY_OF_63),
    "a short chain": changed("chain", to=KEY_OF_63),
    "a chain and a line's end": changed("chain", to="0" * 64 + "\n"),
    "a chain in capitals": changed("chain", to="A" * 64),
    "a snapshot before the first token": changed("marks", 0, 0, to=0),
    "a snapshot behind the last token": changed("marks", 0, 0, to=11),
    "a snapshot without a name": changed("marks", 0, 1, to=KEY_OF_63),
    "a snapshot of three": changed("marks", 0, to=[1, "0" * 64, 1]),
    "more of the history than there is": changed("said", 0, "common", to=11),
    "an end behind its line": changed("said", 1, "ends", 0, 1, to=4),
    "an end before its line": changed("said", 1, "ends", 0, 1, to=-1),
    "an end of two": changed("said", 1, "ends", 0, to=["0" * 64, 1]),
    "an end of four": changed("said", 1, "ends", 0, to=["0" * 64, 1, True, True]),
    "a digest that is none": changed("said", 1, "ends", 0, 0, to="d"),
    "an unknown role": changed("conversation", "messages", 0, "role", to="tool"),
    "an unknown rank": changed("conversation", "messages", 0, "rank", to="HIGHEST"),
    "a rank that is a number": changed("conversation", "messages", 0, "rank", to=1),
    "an unknown kind of part": changed(*PART, to={"type": "image", "text": ""}),
    "a part of no kind": changed(*PART, to={"text": ""}),
    "a part of another kind": changed(*PART, "type", to="call"),
    "a part without text": changed(*PART, "text", to=None),
    "a part with more": changed(*PART, "more", to=1),
    "half a surrogate pair for a field": changed(*PART, "\ud800", to=1),
    "an unknown way of calling": changed("conversation", "choice", "calling", to="maybe"),
    "thoughts that are text": changed("conversation", "thinks", to="yes"),
    "a key twice": with_text(bytes(encode(RECORD)["agent"].data)[:-1] + b',"used":7}'),
}


@pytest.mark.parametrize("what", sorted(IMPOSSIBLE))
def test_what_could_not_have_been_written_is_refused(what: str) -> None:
    with pytest.raises(UnfitError) as refused:
        decode(IMPOSSIBLE[what])
    assert len(str(refused.value)) < 300


def test_the_changes_above_are_what_is_refused() -> None:
    assert exactly(decode(changed("used", to=7))) == exactly(RECORD)
    assert decode(changed("marks", 0, 0, to=10)).snapshots[0] == (10, bytes(32))
    assert decode(changed("said", 1, "ends", 0, 1, to=3)) == RECORD


def test_no_record_asks_for_more_memory_than_a_server_has() -> None:
    """A history of 4 MB that a file of 100 KB would have a thousand times."""
    agent = written(encode(RECORD)) | {"said": [{"common": 1_000_000, "ends": []}] * 1000}
    history = Tensor("I32", (1_000_000,), memoryview(bytes(1_000_000 * TOKEN_BYTES)))
    rests = {f"said.{n}": packed() for n in range(1000)}

    with pytest.raises(UnfitError, match="has lines of more than"):
        decode({"agent": with_agent(agent)["agent"], "history": history} | rests)


SCALARS = st.none() | st.booleans() | st.integers(-2, 12) | st.integers() | st.floats() | TEXT
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)


def replace_one(draw: st.DrawFn, at: Any) -> Any:
    """JSON with one thing in it replaced by anything."""
    if not isinstance(at, dict | list) or not at or draw(st.integers(0, 4)) == 0:
        return draw(ANYTHING)
    step = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
    at[step] = replace_one(draw, at[step])
    return at


@st.composite
def replaced(draw: st.DrawFn) -> Content:
    return with_agent(replace_one(draw, written(encode(RECORD))))


@settings(max_examples=300)
@given(content=replaced())
def test_whatever_a_record_says_there_is_one_error(content: Content) -> None:
    try:
        found = decode(content)
    except UnfitError:
        return
    assert decode(encode(found)) == found, "what is believed could have been written"
