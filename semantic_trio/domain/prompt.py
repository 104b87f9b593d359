"""The prompt that a conversation becomes: its tokens, and the positions that others may begin at.

Knows tokens and positions. Knows nothing of messages, or of the template that wrote them.
"""

import attrs

from semantic_trio.domain.conversation import ThinkingChoice
from semantic_trio.domain.eviction import Rank


@attrs.frozen
class Known:
    """The beginning of a conversation in the very tokens it was read and said in: a model does not
    always spell as its tokenizer would.
    """

    # of the conversation that `tokens` stand for; the last of them was said by the assistant
    messages: int = 0
    # up to the end of what it said; the words a template puts after that are still to come
    tokens: tuple[int, ...] = ()
    # what was read and said after them last time; it serves as far as its text agrees
    draft: tuple[int, ...] = ()


NOTHING_KNOWN = Known()


@attrs.frozen
class Breakpoint:
    """A position of a prompt that others are likely to begin with."""

    position: int
    rank: Rank


@attrs.frozen
class Prompt:
    """A conversation as the model reads it, up to where it is to answer."""

    tokens: tuple[int, ...]
    # tokens of the tools and system messages at its front: what other conversations are likely to
    # begin with too
    head: int = 0
    breakpoints: tuple[Breakpoint, ...] = ()  # in order of position
    # the end of its text, where that belongs to the answer already: a thought that was begun, a
    # call that was demanded
    opening: str = ""
    # as the template writes it in front of the first answer; None: it does not
    thinking: ThinkingChoice | None = None
