"""What is deleted is deleted everywhere: the agent, the tokens its conversations were read in, and their files.

Knows the order. Knows nothing of the wire or of the database of responses.
"""

from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.agent import Agent

# How long a client that deletes something waits for its files to be gone. A disk that takes longer is told of in the log, and goes on deleting.
REMOVE_SECONDS = 5.0


async def delete_agent_everywhere(model: ServedModel, agent: Agent) -> None:
    """Delete an agent, and what nobody but it has read."""
    model.engine.memory.delete(agent)
    await _removed(model)


async def delete_response_agents(model: ServedModel, response_id: str) -> bool:
    """Delete the agents that have read or given a response. Returns True if there was one."""
    agents = model.engine.memory.forget(response_id)
    if agents:
        await _removed(model)
    return bool(agents)


async def _removed(model: ServedModel) -> None:
    model.engine.nudge()
    await model.persistence.removed(REMOVE_SECONDS)
