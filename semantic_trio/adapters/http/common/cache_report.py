"""The reuse of a prompt, as clients see it: a header of whole responses, an object in the last
event of streams.

Knows the wire and nothing of memory.
"""

import attrs

from semantic_trio.domain.reuse import MissCause, Reuse, ReuseSource

CACHE_HEADER = "x-semantic-cache"


@attrs.frozen
class Cache:
    """The part of a turn's prompt that was not computed again."""

    reused: int  # tokens of the prompt
    prompt_tokens: int
    source: ReuseSource
    cause: MissCause | None  # null: nothing that was in the cache was missed
    lost: int  # tokens of the agent's history that were not used

    @classmethod
    def of(cls, reuse: Reuse) -> "Cache":
        """Build the report of a turn's reuse."""
        return cls(reuse.tokens, reuse.prompt_tokens, reuse.source, reuse.cause, reuse.lost_tokens)


def cache_header(reuse: Reuse) -> str:
    """Return the header's value, `reused=2013/2044; source=ram; cause=diverged; lost=12`; without a
    cause it ends after the source.
    """
    text = f"reused={reuse.tokens}/{reuse.prompt_tokens}; source={reuse.source.value}"
    return (
        text
        if reuse.cause is None
        else f"{text}; cause={reuse.cause.value}; lost={reuse.lost_tokens}"
    )
