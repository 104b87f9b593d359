"""Routes of the Chat Completions API. Knows nothing of how an answer is generated."""

import functools

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.common.exchange import Exchange, current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.json_decoding import decode, parsed
from semantic_trio.adapters.http.common.openapi import document_faults, document_stream
from semantic_trio.adapters.http.common.priority import ServedTier, priority_of, served_tier
from semantic_trio.adapters.http.openai.chat.completion import (
    ChatAnswer,
    CompletionFormat,
    chat_completion,
)
from semantic_trio.adapters.http.openai.chat.request import ChatRequest, generation_params
from semantic_trio.adapters.http.openai.chat.stream import ChatEncoder
from semantic_trio.adapters.http.openai.common.choices_reply import choices_reply
from semantic_trio.adapters.http.openai.common.completion_chunks import (
    Chunks,
    CompletionSignals,
    Head,
)
from semantic_trio.adapters.http.openai.common.tools import custom_names
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.generation import generate_several, report_unreadable
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.adapters.http.serving.responding import Reply, respond
from semantic_trio.application.choices import Chosen
from semantic_trio.domain.priority import Priority


def routes(state: AppState) -> Blueprint:
    """Build the route `/v1/chat/completions`."""
    blueprint = Blueprint("openai", __name__)

    @blueprint.post("/v1/chat/completions")
    @document_request(ChatRequest)
    @document_response(ChatAnswer, 200)
    @document_stream
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 413, 429, 500, 503)
    async def create_chat_completion() -> Response:
        """Answer a conversation, whole or as a stream of chunks."""
        exchange = current.get()
        request, params = await parsed(exchange.body, functools.partial(_parsed, exchange))
        report_unreadable(state, exchange, params.conversation)
        begin = functools.partial(_begin, state, exchange, request, params)
        return await respond(
            state, params.model, begin, CompletionSignals(), is_streamed=request.stream
        )

    return blueprint


async def _begin(
    state: AppState, exchange: Exchange, request: ChatRequest, params: GenerationParams
) -> Reply[Chosen]:
    model, answers = await generate_several(state, exchange, params, request.choices)
    answer_format = CompletionFormat(
        head=Head.new("chatcmpl", model.card.id, _tier(exchange, request)),
        customs=custom_names(request.tools or ()),
        token_bytes=model.codec.token_bytes if request.logprobs else None,
    )

    def encoder() -> ChatEncoder:
        return ChatEncoder(
            answer_format,
            Chunks("chat.completion.chunk", answer_format.head, request.wants_usage),
            answers,
        )

    return choices_reply(answers, encoder, functools.partial(chat_completion, answer_format))


def _tier(exchange: Exchange, request: ChatRequest) -> ServedTier | None:
    """Return the tier that a request is served with, as far as its client wants to know it."""
    priority = priority_of(exchange.headers, request.service_tier)
    return (
        None
        if request.service_tier is None and priority is Priority.INTERACTIVE
        else served_tier(priority)
    )


def _parsed(exchange: Exchange, body: bytes) -> tuple[ChatRequest, GenerationParams]:
    request = decode(body, ChatRequest)
    return request, generation_params(request, request.identity(exchange.headers))
