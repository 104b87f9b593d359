"""JSON of responses and events.

Knows encoding alone.
"""

import msgspec

# Unicode's line separators. JSON may hold them unescaped, but clients that split a stream into
# lines as Python does (httpx's `iter_lines`) would cut an event in two. Escaped, they mean the
# same. In UTF-8 these bytes are never a part of another character.
LINE_SEPARATORS = (
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
    ("\x85".encode(), rb"\u0085"),
)


def encode_json(content: object) -> bytes:
    """Encode anything that msgspec can encode, on one line for every reader of lines."""
    encoded = msgspec.json.encode(content)
    for character, escape in LINE_SEPARATORS:
        encoded = encoded.replace(character, escape)
    return encoded
