"""Routes of the Chat Completions API. Knows nothing of how an answer comes about."""

import functools

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.common.exchange import Exchange, current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.json_decoding import decode, understood
from semantic_trio.adapters.http.common.openapi import document_faults, document_stream
from semantic_trio.adapters.http.openai.chat.completion import ChatAnswer, Manner, whole_completion
from semantic_trio.adapters.http.openai.chat.request import ChatRequest, asked
from semantic_trio.adapters.http.openai.chat.stream import ChatEncoder
from semantic_trio.adapters.http.openai.common.completion_chunks import Chunks, Head
from semantic_trio.adapters.http.openai.common.tools import custom_names
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.generation import generate_several
from semantic_trio.adapters.http.serving.params import Asked
from semantic_trio.adapters.http.serving.responding import Body, respond
from semantic_trio.application.choices import Choices


def routes(state: AppState) -> Blueprint:
    """`/v1/chat/completions`."""
    blueprint = Blueprint("openai", __name__)

    @blueprint.post("/v1/chat/completions")
    @document_request(ChatRequest)
    @document_response(ChatAnswer, 200)
    @document_stream
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 413, 429, 500, 503)
    async def create_chat_completion() -> Response:
        """Answer a conversation, whole or as a stream of chunks."""
        exchange = current.get()
        request, params = await understood(exchange.body, functools.partial(_parsed, exchange))
        model, answers = await generate_several(state, exchange, params, request.choices)
        manner = Manner(
            head=Head.new("chatcmpl", model.card.id),
            customs=custom_names(request.tools or ()),
            token_bytes=model.codec.token_bytes if request.logprobs else None,
        )

        def encoder() -> ChatEncoder:
            return ChatEncoder(manner, Chunks("chat.completion.chunk", manner.head, request.wants_usage), answers)

        async def whole() -> Body:
            results = [await answer.result() for answer in answers]
            return whole_completion(manner, results), results[0].finished.reuse

        return await respond(state, Choices(answers), encoder, whole, is_streamed=request.stream)

    return blueprint


def _parsed(exchange: Exchange, body: bytes) -> tuple[ChatRequest, Asked]:
    request = decode(body, ChatRequest)
    return request, asked(request, request.identity(exchange.headers))
