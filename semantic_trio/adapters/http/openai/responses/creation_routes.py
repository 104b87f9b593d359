"""The route that creates responses. Knows nothing of how an answer is generated."""

import functools
import time
from contextlib import ExitStack

import attrs
import msgspec
from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.common.exchange import Exchange, current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.identity import Identity, identify
from semantic_trio.adapters.http.common.json_decoding import decode, parsed
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults, document_stream
from semantic_trio.adapters.http.common.priority import ServedTier, priority_of, served_tier
from semantic_trio.adapters.http.openai.common.tools import custom_names
from semantic_trio.adapters.http.openai.responses.history import (
    NOTHING_BEFORE,
    PREVIOUS,
    History,
    history,
)
from semantic_trio.adapters.http.openai.responses.ids import new_stem, response_id, response_of
from semantic_trio.adapters.http.openai.responses.input_items import ItemReference
from semantic_trio.adapters.http.openai.responses.item_messages import (
    ReadItem,
    messages_of,
    read_input,
)
from semantic_trio.adapters.http.openai.responses.output_items import ItemDelta, OutputItems
from semantic_trio.adapters.http.openai.responses.request import (
    MOST_STORED_BYTES,
    ResponseRequest,
    begun,
    check,
    generation_params,
)
from semantic_trio.adapters.http.openai.responses.response_generation import ResponseGeneration
from semantic_trio.adapters.http.openai.responses.response_object import ResponseAnswer
from semantic_trio.adapters.http.openai.responses.state import ResponsesState
from semantic_trio.adapters.http.openai.responses.stream import ResponseEncoder, ResponseSignals
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.generation import generate, report_unreadable
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.adapters.http.serving.responding import Body, Reply, respond
from semantic_trio.domain.errors import InvalidRequestError, ModelNotFoundError
from semantic_trio.domain.model_card import ModelCard
from semantic_trio.domain.responses import StoredResponse


@attrs.frozen
class _ParsedRequest:
    """A parsed request."""

    request: ResponseRequest
    new: tuple[ReadItem, ...]
    identity: Identity


@attrs.frozen
class _Submission:
    """A request with the conversation that it continues."""

    request: ResponseRequest
    stem: str
    before: History
    params: GenerationParams
    tier: ServedTier

    def begun(self, card: ModelCard) -> ResponseAnswer:
        """Return the response before any output."""
        return begun(
            self.request,
            self.params.conversation.choice,
            response_id(self.stem),
            card,
            int(time.time()),
            self.tier,
        )


def routes(state: AppState, responses: ResponsesState) -> Blueprint:
    """Build the route `POST /v1/responses`."""
    blueprint = Blueprint("responses", __name__)

    @blueprint.post("/v1/responses")
    @document_request(ResponseRequest)
    @document_response(ResponseAnswer, 200)
    @document_stream
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 413, 429, 500, 503)
    async def create_response() -> Response:
        """Answer a conversation, or continue a stored one: whole, as a stream of events, or in the
        background.
        """
        exchange = current.get()
        parsed_request = await parsed(exchange.body, functools.partial(_parsed, exchange))
        request = parsed_request.request
        submission = await _submission(responses, exchange, parsed_request)
        report_unreadable(state, exchange, submission.params.conversation)
        if request.background:
            return json_response(
                (await _begin_in_background(state, responses, exchange, submission)).begun
            )
        begin = functools.partial(_begin, state, responses, exchange, submission)
        signals = ResponseSignals(submission.begun(_card(state, request.model)))
        return await respond(state, request.model, begin, signals, is_streamed=request.stream)

    return blueprint


def _card(state: AppState, name: str) -> ModelCard:
    """Return the card of a model; of one that is not there yet (a swap may be bringing it) its name
    alone.
    """
    try:
        return state.card(name)
    except ModelNotFoundError:
        return ModelCard(name, name, 0, 0)


