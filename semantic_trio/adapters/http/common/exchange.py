"""A request and what is known of its response: its id, its body, what it holds and how it ended.

Knows nothing of protocols' bodies. Everything pushed on `stack` is released however the request
ends: response, error, or a lost client.
"""

import re
import uuid
from contextlib import ExitStack
from contextvars import ContextVar
from typing import BinaryIO

import attrs
from hypercorn.typing import HTTPScope

from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.protocol import Protocol, protocol_of
from semantic_trio.application.generation import Generation
from semantic_trio.domain.conversation import Unread
from semantic_trio.domain.observation import RequestEnded, TraceContext
from semantic_trio.domain.reuse import NOTHING_REUSED

# Ids that callers may choose for the log and the response.
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@attrs.define(eq=False)
class Exchange:
    """A request, and what is known of its response."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case; of a repeated header the last
    request_id: str
    protocol: Protocol
    body: bytes = b""
    archive: BinaryIO | None = None  # a body that is a file; closed with the stack
    stack: ExitStack = attrs.field(factory=ExitStack)
    trace: TraceContext | None = None
    model: str = ""  # id of the model that answers
    agent: str = ""  # id of the agent, if the request names one
    unread: tuple[Unread, ...] = ()  # content of the conversation that the model cannot read
    # generations submitted for the request
    generations: list[Generation] = attrs.field(factory=list)
    fault: Fault | None = None  # the error of a refused or failed request
    status: int = 0  # 0 until the response has begun
    is_complete: bool = False  # True when the last byte was given to the server
    was_aborted: bool = False  # True if the response failed after it had begun

    @classmethod
    def of(cls, scope: HTTPScope) -> "Exchange":
        """Create the exchange of a request."""
        headers = {
            name.decode("latin1").lower(): value.decode("latin1")
            for name, value in scope["headers"]
        }
        path = scope["path"]
        return cls(scope["method"], path, headers, _request_id(headers), protocol_of(path, headers))

    @property
    def outcome(self) -> str:
        """Status of the response, or how the request ended without a whole one."""
        if self.was_aborted:
            return "aborted"
        return str(self.status) if self.is_complete else "client_gone"

    @property
    def tokens(self) -> dict[str, int | str]:
        """Tokens read and generated so far, and why no more was reused; empty if nothing was
        submitted.
        """
        if not self.generations:
            return {}
        causes = dict.fromkeys(
            one.reuse.cause.value
            for one in self._firsts
            if one.reuse is not None and one.reuse.cause is not None
        )
        return {
            "prompt_tokens": self.prompt_tokens,
            "reused": self.reused_tokens,
            **({"cause": ",".join(causes)} if causes else {}),
            "completion_tokens": self.completion_tokens,
        }

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts that were submitted, each prompt once."""
        return sum(len(one.request.prompt) for one in self._firsts)

    @property
    def reused_tokens(self) -> int:
        """Tokens of these prompts that were not computed again."""
        return sum((one.reuse or NOTHING_REUSED).tokens for one in self._firsts)

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""
        return sum(len(one.stamps) for one in self.generations)

    @property
    def _firsts(self) -> list[Generation]:
        """The first generation of each prompt: several answers may share one."""
        return list({id(one.request.prompt): one for one in reversed(self.generations)}.values())

    def observation(self, began_at: float, ended_at: float) -> RequestEnded:
        """Return the report of a request that has ended."""
        return RequestEnded(
            request_id=self.request_id,
            agent=self.agent,
            model=self.model,
            protocol=self.protocol.value,
            status=self.outcome,
            began_at=began_at,
            ended_at=ended_at,
            prompt_tokens=self.prompt_tokens,
            reused_tokens=self.reused_tokens,
            completion_tokens=self.completion_tokens,
            trace=self.trace,
        )

    @property
    def refusal(self) -> dict[str, str]:
        """Reason for the error, for the log, without any text of the conversation."""
        if self.fault is None:
            return {}
        return {
            "error": self.fault.logged,
            **({"param": self.fault.field} if self.fault.field else {}),
        }


current: ContextVar[Exchange] = ContextVar("exchange")


def _request_id(headers: dict[str, str]) -> str:
    given = headers.get("x-request-id", "")
    return given if SANE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
