"""Lines of the event log: one type for each event, and the line of an observation.

`schema.json` publishes the same format for other programs; `tests/unit/test_event_log.py` compares
the two.
"""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from semantic_trio.domain.observation import (
    DrainBegan,
    DrainEnded,
    Evicted,
    GenerationEnded,
    Loaded,
    ModelLoaded,
    ModelSwapped,
    ModelUnloaded,
    Observation,
    Observed,
    PromptRead,
    RequestEnded,
    RowOpened,
    Tier,
    UnloadCause,
    Written,
)
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.reuse import MissCause, ReuseSource

# The published JSON Schema of a line.
SCHEMA_FILE = Path(__file__).with_name("schema.json")

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
RequestId = Annotated[
    str, Meta(min_length=1, description="The id in the header `request-id` of the response.")
]
AgentId = Annotated[str, Meta(description="The id of the agent; empty if the request has none.")]
Time = Annotated[datetime.datetime, Meta(tz=True, description="When it happened, in UTC.")]
Number = Annotated[
    int,
    Meta(
        ge=1,
        description=(
            "Counts the events of one server process; numbers that are missing were dropped."
        ),
    ),
]


class Line(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", kw_only=True
):
    """Fields of every line."""

    time: Time
    number: Number


class RequestLine(Line, tag="request", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request to the API was answered or given up."""

    request_id: RequestId
    agent: AgentId
    model: Annotated[
        str, Meta(description="The id of the model; empty if the request reached none.")
    ]
    protocol: str
    status: Annotated[
        str,
        Meta(
            description=(
                "The HTTP status, or `aborted` or `client_gone` where the response is not whole."
            )
        ),
    ]
    seconds: Seconds
    prompt_tokens: Count
    reused_tokens: Count
    completion_tokens: Count


class ReuseLine(Line, tag="reuse", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A generation got a row, and tokens of its prompt need not be computed."""

    request_id: RequestId
    agent: AgentId
    waited_seconds: Annotated[
        float, Meta(ge=0, description="From submission until the row was opened.")
    ]
    prompt_tokens: Count
    reused_tokens: Count
    source: ReuseSource
    cause: Annotated[
        MissCause | None,
        Meta(description="Why no more was reused; null if nothing known was lost."),
    ]
    lost_tokens: Annotated[
        int, Meta(ge=0, description="Tokens of the agent's history that were not reused.")
    ]
    priority: Priority


class PrefillLine(Line, tag="prefill", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A prompt was read to its end."""

    request_id: RequestId
    agent: AgentId
    tokens: Annotated[int, Meta(ge=0, description="Tokens that were computed.")]
    seconds: Annotated[
        float, Meta(ge=0, description="From the opening of the row to the first token.")
    ]


class GenerationLine(Line, tag="generation", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A generation is over. A request may have several."""

    request_id: RequestId
    agent: AgentId
    completion_tokens: Count
    seconds: Annotated[
        float, Meta(ge=0, description="From submission until the request released the generation.")
    ]
    priority: Priority


class EvictLine(Line, tag="evict", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Blocks were evicted from RAM, or blocks and snapshots from disk."""

    tier: Tier
    entries: Count


class WriteLine(Line, tag="write", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Blocks and snapshots, or the record of an agent, were written to disk."""

    agent: Annotated[
        str | None,
        Meta(
            description=(
                "The agent whose record was written; null for blocks and snapshots, which agents "
                "share."
            )
        ),
    ]
    entries: Count
    size_bytes: Count
    seconds: Seconds


class LoadLine(Line, tag="load", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Blocks and snapshots were loaded from disk."""

    entries: Count
    tokens: Count
    size_bytes: Count
    seconds: Seconds


class ModelLine(Line, tag="model", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model was loaded."""

    model: str
    seconds: Seconds


class ModelUnloadedLine(
    Line, tag="model_unloaded", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """A model was unloaded, and its memory is free again."""

    model: str
    cause: UnloadCause
    size_bytes: Count
    seconds: Annotated[
        float, Meta(ge=0, description="Since new requests of the model had to wait.")
    ]


class ModelSwappedLine(
    Line, tag="model_swapped", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """The main model was replaced, or could not be."""

    model: Annotated[str, Meta(description="The new main model.")]
    previous: str
    seconds: Seconds
    is_done: Annotated[
        bool,
        Meta(
            description=(
                "False if the new model could not be loaded: the previous one is still the main "
                "model."
            )
        ),
    ]


class DrainLine(Line, tag="drain", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The server takes no more requests."""

    open_requests: Count
    grace_seconds: Seconds


class DrainedLine(Line, tag="drained", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """No request is open any more."""

    failed_requests: Annotated[int, Meta(ge=0, description="Requests that had not ended in time.")]
    seconds: Seconds


AnyLine = (
    RequestLine
    | ReuseLine
    | PrefillLine
    | GenerationLine
    | EvictLine
    | WriteLine
    | LoadLine
    | ModelLine
    | ModelUnloadedLine
    | ModelSwappedLine
    | DrainLine
    | DrainedLine
)

LINES: dict[type[Observation], type[AnyLine]] = {
    RequestEnded: RequestLine,
    RowOpened: ReuseLine,
    PromptRead: PrefillLine,
    GenerationEnded: GenerationLine,
    Evicted: EvictLine,
    Written: WriteLine,
    Loaded: LoadLine,
    ModelLoaded: ModelLine,
    ModelUnloaded: ModelUnloadedLine,
    ModelSwapped: ModelSwappedLine,
    DrainBegan: DrainLine,
    DrainEnded: DrainedLine,
}


def line_of(observed: Observed) -> AnyLine:
    """Return the line of an observation."""
    observation = observed.observation
    line = LINES[type(observation)]
    names = [name for name in line.__struct_fields__ if name not in Line.__struct_fields__]
    values = {name: _shortened(getattr(observation, name)) for name in names}
    create: Callable[..., AnyLine] = line
    time = datetime.datetime.fromtimestamp(observed.time, datetime.UTC)
    return create(time=time, number=observed.number, **values)


def _shortened(value: object) -> object:
    """Return a number of seconds to the microsecond."""
    return round(value, 6) if isinstance(value, float) else value
