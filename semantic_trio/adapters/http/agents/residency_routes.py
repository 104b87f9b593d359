"""Routes that decide how long an agent's memory stays: in RAM, or at all."""

import contextlib

from quart import Blueprint, Response
from quart_schema import document_response

from semantic_trio.adapters.http.agents.persisted_record import persisted_record
from semantic_trio.adapters.http.agents.running_turn import refuse_deleted
from semantic_trio.adapters.http.agents.views import AgentView, agent_view, find_agent
from semantic_trio.adapters.http.common.faults import Fault, OpenAIError
from semantic_trio.adapters.http.common.json_responses import empty_response, json_response
from semantic_trio.adapters.http.common.openapi import document_faults, document_nothing
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.deletion import delete_agent_everywhere
from semantic_trio.domain.errors import CachePersistenceError, PoolExhaustedError

# Seconds that closing an agent waits for its memory to be on disk.
CLOSE_SECONDS = 5.0


def routes(state: AppState) -> Blueprint:
    """Build the routes `/v1/agents/<id>/pin`, `unpin` and `close`, and `DELETE /v1/agents/<id>`."""
    blueprint = Blueprint("agents-residency", __name__)
    _add_pins(blueprint, state)
    _add_removal(blueprint, state)
    return blueprint


def _add_pins(blueprint: Blueprint, state: AppState) -> None:
    @blueprint.post("/v1/agents/<agent_id>/pin")
    @document_response(AgentView, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404)
    async def pin_agent(agent_id: str) -> Response:
        """Pin an agent's memory in RAM, including its coming turns; all pins together may take half
        of the budget.
        """
        model, agent = await find_agent(state, agent_id)
        try:
            model.engine.memory.pin(agent)
        except PoolExhaustedError as error:
            raise Fault(
                400, _pins_message(error), field="agent_id", code="pins_exhausted"
            ) from error
        return json_response(agent_view(model, agent))

    @blueprint.post("/v1/agents/<agent_id>/unpin")
    @document_response(AgentView, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404)
    async def unpin_agent(agent_id: str) -> Response:
        """Unpin an agent's memory, so that it may be evicted."""
        model, agent = await find_agent(state, agent_id)
        model.engine.memory.unpin(agent)
        return json_response(agent_view(model, agent))


def _add_removal(blueprint: Blueprint, state: AppState) -> None:
    @blueprint.post("/v1/agents/<agent_id>/close")
    @document_response(AgentView, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404)
    async def close_agent(agent_id: str) -> Response:
        """Release the RAM of blocks that only this agent uses, pinned or not.

        Its next turn loads them from disk, or computes them again.
        """
        model, agent = await find_agent(state, agent_id)
        # blocks that are not on disk by then are computed again
        with contextlib.suppress(CachePersistenceError):
            await persisted_record(model, agent, CLOSE_SECONDS)
        refuse_deleted(agent)
        model.engine.memory.release(agent)
        model.engine.nudge()
        return json_response(agent_view(model, agent))

    @blueprint.delete("/v1/agents/<agent_id>")
    @document_nothing
    @document_faults(OpenAIError, 400, 401, 403, 404)
    async def delete_agent(agent_id: str) -> Response:
        """Delete an agent, and the blocks that no other agent has read."""
        await delete_agent_everywhere(*(await find_agent(state, agent_id)))
        return empty_response()


def _pins_message(error: PoolExhaustedError) -> str:
    return (
        f"pins may take half of the {error.total} bytes of the cache budget: {error.wanted} more "
        f"are wanted, {error.free} are left"
    )
