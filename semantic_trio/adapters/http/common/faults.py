"""Errors as HTTP responses, in the statuses and words that the clients of each protocol act upon.

Knows named errors and HTTP statuses. Knows nothing of requests. Clients retry for minutes depending
on the status, and some mend their request depending on the message: both are part of the contract.
"""

import attrs
from werkzeug.exceptions import HTTPException

from semantic_trio.adapters.http.common.json_encoding import encode_json
from semantic_trio.adapters.http.common.protocol import Protocol
from semantic_trio.domain.errors import (
    AgentExistsError,
    AgentNotFoundError,
    CachePersistenceError,
    DrainingError,
    EngineDeadError,
    GrammarError,
    InvalidRequestError,
    ModelNotFoundError,
    ModelsBusyError,
    ModelSwapError,
    OverloadedError,
    PoolExhaustedError,
    PromptTooLongError,
    ResponseNotFoundError,
    SemanticError,
    StoreError,
)

# Anthropic's name of each status; 529 is its own for "overloaded".
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
# Most characters of a path in a message, and of a message in the log: clients choose the length of
# the path.
SHOWN_PATH, LOGGED_CHARACTERS = 100, 200
# Seconds until a supervisor has restarted a dead process.
RESTART_SECONDS = 5
# Seconds until a restarted database answers.
STORE_SECONDS = 5
# Seconds until other requests are likely to have freed memory or a turn to be over.
ROOM_SECONDS = 5


@attrs.frozen
class Fault(Exception):
    """An error that is sent as the response."""

    status: int
    message: str
    field: str | None = None  # dotted path of the offending field
    code: str | None = None  # OpenAI's code
    retry_after_seconds: int | None = None
    is_private: bool = False  # the message quotes the request, and is not logged
    accepts: str = ""  # encodings of a body that are accepted

    @property
    def logged(self) -> str:
        """Message for the log, on one line; of a private message only the kind."""
        text = " ".join(((self.code or _kind(self)) if self.is_private else self.message).split())
        return shortened(text, LOGGED_CHARACTERS)

    @property
    def is_permanent(self) -> bool:
        """True if a retry of the same request cannot succeed."""
        return (
            self.status < 500 and self.status not in {408, 429} and self.retry_after_seconds is None
        )

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Headers that SDKs read beside the status. A 401 without them is retried for minutes."""
        found = []
        if self.is_permanent:
            found.append(("x-should-retry", "false"))
        if self.retry_after_seconds is not None:
            found.append(("retry-after", str(self.retry_after_seconds)))
        if self.accepts:
            found.append(("accept-encoding", self.accepts))
        return found


def not_offered(method: str, path: str) -> Fault:
    """Return the error for a path without a route."""
    return Fault(
        404,
        (
            f"{method} {shortened(path, SHOWN_PATH)} is not offered by this server; GET "
            "/openapi.json lists what is"
        ),
    )


def shortened(text: str, length: int) -> str:
    """Return a text cut to at most `length` characters, with an ellipsis if it was longer."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def fault_of(error: Exception, protocol: Protocol) -> Fault:
    """Return an error as the response of a protocol.

    An unnamed error is a bug, and its response says no more than that.
    """
    match error:
        case Fault():
            return error
        case SemanticError():
            return _domain_fault(error, protocol)
        case HTTPException():
            return Fault(error.code or 500, error.description or error.name)
        # Only schemas and arguments of clients, and templates that read them, nest that deeply.
        case RecursionError():
            return Fault(400, "the request is nested too deeply")
        case _:
            return Fault(500, "internal error")


def _domain_fault(error: SemanticError, protocol: Protocol) -> Fault:
    match error:
        case PromptTooLongError():
            return Fault(
                400,
                _too_long_message(error, protocol),
                field=error.field,
                code="context_length_exceeded",
            )
        case InvalidRequestError():
            return Fault(400, str(error), field=error.field or None, is_private=error.quotes)
        case GrammarError():
            # the message may quote the schema
            return Fault(400, str(error), code="grammar_too_complex", is_private=True)
        case ModelNotFoundError():
            return Fault(
                404,
                _no_model_message(error, protocol),
                field="model",
                code="model_not_found",
                is_private=True,
            )
        case AgentNotFoundError():
            return Fault(404, str(error), field="agent", code="agent_not_found")
        case ResponseNotFoundError():
            return Fault(404, str(error), code="response_not_found")
        case _:
            return _conflict_fault(error) or _retryable_fault(error, protocol)


