"""Thoughts on the wire: whether they are wanted, whether they are shown, and the signatures by which those that are not come back.

Knows nothing of blocks and events.
"""

import base64
import binascii
import enum
import uuid

import attrs

# Before what a signature has beside its own id; other servers' signatures are theirs to read.
SIGNED = "semantic-trio"


class Display(enum.Enum):
    """How an answer's thoughts are told."""

    SHOWN = "shown"
    OMITTED = "omitted"  # a block without words
    NONE = "none"  # nobody has asked the model to think; some do all the same


@attrs.frozen
class ThinkingParam:
    """Whether the model is to think before it speaks, and of how many tokens at most."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether it is."""
        return self.type != "disabled"


def display_of(param: ThinkingParam | None) -> Display:
    """What a request says of thoughts; one that says nothing wants none."""
    if param is None or not param.is_wanted:
        return Display.NONE
    return Display.OMITTED if param.display == "omitted" else Display.SHOWN


def signature(hidden: str = "") -> str:
    """A signature like no other. A thought that is not shown travels in it, so that the model has it in later turns."""
    return f"{SIGNED}.{uuid.uuid4().hex}.{base64.urlsafe_b64encode(hidden.encode()).decode()}"


def thought_of(signature: str) -> str:
    """The thought that travels in a signature, if one does."""
    server, _, rest = signature.partition(".")
    if server != SIGNED:
        return ""
    try:
        return base64.urlsafe_b64decode(rest.partition(".")[2]).decode()
    except (binascii.Error, ValueError):
        return ""
