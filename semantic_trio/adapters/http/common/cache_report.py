"""How much of a prompt was not computed again, as clients are told: a header of plain answers, an object in the last event of streams.

Knows the wire and nothing of memory.
"""

import attrs

from semantic_trio.domain.reuse import MissCause, Reuse, Source

CACHE_HEADER = "x-semantic-cache"


@attrs.frozen
class Cache:
    """What a turn did not compute again."""

    reused: int  # tokens of the prompt
    prompt_tokens: int
    source: Source
    cause: MissCause | None  # null: nothing that was known was lost
    lost: int  # tokens of the agent's history that were not used

    @classmethod
    def of(cls, reuse: Reuse) -> "Cache":
        """As a turn began."""
        return cls(reuse.tokens, reuse.prompt_tokens, reuse.source, reuse.cause, reuse.lost_tokens)


def cache_header(reuse: Reuse) -> str:
    """`reused=2013/2044; source=ram; cause=diverged; lost=12`; without a cause the last two are left out."""
    told = f"reused={reuse.tokens}/{reuse.prompt_tokens}; source={reuse.source.value}"
    return told if reuse.cause is None else f"{told}; cause={reuse.cause.value}; lost={reuse.lost_tokens}"
