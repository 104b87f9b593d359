"""Faults by name, each carrying its numbers.

Knows what went wrong and whether trying again can help. Knows nothing of HTTP: adapters choose the
status.
"""

import attrs

from semantic_trio.domain.authority import authority


@attrs.frozen
class SemanticError(Exception):
    """Any fault this product names; everything else is a bug."""

    def __str__(self) -> str:
        return f"{type(self).__name__}({attrs.asdict(self)})"


@attrs.frozen
class InvalidRequestError(SemanticError):
    """The caller's mistake: sending the same again cannot help."""

    reason: str
    field: str = ""  # dotted path of the offending field, where there is one
    # the reason may repeat a part of what was asked, which is private
    quotes: bool = attrs.field(default=True, kw_only=True)

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" if self.field else self.reason


@attrs.frozen
class PromptTooLongError(SemanticError):
    """The prompt leaves no room for one generated token in the model's context."""

    tokens: int
    limit: int
    field: str = "messages"  # the field of the request that the prompt was made of

    def __str__(self) -> str:
        return f"prompt is too long: {self.tokens} tokens > {self.limit} maximum"


@attrs.frozen
class ModelNotFoundError(SemanticError):
    """No model of this name is served, or can be found."""

    model: str
    reason: str = ""

    def __str__(self) -> str:
        return f"model: {self.model}" + (f" ({self.reason})" if self.reason else "")


@attrs.frozen
class ModelsBusyError(SemanticError):
    """A model has to be closed for another one, and its requests do not end; the same request may
    succeed later.
    """

    model: str  # that was to be opened
    busy: str  # that would have to be closed
    requests: int  # of the busy model
    retry_after_seconds: int

    def __str__(self) -> str:
        return (
            f"{self.model} cannot be loaded now: its memory is used by {self.busy}, which answers "
            f"{self.requests} requests"
        )


@attrs.frozen
class ModelSwapError(SemanticError):
    """Another model could not become the main one."""

    model: str  # that was to become the main one
    previous: str
    reason: str
    seconds: float  # for which the main model was not served
    is_previous_back: bool

    def __str__(self) -> str:
        state = (
            "is served again"
            if self.is_previous_back
            else "could not be loaded again, and the next request tries to"
        )
        return (
            f"{self.model} cannot replace {self.previous}: {self.reason}; after {self.seconds:.1f} "
            f"s {self.previous} {state}"
        )


@attrs.frozen
class AgentNotFoundError(SemanticError):
    """No agent of this id is known."""

    agent: str

    def __str__(self) -> str:
        return f"agent: {self.agent}"


@attrs.frozen
class AgentExistsError(SemanticError):
    """An agent of this id is known already."""

    agent: str

    def __str__(self) -> str:
        return f"an agent {self.agent} exists"


@attrs.frozen
class PoolExhaustedError(SemanticError):
    """The memory for KV cache cannot hold what is wanted, with everything else given up that may
    be.
    """

    wanted: int  # bytes
    free: int
    total: int

    def __str__(self) -> str:
        return (
            f"out of KV cache: {self.wanted} bytes are wanted, {self.free} of {self.total} can be "
            "had"
        )


@attrs.frozen
class OverloadedError(SemanticError):
    """The queue is full; the same request will succeed later."""

    waiting: int
    limit: int
    retry_after_seconds: int

    def __str__(self) -> str:
        return f"the queue is full: {self.waiting} requests wait, {self.limit} may"


@attrs.frozen
class DrainingError(SemanticError):
    """The server is shutting down, or the model is being unloaded: it takes or finishes no more
    requests.
    """

    retry_after_seconds: int
    reason: str = "the server is shutting down"

    def __str__(self) -> str:
        return self.reason


@attrs.frozen
class StepFailedError(SemanticError):
    """The device raised in a step this request took part in; the request is lost, the server goes
    on.
    """

    reason: str

    def __str__(self) -> str:
        return f"a step of the model failed: {self.reason}"


@attrs.frozen
class GrammarError(SemanticError):
    """The grammar of an answer became too complex to tell the next tokens; the request is lost."""

    reason: str

    def __str__(self) -> str:
        return f"the answer cannot be held to its form: {self.reason}"


@attrs.frozen
class EngineDeadError(SemanticError):
    """The engine cannot go on; the process ends and its supervisor starts it again."""

    reason: str

    def __str__(self) -> str:
        return f"the engine ended: {self.reason}"


@attrs.frozen
class CacheCorruptionError(SemanticError):
    """A file of the cache is not what was written, or gone; what it held has to be computed
    again.
    """

    name: str  # of the file
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@attrs.frozen
class AddressError(SemanticError):
    """The server cannot listen on its address."""

    host: str
    port: int
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"cannot listen on {authority(self.host, self.port)}: {self.reason}: {self.remedy}"


@attrs.frozen
class IncompatibleCacheError(SemanticError):
    """A file of the cache was written by a newer version.

    It stays as it is; what it holds has to be computed again.
    """

    name: str  # of the file
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@attrs.frozen
class CacheInUseError(SemanticError):
    """Another process works with this cache directory."""

    directory: str
    holder: str  # what that process says of itself

    def __str__(self) -> str:
        return f"the cache in {self.directory} is in use by {self.holder}"


@attrs.frozen
class CachePersistenceError(SemanticError):
    """Nothing may be written to disk now; serving goes on without."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@attrs.frozen
class ResponseNotFoundError(SemanticError):
    """No response of this id is stored, or not any more."""

    response: str

    def __str__(self) -> str:
        return f"Response with id {self.response!r} not found."


@attrs.frozen
class ResponseConflictError(SemanticError):
    """A response cannot be stored beside what is stored already."""

    response: str
    reason: str

    def __str__(self) -> str:
        return f"response {self.response} cannot be stored: {self.reason}"


@attrs.frozen
class StoreError(SemanticError):
    """The database of responses cannot be reached, read or written; the same may go well later."""

    reason: str

    def __str__(self) -> str:
        return f"responses cannot be stored or read: {self.reason}"
