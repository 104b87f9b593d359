"""Requests of the Responses API, and the parameters of a generation they stand for.

Knows requests and the neutral conversation. Fields that are not named here are accepted and
ignored; `min_p`, `top_k`, `seed` and `session_id` are extensions.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.common.compatibility_fields import (
    StructuredOutputFields,
    UnsupportedFields,
    requested_schema,
)
from semantic_trio.adapters.http.common.identity import ANONYMOUS, AgentId, CacheSalt, Identity
from semantic_trio.adapters.http.common.limits import (
    MOST_MESSAGES,
    MOST_TOOLS,
    MaxTokens,
    token_limit,
)
from semantic_trio.adapters.http.common.priority import ServedTier
from semantic_trio.adapters.http.common.response_format import (
    FormatName,
    ResponseFormat,
    schema_of,
    schema_text,
)
from semantic_trio.adapters.http.openai.common.sampling import SamplingFields, TopLogprobs
from semantic_trio.adapters.http.openai.common.thinking import ThinkingFields, with_thinking
from semantic_trio.adapters.http.openai.common.tool_choice import (
    ChoiceWord,
    ToolChoiceParam,
    choice_of,
    may_call,
)
from semantic_trio.adapters.http.openai.common.tools import ToolParam, custom_names, tools_of
from semantic_trio.adapters.http.openai.responses.input_items import InputItem
from semantic_trio.adapters.http.openai.responses.response_object import (
    FormatInForce,
    ReasoningInForce,
    ResponseAnswer,
    Status,
    TextInForce,
)
from semantic_trio.adapters.http.openai.responses.tools_in_force import (
    choice_in_force,
    tools_in_force,
)
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.domain.conversation import Conversation, Message, Role, Text, ToolChoice
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.model_card import ModelCard

# Most characters of a key, which is sent back and stored; OpenAI's are 64 at most.
MOST_KEY_CHARACTERS = 1024
# Most bytes of a stored response, its items and its settings: more than any context has in text.
MOST_STORED_BYTES = 16 << 20
LOGPROBS = "message.output_text.logprobs"
# Fields for what OpenAI's server stores and this one does not, with what to send instead.
NOT_KEPT = {
    "conversation": "conversations are not kept here: use previous_response_id",
    "prompt": "prompts are not kept here: send their text as instructions or input",
}

# Documented as null. Any value is decoded, so that the error can say what to send instead.
Nothing = Annotated[object, msgspec.Meta(extra_json_schema={"type": "null"})]
Metadata = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=64)], Annotated[str, msgspec.Meta(max_length=512)]],
    msgspec.Meta(max_length=16),
]


@attrs.frozen
class TextFormat:
    """Text, any JSON object, or JSON of a schema.

    Answers match it whether it is `strict` or not.
    """

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: FormatName | None = None
    schema: dict[str, object] | None = None
    strict: bool | None = None


@attrs.frozen
class TextParam:
    """Text settings."""

    format: TextFormat | None = None


@attrs.frozen(kw_only=True)
class ResponseRequest(SamplingFields, ThinkingFields, StructuredOutputFields, UnsupportedFields):
    """A conversation to continue, or the new items of a stored one."""

    model: str
    input: str | Annotated[list[InputItem], msgspec.Meta(max_length=MOST_MESSAGES)] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Nothing = None
    prompt: Nothing = None
    max_output_tokens: MaxTokens | None = None
    top_logprobs: TopLogprobs | None = None
    include: list[str] | None = None
    tools: Annotated[list[ToolParam], msgspec.Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: ChoiceWord | ToolChoiceParam | None = None
    parallel_tool_calls: bool | None = None
    text: TextParam | None = None
    response_format: ResponseFormat | None = None  # as Chat Completions has it
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    stream: bool | None = None
    background: bool | None = None
    metadata: Metadata | None = None
    prompt_cache_key: Annotated[str, msgspec.Meta(max_length=MOST_KEY_CHARACTERS)] | None = None
    session_id: AgentId | None = None
    cache_salt: CacheSalt | None = None
    service_tier: str | None = None

    @property
    def is_stored(self) -> bool:
        """True if the response has to be stored."""
        return self.store is not False

    @property
    def wants_logprobs(self) -> bool:
        """True if log-probabilities are asked for."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)


