"""Salts: what keeps histories apart that have the same tokens.

A salt is the client's own part, if there is one, and the digest of the adapter that computes, if
there is one. So no history of one adapter has a block in common with a history of another adapter,
or of the model without one.

Knows bytes. Knows nothing of blocks or agents.
"""

import hashlib

# Secret or random bytes that go into the names of all blocks of a history: histories of different
# salts never have a block in common.
Salt = bytes
NO_SALT: Salt = b""  # of all histories that share their blocks
SALT_BYTES = 32  # of the client's own part
ADAPTER_BYTES = 16  # of the digest of an adapter
NO_ADAPTER = b""  # the model as it is


def salt_of(chosen: str) -> Salt:
    """The salt of a text that a client has chosen. The text cannot be found out from the salt."""
    return hashlib.sha256(b"cache_salt\0" + chosen.encode(errors="surrogatepass")).digest()


def adapted(salt: Salt, adapter: bytes) -> Salt:
    """Return a salt for an adapter, or for none: the own part stays, and the adapter that the salt
    was for does not.
    """
    return own_part(salt) + adapter


def own_part(salt: Salt) -> Salt:
    """Return the part of a salt that belongs to a client or agent; empty if there is none."""
    return salt[: len(salt) - len(adapter_of(salt))]


def adapter_of(salt: Salt) -> bytes:
    """Return the digest of the adapter that a salt is for; empty for the model without one."""
    return salt[len(salt) // SALT_BYTES * SALT_BYTES :]
