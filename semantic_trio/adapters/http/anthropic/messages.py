"""Routes of the Messages API. Knows nothing of how an answer comes about."""

import uuid

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.answers import json_answer
from semantic_trio.adapters.http.anthropic.answer import MessageAnswer, MessageEncoder, TokenCount, whole_message
from semantic_trio.adapters.http.anthropic.wire import CountTokensRequest, MessagesRequest, asked, conversation
from semantic_trio.adapters.http.body import decode
from semantic_trio.adapters.http.contract import document_faults, document_stream
from semantic_trio.adapters.http.exchange import current
from semantic_trio.adapters.http.faults import AnthropicError
from semantic_trio.adapters.http.generate import begin
from semantic_trio.adapters.http.sse import event_stream
from semantic_trio.adapters.http.state import AppState


def routes(state: AppState) -> Blueprint:
    """`/v1/messages` and `/v1/messages/count_tokens`."""
    blueprint = Blueprint("anthropic", __name__)

    @blueprint.post("/v1/messages")
    @document_request(MessagesRequest)
    @document_response(MessageAnswer, 200)
    @document_stream
    @document_faults(AnthropicError, 400, 401, 403, 404, 408, 413, 500, 503, 529)
    async def create_message() -> Response:
        """Answer a conversation, whole or as a stream of events."""
        exchange = current.get()
        request = decode(exchange.body, MessagesRequest)
        model, generation = await begin(state, asked(request))
        message_id = f"msg_{uuid.uuid4().hex}"
        if request.stream:
            encoder = MessageEncoder(message_id, model.card.id, exchange.request_id, len(generation.request.prompt))
            return event_stream(generation, encoder, state.settings.ping_seconds)
        return json_answer(whole_message(message_id, model.card.id, await generation.result()))

    @blueprint.post("/v1/messages/count_tokens")
    @document_request(CountTokensRequest)
    @document_response(TokenCount, 200)
    @document_faults(AnthropicError, 400, 401, 403, 404, 408, 413, 500)
    async def count_tokens() -> Response:
        """Count the tokens a conversation would be billed."""
        request = decode(current.get().body, CountTokensRequest)
        model = state.resolve(request.model)
        prompt = await model.encode(conversation(request.system, request.messages))
        return json_answer(TokenCount(len(prompt)))

    return blueprint
