"""Records of agents as tensors: tokens as numbers, everything else as JSON.

Knows the checks that a record has to pass. Knows nothing of files.
"""

import json
from typing import Annotated

import msgspec
import numpy as np

from semantic_trio.adapters.disk.conversations import (
    FileStruct,
    WrittenConversation,
    conversation_of,
    written,
)
from semantic_trio.adapters.disk.parsing import Count, NewerError, UnfitError, parse, strictly
from semantic_trio.domain.agent import AGENT_ID
from semantic_trio.domain.chain import TOKEN_BYTES, common_tokens
from semantic_trio.domain.content import AgentRecord, Content, HistoryEnd, Tensor, TokenHistory

Key = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Id = Annotated[str, msgspec.Meta(pattern=rf"\A{AGENT_ID.pattern}\Z")]
# Words of msgspec's error.
UNKNOWN_FIELD = "Object contains unknown field"
# Limit for all token histories of one record, which share the tokens of `history`: no file may ask
# for more memory than a server would use.
MOST_HISTORY_BYTES = 1 << 30


class WrittenEnd(FileStruct, frozen=True, array_like=True):
    """See `HistoryEnd`."""

    digest: Key
    stop: Count
    is_answer: bool


class WrittenLine(FileStruct, frozen=True):
    """See `TokenHistory`: most token histories are the agent's history, or begin with it."""

    common: Count  # leading tokens shared with the history; the rest has a tensor of its own
    ends: tuple[WrittenEnd, ...]


class WrittenAgent(FileStruct, frozen=True, kw_only=True):
    """See `AgentRecord`."""

    id: Id
    is_named: bool
    is_kept: bool
    is_pinned: bool
    parent: Id | None
    turns: Count
    used: Count
    prompt_tokens: Count
    chain: Key
    # own part, and digest of the adapter
    salt: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?([0-9a-f]{32})?\Z")] = ""
    text_fingerprint: Annotated[str, msgspec.Meta(max_length=64)] = ""
    marks: tuple[tuple[Count, Key], ...]
    strays: tuple[Key, ...] = ()
    responses: tuple[Id, ...] = ()
    conversation: WrittenConversation
    said: tuple[WrittenLine, ...]


def encode(record: AgentRecord) -> Content:
    """Return a record as tensors."""
    common = [common_tokens(line.packed, record.history) for line in record.token_histories]
    rests = {
        _said(n): _packed(line.packed[common[n] * TOKEN_BYTES :])
        for n, line in enumerate(record.token_histories)
    }
    agent = WrittenAgent(
        id=record.id,
        is_named=record.is_named,
        is_kept=record.is_kept,
        is_pinned=record.is_pinned,
        parent=record.parent,
        turns=record.turns,
        used=record.used,
        prompt_tokens=record.prompt_tokens,
        text_fingerprint=record.text_fingerprint,
        chain=record.chain.hex(),
        salt=record.salt.hex(),
        marks=tuple((position, key.hex()) for position, key in record.snapshots),
        strays=tuple(key.hex() for key in record.strays),
        responses=record.responses,
        conversation=written(record.conversation),
        said=tuple(
            WrittenLine(count, _ends(line))
            for count, line in zip(common, record.token_histories, strict=True)
        ),
    )
    # Half a surrogate pair, which clients may send and UTF-8 has not, is three bytes like any other
    # character of its size.
    text = json.dumps(msgspec.to_builtins(agent), ensure_ascii=False, separators=(",", ":")).encode(
        errors="surrogatepass"
    )
    return {
        "history": _packed(record.history),
        "agent": Tensor("U8", (len(text),), memoryview(text)),
    } | rests


def decode(content: Content) -> AgentRecord:
    """Return the record in tensors.

    Raises `UnfitError` for tensors that `encode` cannot have made.
    """
    agent = _agent(parse(_tensor(content, "agent", "U8")))
    history = _tokens(content, "history")
    if content.keys() - {"agent", "history"} != {_said(n) for n in range(len(agent.said))}:
        raise UnfitError(f"has {len(content)} tensors, and {len(agent.said)} lines of conversation")
    _check(agent, len(history) // TOKEN_BYTES)
    return AgentRecord(
        id=agent.id,
        is_named=agent.is_named,
        is_kept=agent.is_kept,
        is_pinned=agent.is_pinned,
        parent=agent.parent,
        turns=agent.turns,
        used=agent.used,
        history=history,
        prompt_tokens=agent.prompt_tokens,
        text_fingerprint=agent.text_fingerprint,
        chain=bytes.fromhex(agent.chain),
        salt=bytes.fromhex(agent.salt),
        snapshots=tuple((position, bytes.fromhex(key)) for position, key in agent.marks),
        strays=tuple(bytes.fromhex(key) for key in agent.strays),
        responses=agent.responses,
        conversation=conversation_of(agent.conversation),
        token_histories=tuple(
            _line(line, history, _tokens(content, _said(n))) for n, line in enumerate(agent.said)
        ),
    )


def _agent(found: object) -> WrittenAgent:
    """Return the parsed record.

    Raises `NewerError` for an unknown field: the checksum is right, so a newer version has written
    it.
    """
    try:
        return strictly(found, WrittenAgent, "record")
    except UnfitError as error:
        if UNKNOWN_FIELD in str(error):
            raise NewerError(f"was written by a newer version: {error}") from error
        raise


def _said(number: int) -> str:
    return f"said.{number}"


def _packed(packed: bytes) -> Tensor:
    return Tensor("I32", (len(packed) // TOKEN_BYTES,), memoryview(packed))


def _ends(line: TokenHistory) -> tuple[WrittenEnd, ...]:
    return tuple(WrittenEnd(end.digest.hex(), end.stop, end.is_answer) for end in line.ends)


def _tensor(content: Content, name: str, dtype: str) -> memoryview:
    tensor = content.get(name)
    if tensor is None or tensor.dtype != dtype or len(tensor.shape) != 1:
        raise UnfitError(f"has no row of {dtype} called {name}")
    return tensor.data


def _tokens(content: Content, name: str) -> bytes:
    packed = bytes(_tensor(content, name, "I32"))
    if np.frombuffer(packed, "<i4").min(initial=0) < 0:
        raise UnfitError(f"has a negative token in {name}")
    return packed


def _check(agent: WrittenAgent, tokens: int) -> None:
    if agent.prompt_tokens > tokens:
        raise UnfitError(f"has a prompt of {agent.prompt_tokens} tokens in a history of {tokens}")
    for position, _ in agent.marks:
        if not 1 <= position <= tokens:
            raise UnfitError(f"has a snapshot at {position} of {tokens} tokens")
    if any(line.common > tokens for line in agent.said):
        raise UnfitError(f"has a line with more than {tokens} tokens of the history")
    if sum(line.common for line in agent.said) * TOKEN_BYTES > MOST_HISTORY_BYTES:
        raise UnfitError(f"has lines of more than {MOST_HISTORY_BYTES} bytes")


def _line(found: WrittenLine, history: bytes, rest: bytes) -> TokenHistory:
    packed = history[: found.common * TOKEN_BYTES] + rest
    for end in found.ends:
        if end.stop * TOKEN_BYTES > len(packed):
            raise UnfitError(
                f"has a beginning of {end.stop} tokens in a line of {len(packed) // TOKEN_BYTES}"
            )
    return TokenHistory(
        packed,
        tuple(HistoryEnd(bytes.fromhex(end.digest), end.stop, end.is_answer) for end in found.ends),
    )
