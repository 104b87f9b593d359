"""Observations: values that report a request, a row, the memory or the server to metrics, event log
and traces.

Knows no observer and no clock. Times named `..._at` are seconds on trio's clock. No observation has
text of a conversation.
"""

from typing import Literal

import attrs

from semantic_trio.domain.priority import Priority
from semantic_trio.domain.reuse import NOTHING_REUSED, MissCause, Reuse, ReuseSource

# Where entries are evicted from.
Tier = Literal["ram", "disk"]
# Why a model is unloaded: for another one's memory, without requests for a while, by an operator,
# for the new main model.
UnloadCause = Literal["memory", "idle", "operator", "swap"]


@attrs.frozen
class TraceContext:
    """The place of a request in a trace, as W3C Trace Context has it.

    Ids are lower-case hexadecimal.
    """

    trace_id: str  # 32 digits
    span_id: str  # 16 digits, of the request's own span
    parent_id: str = ""  # 16 digits, of the client's span; empty: the trace begins here
    is_sampled: bool = True  # False: the client does not want the trace recorded

    @property
    def log_ids(self) -> dict[str, str]:
        """Ids that every log line of the request has."""
        return {"trace_id": self.trace_id, "span_id": self.span_id}


@attrs.frozen(kw_only=True)
class RequestEnded:
    """A request to the API was answered or given up."""

    request_id: str
    agent: str = ""  # empty if the request names none
    model: str = ""  # empty if the request reached none
    protocol: str = ""
    status: str = ""  # HTTP status, or `aborted` or `client_gone` where the response is not whole
    began_at: float = 0.0
    ended_at: float = 0.0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    completion_tokens: int = 0
    trace: TraceContext | None = None  # None: it belongs to no trace

    @property
    def seconds(self) -> float:
        """Duration of the request."""
        return self.ended_at - self.began_at


@attrs.frozen(kw_only=True)
class RowOpened:
    """A generation got its row. The other fields are those of its `Reuse`."""

    request_id: str
    agent: str = ""
    waited_seconds: float = 0.0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    source: ReuseSource = ReuseSource.NONE
    cause: MissCause | None = None
    lost_tokens: int = 0
    priority: Priority = Priority.INTERACTIVE


@attrs.frozen(kw_only=True)
class PromptRead:
    """A prompt was read to its end: its first token was sampled, or none was wanted."""

    request_id: str
    agent: str = ""
    tokens: int = 0  # computed, not reused
    seconds: float = 0.0  # since the row was opened


@attrs.frozen(kw_only=True)
class GenerationEnded:
    """A generation is over, and its request has released it."""

    request_id: str
    agent: str = ""
    submitted_at: float = 0.0
    started_at: float | None = None  # when its row was opened; None: it never had one
    stamps: tuple[float, ...] = ()  # when each token was sampled
    closed_at: float = 0.0
    reuse: Reuse = NOTHING_REUSED
    priority: Priority = Priority.INTERACTIVE
    trace: TraceContext | None = None  # of its request

    @property
    def completion_tokens(self) -> int:
        """Tokens that were sampled."""
        return len(self.stamps)

    @property
    def seconds(self) -> float:
        """Seconds from the submission until the request released the generation."""
        return self.closed_at - self.submitted_at


@attrs.frozen(kw_only=True)
class Evicted:
    """Entries were evicted for want of memory or of disk space."""

    tier: Tier
    entries: int


@attrs.frozen(kw_only=True)
class Written:
    """Blocks and snapshots were written to disk, or after them the record of an agent."""

    agent: str | None  # whose record it is; None for blocks and snapshots, which agents share
    entries: int
    size_bytes: int
    seconds: float


@attrs.frozen(kw_only=True)
class Loaded:
    """Blocks and snapshots were loaded from disk, without a break between them."""

    entries: int
    tokens: int
    size_bytes: int
    seconds: float


@attrs.frozen(kw_only=True)
class ModelLoaded:
    """A model was loaded."""

    model: str
    seconds: float


@attrs.frozen(kw_only=True)
class ModelUnloaded:
    """A model was unloaded, and its memory is free again."""

    model: str
    cause: UnloadCause
    size_bytes: int  # of its weights, and of the memory that its cache could take
    seconds: float  # since new requests of the model had to wait


@attrs.frozen(kw_only=True)
class ModelSwapped:
    """The main model was replaced, or could not be."""

    model: str  # the new one
    previous: str
    seconds: float
    # False: the new model could not be loaded, and the previous one is still the main model
    is_done: bool


@attrs.frozen(kw_only=True)
class DrainBegan:
    """The server takes no more requests. `open_requests` may end within `grace_seconds`."""

    open_requests: int
    grace_seconds: float


@attrs.frozen(kw_only=True)
class DrainEnded:
    """A drain is over: no request is open. `failed_requests` had not ended in time."""

    failed_requests: int
    seconds: float


Observation = (
    RequestEnded
    | RowOpened
    | PromptRead
    | GenerationEnded
    | Evicted
    | Written
    | Loaded
    | ModelLoaded
    | ModelUnloaded
    | ModelSwapped
    | DrainBegan
    | DrainEnded
)


@attrs.frozen
class Observed:
    """An observation with its place among all and its time, as sinks get it."""

    number: int  # counts every observation from 1 on, so a gap shows what was dropped
    time: float  # seconds since 1970
    at: float  # the same moment on trio's clock
    observation: Observation
