"""Routes for turns of an agent: a request carries only the new messages.

Turns of one agent run in the order of their requests.
"""

import functools

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.agents.request import AgentTurn, generation_params
from semantic_trio.adapters.http.agents.running_turn import (
    RunningTurn,
    next_prompt_prefix,
    refuse_deleted,
)
from semantic_trio.adapters.http.agents.turn_queue import AgentQueues, QueuePlace
from semantic_trio.adapters.http.agents.turn_result import AgentAnswer, Warmed, agent_answer
from semantic_trio.adapters.http.agents.turn_stream import TurnEncoder
from semantic_trio.adapters.http.agents.views import find_agent, model_of_search
from semantic_trio.adapters.http.common.cache_report import Cache
from semantic_trio.adapters.http.common.exchange import Exchange, current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.identity import Identity, agent_id_in_url
from semantic_trio.adapters.http.common.json_decoding import decode, parsed
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults, document_stream
from semantic_trio.adapters.http.common.priority import priority_of
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.generation import name_agent, report_unreadable, submit
from semantic_trio.adapters.http.serving.params import GenerationParams, SamplingChoice
from semantic_trio.adapters.http.serving.responding import Body, Reply, respond
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.conversation import NOTHING_SAID, AnswerPart
from semantic_trio.domain.errors import OverloadedError
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.reuse import NOTHING_REUSED


def routes(state: AppState) -> Blueprint:
    """Build the routes `/v1/agents/<id>/generate` and `warm`."""
    blueprint = Blueprint("agents-turns", __name__)
    queues = AgentQueues()
    _add_generate(blueprint, state, queues)
    _add_warm(blueprint, state, queues)
    return blueprint


def _add_generate(blueprint: Blueprint, state: AppState, queues: AgentQueues) -> None:
    @blueprint.post("/v1/agents/<agent_id>/generate")
    @document_request(AgentTurn)
    @document_response(AgentAnswer, 200)
    @document_stream
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 413, 429, 500, 503)
    async def generate(agent_id: str) -> Response:
        """Answer a message to an agent.

        Message and answer are appended to its conversation when the answer is complete.
        """
        exchange = current.get()
        request = await parsed(exchange.body, functools.partial(decode, kind=AgentTurn))
        encoder = TurnEncoder(agent_id_in_url(agent_id), exchange.protocol, exchange.request_id)

        async def begin() -> Reply[AnswerPart]:
            turn = await _turn(state, queues, exchange, agent_id, request)

            async def whole() -> Body:
                result = await turn.result()
                return agent_answer(agent_id, result), result.finished.reuse

            return Reply(turn, lambda: encoder, whole)

        return await respond(
            state, model_of_search(state), begin, encoder, is_streamed=request.stream
        )


def _add_warm(blueprint: Blueprint, state: AppState, queues: AgentQueues) -> None:
    @blueprint.post("/v1/agents/<agent_id>/warm")
    @document_response(Warmed, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404, 429, 500, 503)
    async def warm_agent(agent_id: str) -> Response:
        """Prefill an agent's conversation, system prompt included, so that its next turn finds it
        in the cache.
        """
        exchange = current.get()
        model, agent = await find_agent(state, agent_id)
        place = _take_place(queues, model, agent, exchange, priority_of(exchange.headers))
        await place.wait()
        identity = Identity(agent.id, is_ordered=True)
        name_agent(exchange, identity)
        encoded = await next_prompt_prefix(model, agent)
        refuse_deleted(agent)
        if not encoded.prompt.tokens:
            return json_response(
                Warmed(agent.id, 0, Cache.of(NOTHING_REUSED)), reuse=NOTHING_REUSED
            )
        only_read = GenerationParams(
            model.card.id,
            NOTHING_SAID,
            0,
            SamplingChoice(),
            identity=identity,
        )
        answer = submit(state, exchange, model, only_read, encoded)
        place.submitted(functools.partial(model.engine.hurry, answer.generation))
        reuse = (await answer.result()).finished.reuse
        return json_response(
            Warmed(agent.id, len(encoded.prompt.tokens), Cache.of(reuse)), reuse=reuse
        )


async def _turn(
    state: AppState, queues: AgentQueues, exchange: Exchange, agent_id: str, request: AgentTurn
) -> RunningTurn:
    """Give a turn its place in the agent's queue.

    Raises what `find_agent`, `generation_params` and `RunningTurn.begin` raise.
    """
    model, agent = await find_agent(state, agent_id)
    params = generation_params(request, model.card.id, agent.id, agent.conversation.tools)
    name_agent(exchange, params.identity)
    report_unreadable(state, exchange, params.conversation)
    priority = priority_of(exchange.headers, request.service_tier)
    place = _take_place(queues, model, agent, exchange, priority)
    turn = RunningTurn(state, exchange, model, agent, place, params)
    if request.stream and turn.place.is_first:
        await turn.begin()  # errors of the request have a status while nothing was sent
    return turn


def _take_place(
    queues: AgentQueues,
    model: ServedModel,
    agent: Agent,
    exchange: Exchange,
    priority: Priority,
) -> QueuePlace:
    """Take a place in the agent's queue until the request is over.

    Raises `OverloadedError` if the queue is full, and at the end of the server.
    """
    engine, waiting = model.engine, queues.length(agent, priority)
    engine.refuse_when_closed()
    if waiting > engine.queue_limit:
        raise OverloadedError(waiting, engine.queue_limit, engine.retry_after_seconds)
    place = queues.join(agent, priority)
    exchange.stack.callback(place.leave)
    return place
