"""Routes of the Messages API. Knows nothing of how an answer comes about."""

import uuid

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.answers import json_answer
from semantic_trio.adapters.http.anthropic.answer import MessageAnswer, MessageEncoder, TokenCount, Usage, whole_message
from semantic_trio.adapters.http.anthropic.wire import CountTokensRequest, MessagesRequest, asked, conversation
from semantic_trio.adapters.http.body import decode
from semantic_trio.adapters.http.contract import document_faults, document_stream
from semantic_trio.adapters.http.exchange import Exchange, current
from semantic_trio.adapters.http.faults import AnthropicError
from semantic_trio.adapters.http.generate import begin
from semantic_trio.adapters.http.identity import Identity, identify
from semantic_trio.adapters.http.sse import event_stream
from semantic_trio.adapters.http.state import AppState, ServedModel


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
        model, generation = await begin(state, asked(request, _identity(exchange, request)))
        message_id, has_breakpoints = f"msg_{uuid.uuid4().hex}", request.has_breakpoints
        if request.stream:
            expected = _expected(model, generation.request.prompt, has_breakpoints=has_breakpoints)
            encoder = MessageEncoder(message_id, model.card.id, exchange.request_id, expected, has_breakpoints)
            return event_stream(generation.events, encoder, state.settings.ping_seconds)
        result = await generation.result()
        message = whole_message(message_id, model.card.id, result, has_breakpoints=has_breakpoints)
        return json_answer(message, reuse=result.finished.reuse)

    @blueprint.post("/v1/messages/count_tokens")
    @document_request(CountTokensRequest)
    @document_response(TokenCount, 200)
    @document_faults(AnthropicError, 400, 401, 403, 404, 408, 413, 500)
    async def count_tokens() -> Response:
        """Count the tokens a conversation would be billed."""
        exchange = current.get()
        request = decode(exchange.body, CountTokensRequest)
        model = state.resolve(request.model)
        prompt = await model.encode(conversation(request.system, request.messages), _identity(exchange, request).agent)
        return json_answer(TokenCount(len(prompt.tokens)))

    return blueprint


def _identity(exchange: Exchange, request: MessagesRequest | CountTokensRequest) -> Identity:
    user_id = request.metadata.user_id if request.metadata else None
    return identify(exchange.headers, session_id=request.session_id, user_id=user_id)


def _expected(model: ServedModel, prompt: tuple[int, ...], *, has_breakpoints: bool) -> Usage:
    """The usage if the prompt were read now. Some clients read no other than this one, others add what the last one leaves at zero."""
    memory = model.engine.memory
    return Usage.of(len(prompt), memory.match(memory.run(prompt)).length, 0, has_breakpoints=has_breakpoints)
