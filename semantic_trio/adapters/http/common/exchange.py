"""One request on its way through the server: its id, its body, what it holds and how it ended.

Knows nothing of protocols' bodies. Whatever is pushed on `stack` is released however the request ends: by answer, error or a client that left.
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
from semantic_trio.application.handle import Generation
from semantic_trio.domain.conversation import Unread
from semantic_trio.domain.reuse import NOTHING_REUSED

# Ids of callers that go into our log and answers as they are.
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@attrs.define(eq=False)
class Exchange:
    """A request, and what is known of its answer."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case; of a repeated header the last
    request_id: str
    protocol: Protocol
    body: bytes = b""
    archive: BinaryIO | None = None  # a body that is a file; closed with the stack
    stack: ExitStack = attrs.field(factory=ExitStack)
    model: str = ""  # the id of the model that answers
    agent: str = ""  # whose turn it is, where it was named
    unread: tuple[Unread, ...] = ()  # what of the conversation the model was told of in words
    generations: list[Generation] = attrs.field(factory=list)  # what was submitted for it
    fault: Fault | None = None  # why it was refused, or how it failed
    status: int = 0  # 0 until the answer has begun
    is_complete: bool = False  # the last byte of the answer was given to the server
    was_aborted: bool = False  # the answer failed after it had begun

    @classmethod
    def of(cls, scope: HTTPScope) -> "Exchange":
        """The exchange a request begins."""
        headers = {name.decode("latin1").lower(): value.decode("latin1") for name, value in scope["headers"]}
        path = scope["path"]
        return cls(scope["method"], path, headers, _request_id(headers), protocol_of(path, headers))

    @property
    def outcome(self) -> str:
        """The status, or how the request ended without a whole answer."""
        if self.was_aborted:
            return "aborted"
        return str(self.status) if self.is_complete else "client_gone"

    @property
    def tokens(self) -> dict[str, int | str]:
        """Tokens read and generated so far, each prompt once, and why not more was reused; nothing where nothing was submitted."""
        if not self.generations:
            return {}
        firsts = {id(one.request.prompt): one for one in reversed(self.generations)}.values()  # several answers may share one prompt
        reuses = [one.reuse or NOTHING_REUSED for one in firsts]
        causes = dict.fromkeys(reuse.cause.value for reuse in reuses if reuse.cause is not None)
        return {
            "prompt_tokens": sum(len(one.request.prompt) for one in firsts),
            "reused": sum(reuse.tokens for reuse in reuses),
            **({"cause": ",".join(causes)} if causes else {}),
            "completion_tokens": sum(len(one.stamps) for one in self.generations),
        }

    @property
    def refusal(self) -> dict[str, str]:
        """Why there is no answer, in words for the log: nothing of what was said."""
        if self.fault is None:
            return {}
        return {"error": self.fault.logged, **({"param": self.fault.field} if self.fault.field else {})}


current: ContextVar[Exchange] = ContextVar("exchange")


def _request_id(headers: dict[str, str]) -> str:
    given = headers.get("x-request-id", "")
    return given if SANE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
