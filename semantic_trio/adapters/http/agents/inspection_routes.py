"""Routes that show agents, and why the last turn of one missed its cache."""

from quart import Blueprint, Response
from quart_schema import document_response

from semantic_trio.adapters.http.agents.views import (
    AgentList,
    AgentView,
    LastTurn,
    agent_list,
    agent_view,
    find_agent,
    last_turn,
)
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults
from semantic_trio.adapters.http.serving.app_state import AppState


def routes(state: AppState) -> Blueprint:
    """Build the routes `GET /v1/agents`, `/v1/agents/<id>` and `/v1/agents/<id>/last-turn`."""
    blueprint = Blueprint("agents-inspection", __name__)

    @blueprint.get("/v1/agents")
    @document_response(AgentList, 200)
    @document_faults(OpenAIError, 401, 403)
    async def list_agents() -> Response:
        """List all agents, including those that no client has named."""
        return json_response(agent_list(state))

    @blueprint.get("/v1/agents/<agent_id>")
    @document_response(AgentView, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404)
    async def get_agent(agent_id: str) -> Response:
        """Return an agent and the size of its memory."""
        return json_response(agent_view(*(await find_agent(state, agent_id))))

    @blueprint.get("/v1/agents/<agent_id>/last-turn")
    @document_response(LastTurn, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404)
    async def get_last_turn(agent_id: str) -> Response:
        """Return what the last turn reused, where its prompt diverged from the agent's history, and
        why no more was reused.
        """
        return json_response(last_turn(*(await find_agent(state, agent_id))))

    return blueprint