def _parsed(exchange: Exchange, body: bytes) -> _ParsedRequest:
    request = decode(body, ResponseRequest)
    check(request)
    identity = identify(
        exchange.headers,
        session_id=request.session_id,
        prompt_cache_key=request.prompt_cache_key,
        cache_salt=request.cache_salt,
    )
    return _ParsedRequest(request, read_input(request.input or ()), identity)


async def _submission(
    responses: ResponsesState, exchange: Exchange, parsed_request: _ParsedRequest
) -> _Submission:
    """Read the conversation that a request continues.

    Raises what `history` and `generation_params` raise.
    """
    request, stem = parsed_request.request, new_stem()
    before = await _history(responses, parsed_request, stem)
    params = generation_params(
        request,
        messages_of((*before.before, *before.new)),
        parsed_request.identity,
        (response_id(stem), *before.responses),
    )
    return _Submission(
        request,
        stem,
        before,
        params,
        served_tier(priority_of(exchange.headers, request.service_tier)),
    )


async def _begin(
    state: AppState, responses: ResponsesState, exchange: Exchange, submission: _Submission
) -> Reply[ItemDelta]:
    """Submit a request; its generation ends with the exchange. Raises what `generate` raises."""
    generation = await _submit(state, responses, exchange, submission)

    async def whole() -> Body:
        finished = await generation.result()
        return generation.final, finished.reuse

    return Reply(generation, functools.partial(ResponseEncoder, generation), whole)


async def _submit(
    state: AppState, responses: ResponsesState, exchange: Exchange, submission: _Submission
) -> ResponseGeneration:
    request, stem = submission.request, submission.stem
    first = submission.begun((await state.resolve(request.model, exchange.stack)).card)
    record = _record(first, submission.before) if request.is_stored else None
    model, answer = await generate(state, exchange, submission.params)
    output = OutputItems(
        stem,
        custom_names(request.tools or ()),
        model.codec.token_bytes if request.wants_logprobs else None,
    )
    generation = ResponseGeneration(first, answer, output, responses.store, record)
    responses.active.join(generation, exchange.stack)
    return generation


async def _begin_in_background(
    state: AppState, responses: ResponsesState, exchange: Exchange, submission: _Submission
) -> ResponseGeneration:
    """Submit a background request: the response is stored from its beginning, and outlives its HTTP
    request.
    """
    behind = attrs.evolve(exchange, stack=ExitStack(), generations=[])
    with behind.stack:
        generation = await _submit(state, responses, behind, submission)
        await generation.put()
        responses.active.start(generation, behind.stack)
    exchange.model, exchange.agent = behind.model, behind.agent
    return generation


async def _history(responses: ResponsesState, parsed_request: _ParsedRequest, stem: str) -> History:
    request = parsed_request.request
    if request.previous_response_id is not None:
        responses.active.refuse_unfinished(request.previous_response_id, PREVIOUS)
    for reference in (
        one.item for one in parsed_request.new if isinstance(one.item, ItemReference)
    ):
        responses.active.refuse_unfinished(response_of(reference.id) or "", "input")
    if not (
        request.is_stored
        or request.previous_response_id is not None
        or any(one.refers for one in parsed_request.new)
    ):
        return attrs.evolve(NOTHING_BEFORE, new=parsed_request.new)
    return await responses.store.call(
        lambda store: history(store, request.previous_response_id, parsed_request.new, stem)
    )


def _record(first: ResponseAnswer, before: History) -> StoredResponse:
    """Return the response as it is stored.

    Raises `InvalidRequestError` for one that is too large.
    """
    output = msgspec.json.encode(first)
    if (size := len(before.given) + len(output)) > MOST_STORED_BYTES:
        raise InvalidRequestError(
            (
                f"a response is stored in {MOST_STORED_BYTES} bytes at the most, and this one "
                f"takes {size}"
            ),
            "store",
            quotes=False,
        )
    return StoredResponse.of(
        id=first.id,
        parent=before.parent,
        model=first.model,
        created_at=first.created_at,
        status=first.status,
        input=before.given,
        output=output,
    )
