"""Salts: what keeps histories apart that have the same tokens.

Knows bytes. Knows nothing of blocks or agents.
"""

import hashlib

# Secret or random bytes that go into the names of all blocks of a history: histories of different salts never have a block in common.
Salt = bytes
NO_SALT: Salt = b""  # of all histories that share their blocks
SALT_BYTES = 32  # of every other salt


def salt_of(chosen: str) -> Salt:
    """The salt of a text that a client has chosen. The text cannot be found out from the salt."""
    return hashlib.sha256(b"cache_salt\0" + chosen.encode(errors="surrogatepass")).digest()
