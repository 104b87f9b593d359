"""Routes of the Messages API. Knows nothing of how an answer is generated."""

import functools
import uuid

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.anthropic.message import (
    MessageAnswer,
    MessageFormat,
    TokenCount,
    message_answer,
)
from semantic_trio.adapters.http.anthropic.request import (
    CountTokensRequest,
    MessagesRequest,
    conversation,
    generation_params,
)
from semantic_trio.adapters.http.anthropic.server_tools import FixedAnswer, fixed_answer
from semantic_trio.adapters.http.anthropic.stream import MessageEncoder, MessageSignals
from semantic_trio.adapters.http.anthropic.thinking import display_of
from semantic_trio.adapters.http.anthropic.tools import read_tools
from semantic_trio.adapters.http.anthropic.usage import Usage
from semantic_trio.adapters.http.common.exchange import Exchange, current
from semantic_trio.adapters.http.common.faults import AnthropicError
from semantic_trio.adapters.http.common.identity import identify
from semantic_trio.adapters.http.common.json_decoding import decode, parsed
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults, document_stream
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.generation import (
    generate,
    name_agent,
    report_unreadable,
)
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.adapters.http.serving.responding import Body, Reply, respond
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.conversation import AnswerPart, Conversation
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.prompt import Breakpoint


def routes(state: AppState) -> Blueprint:
    """Build the routes `/v1/messages` and `/v1/messages/count_tokens`."""
    blueprint = Blueprint("anthropic", __name__)

    @blueprint.post("/v1/messages")
    @document_request(MessagesRequest)
    @document_response(MessageAnswer, 200)
    @document_stream
    @document_faults(AnthropicError, 400, 401, 403, 404, 408, 413, 500, 503, 529)
    async def create_message() -> Response:
        """Answer a conversation, whole or as a stream of events."""
        exchange = current.get()
        request, params, fixed = await parsed(exchange.body, functools.partial(_parsed, exchange))
        if fixed is None:
            report_unreadable(state, exchange, params.conversation)
        begin = functools.partial(_begin, state, exchange, request, params, fixed)
        return await respond(
            state,
            params.model,
            begin,
            MessageSignals(exchange.request_id),
            is_streamed=request.stream,
        )

    @blueprint.post("/v1/messages/count_tokens")
    @document_request(CountTokensRequest)
    @document_response(TokenCount, 200)
    @document_faults(AnthropicError, 400, 401, 403, 404, 408, 413, 500)
    async def count_tokens() -> Response:
        """Count the prompt tokens of a conversation."""
        exchange = current.get()
        request, conversation_to_count = await parsed(exchange.body, _parsed_count)
        identity = identify(exchange.headers, cache_salt=request.cache_salt)
        name_agent(exchange, identity)
        model = await state.resolve(request.model, exchange.stack)
        encoded = await model.encode(conversation_to_count, model.salt(identity))
        return json_response(TokenCount(len(encoded.prompt.tokens)))

    return blueprint


def _parsed(
    exchange: Exchange, body: bytes
) -> tuple[MessagesRequest, GenerationParams, FixedAnswer | None]:
    request = decode(body, MessagesRequest)
    user_id = request.metadata.user_id if request.metadata else None
    fixed = fixed_answer(read_tools(request.tools or ()), request.tool_choice)
    identity = identify(
        exchange.headers,
        session_id=request.session_id,
        user_id=user_id,
        cache_salt=request.cache_salt,
    )
    return request, generation_params(request, identity), fixed


def _parsed_count(body: bytes) -> tuple[CountTokensRequest, Conversation]:
    request = decode(body, CountTokensRequest)
    return request, conversation(request)


async def _begin(
    state: AppState,
    exchange: Exchange,
    request: MessagesRequest,
    params: GenerationParams,
    fixed: FixedAnswer | None,
) -> Reply[AnswerPart]:
    if fixed is not None:
        return await _begin_without_model(state, exchange, request, fixed)
    model, answer = await generate(state, exchange, params)
    submitted = answer.generation.request
    answer_format = _format(request, model, submitted.breakpoints, submitted.priority)

    def encoder() -> MessageEncoder:
        return MessageEncoder(exchange.request_id, answer_format, _expected_usage(model, submitted))

    async def whole() -> Body:
        result = await answer.result()
        return message_answer(result, answer_format), result.finished.reuse

    return Reply(answer, encoder, whole)


async def _begin_without_model(
    state: AppState, exchange: Exchange, request: MessagesRequest, fixed: FixedAnswer
) -> Reply[AnswerPart]:
    """Begin an answer that no model has generated. Raises `ModelNotFoundError` all the same."""
    model = await state.resolve(request.model, exchange.stack)
    exchange.model = model.card.id
    answer_format = _format(request, model)

    def encoder() -> MessageEncoder:
        return MessageEncoder(
            exchange.request_id, answer_format, answer_format.usage(fixed.whole.finished)
        )

    async def whole() -> Body:
        return message_answer(fixed.whole, answer_format), None

    return Reply(fixed, encoder, whole)


def _format(
    request: MessagesRequest,
    model: ServedModel,
    breakpoints: tuple[Breakpoint, ...] = (),
    priority: Priority = Priority.INTERACTIVE,
) -> MessageFormat:
    return MessageFormat(
        message_id=f"msg_{uuid.uuid4().hex}",
        model=model.card.id,
        stop_sequences=frozenset(request.stop_sequences or ()),
        display=display_of(request.thinking),
        breakpoints=breakpoints,
        priority=priority,
    )


def _expected_usage(model: ServedModel, generation: GenerationRequest) -> Usage:
    """Return the usage if the prompt were read now.

    Some clients read only this one, others add the zeros of the last one to it.
    """
    memory, prompt = model.engine.memory, generation.prompt
    return Usage.of(
        len(prompt),
        memory.match(memory.run(prompt, generation.salt)).length,
        0,
        generation.breakpoints,
        generation.priority,
    )
