"""Generations as callers see them: the request, the events and the end.

Knows tokens and text. Knows nothing of scheduling or protocols.
"""

import enum

import attrs

from semantic_trio.domain.conversation import ThinkingChoice
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.observation import TraceContext
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.prompt import Breakpoint
from semantic_trio.domain.reuse import NOTHING_REUSED, Reuse
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.steering import NO_STEERING, Grammar, Steering
from semantic_trio.domain.stopping import Thoughts


@attrs.frozen
class SamplingParams:
    """Parameters of sampling. The defaults are greedy."""

    temperature: float = 0.0  # 0 takes the likeliest token
    top_p: float = 1.0  # 1 keeps all
    top_k: int = 0  # 0 keeps all
    min_p: float = 0.0  # 0 keeps all
    # on every token that the prompt or the answer has; 1 changes none
    repetition_penalty: float = 1.0

    @property
    def is_greedy(self) -> bool:
        """True if sampling is not random."""
        return self.temperature == 0.0


# Sampling without parameters in the request or the model: the defaults that the APIs document.
API_SAMPLING = SamplingParams(temperature=1.0)


@attrs.frozen
class GenerationRequest:
    """A prompt to continue, and the parameters of its continuation.

    `forced` are tokens to take instead of sampled ones, as long as they last: their
    log-probabilities score a known continuation.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int  # 0 only reads the prompt
    seed: int  # with the position it determines the random number of each token
    sampling: SamplingParams = SamplingParams()
    stop_strings: tuple[str, ...] = ()
    thoughts: Thoughts | None = None  # in which stop strings are not looked for
    stop_tokens: frozenset[int] = frozenset()
    forced: tuple[int, ...] = ()
    steering: Steering = NO_STEERING
    grammar: Grammar | None = None  # that the answer has to match
    top_logprobs: int = 0  # number of likeliest tokens reported with each sampled one
    # only blocks of the same salt are reused for it, and only prompts of the same salt reuse its
    # blocks
    salt: Salt = NO_SALT
    # id of the agent of the turn; None: the agent recognised by the prompt
    agent: str | None = None
    is_ordered: bool = False  # waits for earlier turns of its agent
    priority: Priority = Priority.INTERACTIVE
    trace: TraceContext | None = None  # of the request to the API; None: it belongs to no trace
    is_private: bool = False  # without a named agent nothing of it is written to disk
    # Ids of the responses its prompt was made of, and of the one it makes: with these it can be
    # deleted.
    responses: tuple[str, ...] = ()
    # False: it is no agent's turn, and what it reads is removed when it ends
    is_remembered: bool = True
    thinking: ThinkingChoice | None = None  # as in `Prompt`
    # Positions of the prompt at which other requests are likely to begin: the end of its head.
    boundaries: tuple[int, ...] = ()
    breakpoints: tuple[Breakpoint, ...] = ()  # positions of the client's cache breakpoints

    @property
    def needs_sampled_ids(self) -> bool:
        """True if sampling depends on the tokens sampled before."""
        return (
            self.grammar is not None
            or self.steering.needs_sampled_ids
            or self.sampling.repetition_penalty != 1.0
        )

    def log_ids(self, agent: str | None = None) -> dict[str, str]:
        """Return the ids that every log line of the request has, as the lines of its HTTP request
        do. `agent` is that of the turn, where another one than the client's was recognised.
        """
        trace = self.trace.log_ids if self.trace is not None else {}
        return {"request_id": self.request_id, "agent": agent or self.agent or "", **trace}


class FinishReason(enum.Enum):
    """Why a generation, or the answer that is read from it, ended by itself."""

    END_OF_TURN = "end_of_turn"
    STOP_STRING = "stop_string"
    MAX_TOKENS = "max_tokens"
    CONTEXT_FULL = "context_full"
    BROKEN_CALL = "broken_call"  # a call whose pieces were sent turned out to be none


@attrs.frozen
class TokenEvent:
    """A generated token.

    `text` may be empty while a character or a possible stop string is incomplete.
    """

    token: int
    text: str
    logprob: float  # natural logarithm, of the model's own distribution at temperature 1
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens with theirs, the likeliest first


@attrs.frozen
class Finished:
    """The last event of a generation that ended by itself. `text` was held back until now."""

    reason: FinishReason
    text: str
    stop_string: str | None
    prompt_tokens: int
    completion_tokens: int
    reuse: Reuse = NOTHING_REUSED


@attrs.frozen
class Failed:
    """The last event of a generation the server could not complete."""

    error: SemanticError


Event = TokenEvent | Finished | Failed


@attrs.frozen
class GenerationResult:
    """A whole generation."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: Finished
