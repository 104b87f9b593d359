"""Requests of the Chat Completions API, and the parameters of a generation they stand for.

Knows the wire and the neutral conversation. Fields that are not named here are accepted and
ignored; `min_p`, `top_k` and `session_id` are extensions.
"""

from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.common.compatibility_fields import (
    Refused,
    StructuredOutputFields,
    requested_schema,
)
from semantic_trio.adapters.http.common.identity import ANONYMOUS, Identity
from semantic_trio.adapters.http.common.limits import (
    MOST_MESSAGES,
    MOST_TOOLS,
    MaxTokens,
    token_limit,
)
from semantic_trio.adapters.http.common.response_format import ResponseFormat, schema_of
from semantic_trio.adapters.http.openai.chat.messages import ChatMessage, messages_of
from semantic_trio.adapters.http.openai.common.request_fields import SampledRequest
from semantic_trio.adapters.http.openai.common.sampling import TopLogprobs
from semantic_trio.adapters.http.openai.common.thinking import ThinkingFields, with_thinking
from semantic_trio.adapters.http.openai.common.tool_choice import (
    ChoiceWord,
    ToolChoiceParam,
    choice_of,
    may_call,
)
from semantic_trio.adapters.http.openai.common.tools import ToolParam, tools_of
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.domain.conversation import Calling, Conversation
from semantic_trio.domain.errors import InvalidRequestError


@attrs.frozen(kw_only=True)
class ChatRequest(SampledRequest, ThinkingFields, StructuredOutputFields):
    """A conversation to continue."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    tools: Annotated[list[ToolParam], msgspec.Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: ChoiceWord | ToolChoiceParam | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    functions: Refused = None
    function_call: Refused = None
    web_search_options: Refused = None
    modalities: list[Literal["text"]] | None = None
    audio: Refused = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


def generation_params(request: ChatRequest, identity: Identity = ANONYMOUS) -> GenerationParams:
    """Return the parameters of a request.

    Raises `Fault` and `InvalidRequestError`, which name the field.
    """
    found = _params(request, identity)
    schema = requested_schema(request, {"response_format": found.conversation.schema})
    return attrs.evolve(
        found,
        conversation=_with_continuation(attrs.evolve(found.conversation, schema=schema), request),
    )


def _with_continuation(conversation: Conversation, request: ChatRequest) -> Conversation:
    """Return the conversation, marked to continue its last message where the request asks for that.

    Raises `InvalidRequestError` if it cannot.
    """
    if not request.continue_final_message:
        if request.add_generation_prompt is False:
            raise InvalidRequestError(
                "false is supported together with continue_final_message alone",
                "add_generation_prompt",
                quotes=False,
            )
        return conversation
    if request.add_generation_prompt:
        raise InvalidRequestError(
            "an answer cannot both go on with the last message and begin a turn",
            "add_generation_prompt",
            quotes=False,
        )
    found = attrs.evolve(conversation, continues=True)
    if found.prefill is None:
        raise InvalidRequestError(
            "the last message has to be the assistant's, and without calls",
            "continue_final_message",
            quotes=False,
        )
    if found.schema is not None or found.choice.calling is Calling.REQUIRED:
        raise InvalidRequestError(
            "an answer of a demanded form cannot go on with a message",
            "continue_final_message",
            quotes=False,
        )
    return found


def _params(request: ChatRequest, identity: Identity) -> GenerationParams:
    tools = tools_of(request.tools or (), may_call=may_call(request.tool_choice))
    conversation = Conversation(
        messages_of(request.messages),
        tools,
        choice_of(request.tool_choice, tools, is_single=request.parallel_tool_calls is False),
        schema=schema_of(request.response_format),
    )
    return GenerationParams(
        model=request.model,
        conversation=with_thinking(conversation, request),
        max_tokens=token_limit(request, "max_completion_tokens", "max_tokens"),
        sampling=request.sampling,
        stop_strings=request.stop_strings,
        seed=request.seed,
        steering=request.steering,
        top_logprobs=request.top_logprobs or 0 if request.logprobs else None,
        identity=identity,
        service_tier=request.service_tier,
    )
