"""Fields for thinking, in all the words that clients of OpenAI's APIs have for it.

Servers of local models have added fields of their own, and clients send those of any server. All of
them are read as one choice.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.domain.conversation import Conversation

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Budget = Annotated[int, msgspec.Meta(ge=-1)]  # tokens; -1: no bound


@attrs.frozen
class ReasoningParam:
    """Thinking, as the Responses API has it; `enabled` and `max_tokens` are OpenRouter's."""

    effort: Effort | None = None
    enabled: bool | None = None
    max_tokens: Budget | None = None


@attrs.frozen
class ChatThinkingParam:
    """Thinking, as the Messages API has it; z.ai and DeepSeek take it in chat."""

    type: str = "enabled"
    budget_tokens: Budget | None = None


@attrs.frozen
class TemplateParams:
    """Arguments of chat templates for thinking. All others are ignored."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: Effort | None = None
    thinking_budget: Budget | None = None


@attrs.frozen(kw_only=True, slots=False)  # to be one base of several
class ThinkingFields:
    """The fields for thinking. Of several that are given, the one that stands first here counts."""

    reasoning_effort: Effort | None = None
    reasoning: ReasoningParam | None = None
    thinking: ChatThinkingParam | None = None
    think: bool | Effort | None = None  # as Ollama has it
    enable_thinking: bool | None = None
    thinking_budget: Budget | None = None
    chat_template_kwargs: TemplateParams | None = None


def with_thinking(conversation: Conversation, request: ThinkingFields) -> Conversation:
    """Return the conversation with a request's choice of thinking."""
    effort = next(_efforts(request), None)
    budget = next(_budgets(request), None)
    thinks = next(_switches(request), None if effort is None and not budget else effort != "none")
    is_bounded = thinks is not False and budget is not None and budget > 0
    return attrs.evolve(
        conversation,
        thinks=False if effort == "none" or budget == 0 else thinks,
        effort=None if effort == "none" or thinks is False else effort,
        thought_budget=budget if is_bounded else None,
    )


def _efforts(request: ThinkingFields) -> Iterator[Effort]:
    arguments = request.chat_template_kwargs or TemplateParams()
    named = (
        request.reasoning_effort,
        request.reasoning.effort if request.reasoning else None,
        None if isinstance(request.think, bool) else request.think,
        arguments.reasoning_effort,
    )
    yield from (effort for effort in named if effort is not None)


def _budgets(request: ThinkingFields) -> Iterator[int]:
    arguments = request.chat_template_kwargs or TemplateParams()
    named = (
        request.reasoning.max_tokens if request.reasoning else None,
        request.thinking.budget_tokens if request.thinking else None,
        request.thinking_budget,
        arguments.thinking_budget,
    )
    yield from (budget for budget in named if budget is not None)


def _switches(request: ThinkingFields) -> Iterator[bool]:
    arguments = request.chat_template_kwargs or TemplateParams()
    named = (
        request.reasoning.enabled if request.reasoning else None,
        request.thinking.type != "disabled" if request.thinking else None,
        request.think if isinstance(request.think, bool) else None,
        request.enable_thinking,
        arguments.enable_thinking,
        arguments.thinking,
    )
    yield from (thinks for thinks in named if thinks is not None)
