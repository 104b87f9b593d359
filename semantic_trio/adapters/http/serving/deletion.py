"""Deletion everywhere: of an agent, the token history of its conversations, and their files.

Knows the order. Knows nothing of the wire or of the database of responses.
"""

from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.agent import Agent

# Seconds a deleting client waits for the files to be removed. A slower disk is logged, and the
# removal goes on.
REMOVE_SECONDS = 5.0


async def delete_agent_everywhere(model: ServedModel, agent: Agent) -> None:
    """Delete an agent, and the blocks that no other agent has read."""
    model.engine.memory.delete(agent)
    await _removed(model)


async def delete_response_agents(model: ServedModel, response_id: str) -> bool:
    """Delete the agents that have read or generated a response. Returns True if there was one."""
    agents = model.engine.memory.forget(response_id)
    if agents:
        await _removed(model)
    return bool(agents)


async def _removed(model: ServedModel) -> None:
    model.engine.nudge()
    await model.persistence.removed(REMOVE_SECONDS)
