"""The usage of a request, in the words of the Messages API. Knows numbers alone."""

from collections.abc import Iterable
from typing import Literal

import attrs

from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.generation import Finished
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.prompt import Breakpoint


@attrs.frozen
class CacheCreation:
    """Tokens written to the cache, by the time to live that the client asks for."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


@attrs.frozen
class Usage:
    """The usage of a request: each token of the prompt counts once."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    cache_creation: CacheCreation
    service_tier: Literal["standard", "batch"] = "standard"

    @classmethod
    def of(
        cls,
        prompt_tokens: int,
        reused: int,
        output_tokens: int,
        breakpoints: Iterable[Breakpoint] = (),
        priority: Priority = Priority.INTERACTIVE,
    ) -> "Usage":
        """Count tokens read from the cache, tokens written to it up to the last breakpoint, and
        plain input behind that.
        """
        marked = [place for place in breakpoints if place.rank is not Rank.PLAIN]
        for_long = max((place.position for place in marked if place.rank is Rank.LONG), default=0)
        written = max(max((place.position for place in marked), default=0) - reused, 0)
        written_for_long = max(for_long - reused, 0)
        creation = CacheCreation(written - written_for_long, written_for_long)
        tier: Literal["standard", "batch"] = (
            "batch" if priority is Priority.BACKGROUND else "standard"
        )
        return cls(prompt_tokens - reused - written, output_tokens, written, reused, creation, tier)


def usage_of(finished: Finished, breakpoints: Iterable[Breakpoint], priority: Priority) -> Usage:
    """Return the usage of a generation."""
    return Usage.of(
        finished.prompt_tokens,
        finished.reuse.tokens,
        finished.completion_tokens,
        breakpoints,
        priority,
    )
