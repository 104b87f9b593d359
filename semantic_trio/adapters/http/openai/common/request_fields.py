"""Fields that requests of Chat Completions and Completions share: sampling, the number of answers,
stop strings, streaming.

Knows the wire. Knows neither conversations nor prompts.
"""

from typing import Annotated

import attrs
import msgspec

from semantic_trio.adapters.http.common.compatibility_fields import UnsupportedFields
from semantic_trio.adapters.http.common.identity import AgentId, CacheSalt, Identity, identify
from semantic_trio.adapters.http.openai.common.sampling import SteeringFields

# Most answers to one request: each of them takes a row.
MOST_CHOICES = 32


@attrs.frozen
class StreamOptions:
    """Options of a stream."""

    include_usage: bool | None = None


@attrs.frozen(kw_only=True)
class SampledRequest(SteeringFields, UnsupportedFields):
    """The fields that both requests share."""

    model: str
    n: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    session_id: AgentId | None = None
    prompt_cache_key: str | None = None
    cache_salt: CacheSalt | None = None
    service_tier: str | None = None

    def identity(self, headers: dict[str, str]) -> Identity:
        """Return the identity of the request. Raises as `identify` does."""
        return identify(
            headers,
            session_id=self.session_id,
            prompt_cache_key=self.prompt_cache_key,
            cache_salt=self.cache_salt,
        )

    @property
    def wants_usage(self) -> bool:
        """True if a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        """Return the number of answers."""
        return self.n or 1
