"""Routes that create agents, anew or as forks of others."""

import uuid

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.agents.request import CreateAgent, ForkAgent
from semantic_trio.adapters.http.agents.views import AgentView, agent_view, find_agent
from semantic_trio.adapters.http.common.exchange import current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.identity import client_chosen_id
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults, document_optional_body
from semantic_trio.adapters.http.openai.chat.messages import ChatMessage, message_of
from semantic_trio.adapters.http.openai.common.tools import tools_of
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.model_names import ANY_MODEL
from semantic_trio.domain.salt import NO_SALT, salt_of

NO_BODY = b"{}"


def routes(state: AppState) -> Blueprint:
    """Build the routes `POST /v1/agents` and `/v1/agents/<id>/fork`."""
    blueprint = Blueprint("agents", __name__)

    @blueprint.post("/v1/agents")
    @document_request(CreateAgent)
    @document_optional_body
    @document_response(AgentView, 201)
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 409, 413, 500, 503)
    async def create_agent() -> Response:
        """Create an agent, which exists until it is deleted."""
        exchange = current.get()
        wanted = decode(exchange.body or NO_BODY, CreateAgent)
        model = await state.resolve(wanted.model or ANY_MODEL, exchange.stack)
        if model.adapter is not None:
            raise InvalidRequestError(
                f"agents that are created here use a model without an adapter, not {wanted.model}",
                "model",
                quotes=False,
            )
        model.engine.refuse_when_closed()
        system = (
            (message_of(ChatMessage("system", wanted.system), "system"),) if wanted.system else ()
        )
        conversation = Conversation(system, tools_of(wanted.tools or ()))
        agent = model.engine.memory.create(_new_id(wanted.id))
        agent.conversation = conversation
        agent.salt = salt_of(wanted.cache_salt) if wanted.cache_salt else NO_SALT
        model.engine.memory.write(agent)
        return json_response(agent_view(model, agent), 201)

    @blueprint.post("/v1/agents/<agent_id>/fork")
    @document_request(ForkAgent)
    @document_optional_body
    @document_response(AgentView, 201)
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 409, 413, 500, 503)
    async def fork_agent(agent_id: str) -> Response:
        """Create an agent with the memory of this one after its last whole turn; both share the
        blocks.
        """
        wanted = decode(current.get().body or NO_BODY, ForkAgent)
        model, agent = await find_agent(state, agent_id)
        model.engine.refuse_when_closed()
        return json_response(
            agent_view(model, model.engine.memory.fork(agent, _new_id(wanted.id))), 201
        )

    return blueprint


def _new_id(given: str | None) -> str:
    return f"agent-{uuid.uuid4().hex}" if given is None else client_chosen_id(given, "id")
