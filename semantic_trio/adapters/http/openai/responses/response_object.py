"""The response object of the Responses API, and the items of its output.

Knows the wire. Knows nothing of requests, of generations or of where responses are stored.
"""

from collections.abc import Sequence
from typing import Literal

import attrs
import msgspec

from semantic_trio.adapters.http.common.priority import ServedTier
from semantic_trio.adapters.http.openai.common.logprobs import TokenLogprob
from semantic_trio.adapters.http.openai.common.tools import custom_input
from semantic_trio.adapters.http.openai.responses.ids import item_id
from semantic_trio.adapters.http.openai.responses.tools_in_force import (
    ChoiceInForce,
    ModeInForce,
    ToolInForce,
)
from semantic_trio.domain.conversation import Text, Thinking, ToolCall
from semantic_trio.domain.generation import Finished

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
ErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
ItemContent = Text | Thinking | ToolCall  # the content of an item


@attrs.frozen
class OutputText:
    """A text of the assistant."""

    text: str
    logprobs: Sequence[TokenLogprob] = ()
    annotations: tuple[str, ...] = ()  # always empty: nothing is searched
    type: Literal["output_text"] = "output_text"


@attrs.frozen
class ReasoningText:
    """A text of the assistant's thinking."""

    text: str
    type: Literal["reasoning_text"] = "reasoning_text"


class OutputMessage(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """A message of the assistant."""

    id: str
    status: ItemStatus
    content: tuple[OutputText, ...]
    role: Literal["assistant"] = "assistant"


class OutputReasoning(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """A thought, as it was generated: neither summarised nor encrypted."""

    id: str
    status: ItemStatus
    content: tuple[ReasoningText, ...]
    summary: tuple[str, ...] = ()
    encrypted_content: None = None


class OutputFunctionCall(msgspec.Struct, frozen=True, tag_field="type", tag="function_call"):
    """A call of a function."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str  # JSON


class OutputCustomCall(msgspec.Struct, frozen=True, tag_field="type", tag="custom_tool_call"):
    """A call of a custom tool, which takes text."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    input: str


OutputItem = OutputMessage | OutputReasoning | OutputFunctionCall | OutputCustomCall


@attrs.frozen
class InputTokensDetails:
    """The source of the input's tokens: from the cache, or written to it."""

    cached_tokens: int
    cache_write_tokens: int


@attrs.frozen
class OutputTokensDetails:
    """The kinds of the output's tokens."""

    reasoning_tokens: int


@attrs.frozen
class ResponseUsage:
    """The usage of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, finished: Finished, thought_tokens: int) -> "ResponseUsage":
        """Return the usage of a generation."""
        read, drawn, known = (
            finished.prompt_tokens,
            finished.completion_tokens,
            finished.reuse.tokens,
        )
        return cls(
            read,
            InputTokensDetails(known, read - known),
            drawn,
            OutputTokensDetails(thought_tokens),
            read + drawn,
        )


@attrs.frozen
class ResponseError:
    """Why a response failed."""

    code: ErrorCode
    message: str


@attrs.frozen
class IncompleteDetails:
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


@attrs.frozen
class FormatInForce:
    """The format of the text in force."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | msgspec.UnsetType = msgspec.UNSET
    schema: dict[str, object] | msgspec.UnsetType = msgspec.UNSET
    strict: bool | msgspec.UnsetType = msgspec.UNSET


@attrs.frozen
class TextInForce:
    """The text settings in force."""

    format: FormatInForce = FormatInForce()


@attrs.frozen
class ReasoningInForce:
    """The thinking settings in force."""

    effort: str | None = None
    summary: None = None


@attrs.frozen(kw_only=True)
class ResponseAnswer:
    """A response: the settings of its request, its status, and its output."""

    id: str
    created_at: int
    model: str
    status: Status = "in_progress"
    output: Sequence[OutputItem] = ()
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: ResponseUsage | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_logprobs: int = 0
    tools: Sequence[ToolInForce] = ()  # the tools that are offered; others were left out
    tool_choice: ModeInForce | ChoiceInForce = "auto"
    parallel_tool_calls: bool = True
    text: TextInForce = TextInForce()
    reasoning: ReasoningInForce = ReasoningInForce()
    truncation: Literal["disabled"] = "disabled"
    metadata: dict[str, str] = attrs.field(factory=dict)
    store: bool = True  # true: the response is stored
    background: bool = False
    prompt_cache_key: str | None = None
    service_tier: ServedTier = "default"
    object: Literal["response"] = "response"


def output_item(
    stem: str,
    at: int,
    said: ItemContent,
    status: ItemStatus,
    customs: frozenset[str],
    logprobs: Sequence[TokenLogprob],
) -> OutputItem:
    """Return an output item: a thought, a text or a call."""
    match said:
        case Thinking(text):
            return OutputReasoning(item_id("rs", stem, at), status, (ReasoningText(text),))
        case Text(text):
            return OutputMessage(item_id("msg", stem, at), status, (OutputText(text, logprobs),))
        case ToolCall(call_id, name, arguments) if name in customs:
            return OutputCustomCall(
                item_id("ctc", stem, at), status, call_id, name, custom_input(arguments)
            )
        case ToolCall(call_id, name, arguments):
            return OutputFunctionCall(item_id("fc", stem, at), status, call_id, name, arguments)
