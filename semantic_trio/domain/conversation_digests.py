"""Digests of conversations: one for each message with all before it, a chain that overlooks what
clients rewrite.

In front of each digest stands the salt: conversations of different salts are never taken for each
other.
"""

import hashlib
import json
import math

from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Role,
    ToolCall,
)
from semantic_trio.domain.salt import NO_SALT, Salt

Digest = bytes  # a salt, and the hash of a conversation

HASH_BYTES = 32


def chain(conversation: Conversation, salt: Salt = NO_SALT) -> tuple[Digest, ...]:
    """Return a digest of each beginning of a canonical conversation that ends with a message: equal
    where clients of one salt mean the same.
    """
    digests, last = (
        [],
        salt
        + _hash(
            b"", [[tool.name, tool.description, tool.parameters] for tool in conversation.tools]
        ),
    )
    for message in conversation.messages:
        last = link(last, message)
        digests.append(last)
    return tuple(digests)


def link(before: Digest, message: Message) -> Digest:
    """Return the digest of a conversation with one message more."""
    return salt_of_digest(before) + _hash(before[-HASH_BYTES:], _meaning(message))


def salt_of_digest(digest: Digest) -> Salt:
    """Return the salt in front of a digest."""
    return digest[:-HASH_BYTES]


def _hash(before: bytes, what: object) -> bytes:
    return hashlib.sha256(before + json.dumps(what).encode()).digest()


def _meaning(message: Message) -> list[object]:
    """Return the parts of a message that clients leave as they are: no thoughts (many clients send
    none back), no blanks around an answer.
    """
    text = message.text.strip() if message.role is Role.ASSISTANT else message.text
    calls = [[call.id, call.name, _arguments(call)] for call in message.calls]
    results = [[result.call_id, result.text, result.is_error] for result in message.results]
    return [message.role.value, text, calls, results, *(["late"] if message.is_late else [])]


def _arguments(call: ToolCall) -> object:
    """Arguments without the blanks at the ends of lines, which editing tools strip, and in numbers
    as clients know them that have but one kind.
    """
    try:
        return _stripped(json.loads(call.arguments, parse_float=_number))
    except (ValueError, RecursionError):
        return call.arguments


def _number(written: str) -> float | str:
    """The number as a client with one kind of number knows it; as it is written where no float
    holds it.
    """
    value = float(written)
    if not math.isfinite(value):
        return written
    return int(value) if value.is_integer() else value


def _stripped(value: object) -> object:
    if isinstance(value, str):
        return "\n".join(line.rstrip() for line in value.rstrip().split("\n"))
    if isinstance(value, dict):
        return {key: _stripped(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    return value
