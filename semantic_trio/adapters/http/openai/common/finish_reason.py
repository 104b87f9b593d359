"""Reasons why an answer ended, in the words of both completions APIs."""

from typing import Literal

from semantic_trio.domain.generation import FinishReason

Reason = Literal["stop", "length", "tool_calls"]

REASONS: dict[FinishReason, Reason] = {
    FinishReason.END_OF_TURN: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.MAX_TOKENS: "length",
    FinishReason.CONTEXT_FULL: "length",
    # the only reason by which clients know that a call is not whole
    FinishReason.BROKEN_CALL: "length",
}
