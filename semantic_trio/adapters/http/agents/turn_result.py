"""The result of an agent's turn, as its client gets it.

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
    """Token counts of a turn."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # of the prompt, reused from the cache

    @classmethod
    def of(cls, finished: Finished) -> "AgentUsage":
        """Return the usage of a generation."""
        return cls(finished.prompt_tokens, finished.completion_tokens, finished.reuse.tokens)


@attrs.frozen
class AgentAnswer:
    """The answer of an agent."""

    agent: str
    text: str
    thinking: str
    tool_calls: list[FunctionCall]
    finish_reason: FinishReason
    stop_string: str | None  # the stop string that ended the answer, if one did
    usage: AgentUsage
    cache: Cache


@attrs.frozen
class Warmed:
    """An agent whose conversation is in the cache."""

    agent: str
    tokens: int  # in the cache for the next turn
    cache: Cache


def agent_answer(agent: str, answer: WholeAnswer) -> AgentAnswer:
    """Return the whole answer of a turn."""
    finished, said = answer.finished, Message(Role.ASSISTANT, answer.parts_with_cut)
    calls = [function_call(call) for call in said.calls]
    text = "".join(part.text for part in said.parts if isinstance(part, Text))
    usage, cache = AgentUsage.of(finished), Cache.of(finished.reuse)
    return AgentAnswer(
        agent, text, said.thinking, calls, finished.reason, finished.stop_string, usage, cache
    )