def check(request: ResponseRequest) -> None:
    """Raise `InvalidRequestError` for fields that contradict each other, and for what only OpenAI's
    server stores.
    """
    for field, told in NOT_KEPT.items():
        if getattr(request, field) is not None:
            raise InvalidRequestError(told, field, quotes=False)
    if request.background and not request.is_stored:
        raise InvalidRequestError(
            "a background response has to be stored: leave store out", "background", quotes=False
        )
    if request.background and request.stream:
        raise InvalidRequestError(
            "a background response cannot be streamed: leave stream out, and retrieve it by its id",
            "background",
            quotes=False,
        )


def generation_params(
    request: ResponseRequest,
    messages: Sequence[Message],
    identity: Identity = ANONYMOUS,
    responses: tuple[str, ...] = (),
) -> GenerationParams:
    """Return the parameters of a request, with all messages of the conversation; `responses` are
    the ids of all responses in it.

    Raises `InvalidRequestError`.
    """
    tools = tools_of(request.tools or (), may_call=may_call(request.tool_choice))
    front = (Message(Role.SYSTEM, (Text(request.instructions),)),) if request.instructions else ()
    conversation = Conversation(
        (*front, *messages),
        tools,
        choice_of(request.tool_choice, tools, is_single=request.parallel_tool_calls is False),
        schema=requested_schema(
            request,
            {
                "text.format": _schema(request.text),
                "response_format": schema_of(request.response_format),
            },
        ),
    )
    return GenerationParams(
        model=request.model,
        conversation=with_thinking(conversation, request),
        max_tokens=token_limit(request, "max_output_tokens"),
        sampling=request.sampling,
        seed=request.seed,
        top_logprobs=request.top_logprobs or 0 if request.wants_logprobs else None,
        identity=identity,
        service_tier=request.service_tier,
        is_private=not request.is_stored,
        responses=responses,
        prompt_field="input",
    )


def begun(
    request: ResponseRequest,
    choice: ToolChoice,
    response_id: str,
    model: ModelCard,
    created_at: int,
    service_tier: ServedTier = "default",
) -> ResponseAnswer:
    """Return the response before any output; `choice` is the tool choice of its request,
    `service_tier` the tier that it is served with.
    """
    status: Status = "queued" if request.background else "in_progress"
    return ResponseAnswer(
        id=response_id,
        created_at=created_at,
        model=model.id,
        status=status,
        instructions=request.instructions,
        previous_response_id=request.previous_response_id,
        max_output_tokens=token_limit(request, "max_output_tokens"),
        temperature=model.sampling.temperature
        if request.temperature is None
        else request.temperature,
        top_p=model.sampling.top_p if request.top_p is None else request.top_p,
        top_logprobs=request.top_logprobs or 0,
        tools=tools_in_force(request.tools or ()),
        tool_choice=choice_in_force(choice, custom_names(request.tools or ())),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        text=TextInForce(_format(request.text)),
        reasoning=ReasoningInForce(request.reasoning.effort if request.reasoning else None),
        metadata=request.metadata or {},
        store=request.is_stored,
        background=bool(request.background),
        prompt_cache_key=request.prompt_cache_key,
        service_tier=service_tier,
    )


def _schema(text: TextParam | None) -> str | None:
    """Return the schema of the answer's text; None for any text."""
    wanted = text.format if text else None
    if wanted is None or wanted.type == "text":
        return None
    return schema_text(wanted.schema)


def _format(text: TextParam | None) -> FormatInForce:
    wanted = text.format if text else None
    if wanted is None or wanted.type != "json_schema":
        return FormatInForce(wanted.type if wanted else "text")
    return FormatInForce(
        "json_schema", wanted.name or "answer", wanted.schema or {}, bool(wanted.strict)
    )
