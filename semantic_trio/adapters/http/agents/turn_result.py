"""What an agent's turn answers: whole, or as events.

Knows the wire and how generations end. Knows nothing of requests.
"""

import attrs

from semantic_trio.adapters.http.common.cache_report import Cache
from semantic_trio.adapters.http.openai.chat.completion import FunctionCall, function_call
from semantic_trio.application.answer import WholeAnswer
from semantic_trio.domain.conversation import Message, Role, Text
from semantic_trio.domain.generation import Finished, FinishReason


@attrs.frozen
class AgentUsage:
    """What a turn took."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # of the prompt that were not computed again

    @classmethod
    def of(cls, finished: Finished) -> "AgentUsage":
        """The usage of a generation."""
        return cls(finished.prompt_tokens, finished.completion_tokens, finished.reuse.tokens)


@attrs.frozen
class AgentAnswer:
    """What an agent said."""

    agent: str
    text: str
    thinking: str
    tool_calls: list[FunctionCall]
    finish_reason: FinishReason
    stop_string: str | None  # that ended it, where one did
    usage: AgentUsage
    cache: Cache


@attrs.frozen
class Warmed:
    """An agent whose conversation has been read."""

    agent: str
    tokens: int  # that its next turn finds in memory
    cache: Cache


def agent_answer(agent: str, answer: WholeAnswer) -> AgentAnswer:
    """The answer of a turn that does not stream."""
    finished, said = answer.finished, Message(Role.ASSISTANT, answer.parts_with_cut)
    calls = [function_call(call) for call in said.calls]
    text = "".join(part.text for part in said.parts if isinstance(part, Text))
    usage, cache = AgentUsage.of(finished), Cache.of(finished.reuse)
    return AgentAnswer(agent, text, said.thinking, calls, finished.reason, finished.stop_string, usage, cache)
