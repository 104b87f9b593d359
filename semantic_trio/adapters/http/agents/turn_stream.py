"""Events of an agent's turn that streams.

Knows the wire. Knows nothing of requests.
"""

import attrs

from semantic_trio.adapters.http.agents.turn_result import AgentUsage
from semantic_trio.adapters.http.common.cache_report import Cache
from semantic_trio.adapters.http.common.faults import anthropic_error, fault_of, openai_error
from semantic_trio.adapters.http.common.protocol import Protocol
from semantic_trio.adapters.http.common.thinking_field import SingleThinkingField
from semantic_trio.adapters.http.openai.chat.completion import function_call
from semantic_trio.adapters.http.serving.sse import encode_event
from semantic_trio.domain.conversation import (
    AnswerPart,
    CallPiece,
    CutCall,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Finished


@attrs.define(eq=False)
class TurnEncoder:
    """The events of one turn: `start`, `token`s, `thinking` and `call`s, `end`; or `error` in place
    of the end.
    """

    agent: str
    protocol: Protocol  # of the error
    request_id: str
    ping: bytes = encode_event({}, "ping")
    _thoughts: SingleThinkingField = attrs.field(init=False, factory=SingleThinkingField)

    def opening(self) -> bytes:
        """Encode the `start` event."""
        return encode_event({"agent": self.agent}, "start")

    def part(self, part: AnswerPart) -> bytes:
        """Encode a part of the answer.

        Only whole calls are sent; a call that was cut off is text.
        """
        match self._thoughts.separated(part):
            case Thinking(text):
                return encode_event({"text": text}, "thinking")
            case ToolCall() as call:
                return encode_event(function_call(call), "call")
            case CallPiece():
                return b""
            case CutCall(written=text) | Text(text) | ToolResult(text=text):
                return encode_event({"text": text}, "token")

    def ending(self, finished: Finished) -> bytes:
        """Encode the `end` event: the reason, the usage, the reuse."""
        end = {
            "agent": self.agent,
            "finish_reason": finished.reason,
            "stop_string": finished.stop_string,
            "usage": AgentUsage.of(finished),
            "cache": Cache.of(finished.reuse),
        }
        return encode_event(end, "end")

    def failure(self, error: SemanticError) -> bytes:
        """Encode the error, in the envelope of whole responses."""
        fault = fault_of(error, self.protocol)
        is_anthropic = self.protocol is Protocol.ANTHROPIC
        return encode_event(
            anthropic_error(fault, self.request_id) if is_anthropic else openai_error(fault),
            "error",
        )
