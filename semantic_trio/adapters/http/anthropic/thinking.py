"""Thinking in the Messages API: on or off, shown or omitted, and signatures that carry omitted
thoughts.

Knows nothing of blocks and events.
"""

import base64
import binascii
import enum
import uuid

import attrs

# Prefix of a signature; signatures of other servers are not read.
SIGNED = "semantic-trio"


class Display(enum.Enum):
    """The display of an answer's thoughts."""

    SHOWN = "shown"
    OMITTED = "omitted"  # a block without text
    NONE = "none"  # thinking was not asked for; some models think all the same


@attrs.frozen
class ThinkingParam:
    """The request for thinking, and its budget of tokens."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None

    @property
    def is_wanted(self) -> bool:
        """True if thinking is asked for."""
        return self.type != "disabled"


def display_of(param: ThinkingParam | None) -> Display:
    """Return the display that a request asks for; none without a `thinking` field."""
    if param is None or not param.is_wanted:
        return Display.NONE
    return Display.OMITTED if param.display == "omitted" else Display.SHOWN


def signature(hidden: str = "") -> str:
    """Return a unique signature.

    It carries an omitted thought, so that the model has the thought in later turns.
    """
    return f"{SIGNED}.{uuid.uuid4().hex}.{base64.urlsafe_b64encode(hidden.encode()).decode()}"


def thought_of(signature: str) -> str:
    """Return the thought that a signature carries, or an empty text."""
    server, _, rest = signature.partition(".")
    if server != SIGNED:
        return ""
    try:
        return base64.urlsafe_b64decode(rest.partition(".")[2]).decode()
    except (binascii.Error, ValueError):
        return ""
