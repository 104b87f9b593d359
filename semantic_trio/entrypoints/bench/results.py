"""Results of the bench, as they are written to JSON and read back. Times are seconds."""

import statistics
from collections.abc import Sequence

import attrs


@attrs.frozen
class Throughput:
    """Answers to prompts that were sent at the same time."""

    tokens: int  # generated, of all answers
    seconds: float  # from the sending of the prompts until the last answer had ended
    first_seconds: tuple[float, ...]  # until the first token of each answer

    @property
    def rate(self) -> float:
        """Tokens per second, reading of the prompts included."""
        return self.tokens / self.seconds


@attrs.frozen
class TurnTimes:
    """One turn of a conversation."""

    first_seconds: float
    prompt_tokens: int
    cached_tokens: int  # of the prompt, by the server's usage


@attrs.frozen
class Turns:
    """A conversation that nobody has read before, its next turn, and one after a restart of the
    server.
    """

    cold: TurnTimes
    next: TurnTimes
    restarted: TurnTimes | None


@attrs.frozen
class NeighbourGaps:
    """Streams before and while a long prompt is read, that is until its first token."""

    streams: int
    prompt_tokens: int
    first_seconds: float  # of the long prompt
    rate_before: float  # tokens per second of all streams
    rate_meanwhile: float
    gap_before: float  # the longest silence of a stream, seconds
    gap_meanwhile: float


@attrs.frozen
class Round:
    """All figures of one round. Keys are numbers of streams."""

    served: dict[int, Throughput]
    bare: dict[int, Throughput]  # empty where it did not run
    turns: Turns
    neighbours: NeighbourGaps | None  # None where the streams ended before the prompt was sent
    # as many prompts as streams, one after the other
    in_turn: dict[int, Throughput] = attrs.field(factory=dict)
    contexts: dict[int, Turns] = attrs.field(factory=dict)  # conversations by about so many tokens


@attrs.frozen
class Spread:
    """The median of the rounds, the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        """Text for people: the range only where there is one."""
        return number(self.median) + (
            f" ({number(self.low)} to {number(self.high)})" if self.low != self.high else ""
        )


def number(value: float) -> str:
    """Three digits that count, as people write them; whole numbers are whole."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


Rows = dict[str, dict[str, Spread]]


@attrs.frozen
class Options:
    """Options of a run."""

    streams: tuple[int, ...]
    tokens: int  # of an answer, at most
    words: int  # of the long prompt and of the conversation's first message
    rounds: int
    seed: str
    has_bare: bool
    in_turn: tuple[int, ...] = ()  # numbers of prompts that are also sent one after the other
    contexts: tuple[int, ...] = ()  # tokens of conversations, about
    has_reference: bool = False  # the report also says what reference models hold


@attrs.frozen
class Machine:
    """The machine of a run. The device is that of MLX, where this command used it."""

    platform: str
    processor: str
    cores: int
    memory_bytes: int
    python: str
    load_before: float  # of the last minute: other work on the machine shows here
    device: str = ""


@attrs.frozen
class Report:
    """All figures and circumstances of one run."""

    format: int  # of this file; raised when a field changes its meaning
    started_at: str  # ISO 8601, UTC
    seconds: float
    machine: Machine
    versions: dict[str, str]  # by package
    commit: str  # of the checkout it ran in; empty elsewhere
    model: str
    url: str  # of a server that was running already; empty: it was started here
    settings: dict[str, str]  # of the server that was started here, without secrets
    options: Options
    notes: tuple[str, ...]  # what could not be measured, and why
    summary: dict[str, Rows]
    rounds: tuple[Round, ...]