def _conflict_fault(error: SemanticError) -> Fault | None:
    """Return errors of requests that the state of the server rules out (409)."""
    match error:
        case AgentExistsError():
            return Fault(409, str(error), field="id", code="agent_exists")
        case CachePersistenceError():
            return Fault(409, str(error), code="disk_refused")
        case ModelSwapError():
            return Fault(409, str(error), field="model", code="model_swap_failed")
        case _:
            return None


def _retryable_fault(error: SemanticError, protocol: Protocol) -> Fault:
    """Return retryable errors (429, 503, 529). Every other error is a bug of this server: 500.

    Anthropic's clients know 529 for a server that is overloaded, and take 429 for a quota of the
    user's.
    """
    busy = 529 if protocol is Protocol.ANTHROPIC else 429
    match error:
        case OverloadedError():
            return Fault(
                busy,
                str(error),
                code="rate_limit_exceeded",
                retry_after_seconds=error.retry_after_seconds,
            )
        case PoolExhaustedError():  # the request would fit if other requests or pins held less
            return Fault(busy, str(error), code="out_of_memory", retry_after_seconds=ROOM_SECONDS)
        case ModelsBusyError():
            return Fault(
                busy,
                str(error),
                code="model_memory_in_use",
                retry_after_seconds=error.retry_after_seconds,
            )
        case DrainingError():
            return Fault(503, str(error), retry_after_seconds=error.retry_after_seconds)
        case EngineDeadError():
            return Fault(503, str(error), retry_after_seconds=RESTART_SECONDS)
        case StoreError():
            return Fault(
                503, str(error), code="store_unavailable", retry_after_seconds=STORE_SECONDS
            )
        case _:
            return Fault(500, str(error))


def envelope(fault: Fault, protocol: Protocol, request_id: str) -> bytes:
    """Encode the body of an error."""
    if protocol is Protocol.ANTHROPIC:
        return encode_json(anthropic_error(fault, request_id))
    return encode_json(openai_error(fault))


@attrs.frozen
class AnthropicErrorDetail:
    """The kind and the message of an error."""

    type: str
    message: str


@attrs.frozen
class AnthropicError:
    """An error, as Anthropic's clients read it."""

    type: str
    error: AnthropicErrorDetail
    request_id: str


@attrs.frozen
class OpenAIErrorDetail:
    """The kind and the message of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


@attrs.frozen
class OpenAIError:
    """An error, as OpenAI's clients read it."""

    error: OpenAIErrorDetail


def anthropic_error(fault: Fault, request_id: str) -> AnthropicError:
    """Return the body of an error, which is also the data of a stream's `error` event."""
    return AnthropicError("error", AnthropicErrorDetail(_kind(fault), fault.message), request_id)


def openai_error(fault: Fault) -> OpenAIError:
    """Return the body of an error, which is also the data of a stream's last line."""
    kind = (
        "server_error"
        if fault.status >= 500
        else "rate_limit_error"
        if fault.status == 429
        else "invalid_request_error"
    )
    return OpenAIError(OpenAIErrorDetail(fault.message, kind, fault.field, fault.code))


def _kind(fault: Fault) -> str:
    return KINDS.get(fault.status, "api_error" if fault.status >= 500 else "invalid_request_error")


def _too_long_message(error: PromptTooLongError, protocol: Protocol) -> str:
    if protocol is Protocol.ANTHROPIC:
        return str(error)
    return (
        f"This model's maximum context length is {error.limit} tokens. However, your {error.field} "
        f"resulted in {error.tokens} tokens. "
        f"Please reduce the length of the {error.field}."
    )


def _no_model_message(error: ModelNotFoundError, protocol: Protocol) -> str:
    if protocol is Protocol.ANTHROPIC:
        return str(error)
    return f"The model `{error.model}` does not exist" + (
        f": {error.reason}" if error.reason else ""
    )
