"""An agent is on disk before something is done that counts on it."""

import trio

from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.content import AgentRecord

# How long is waited for the device to have done all it was told, which it never has while others keep it busy: most of it follows within a step.
SETTLE_SECONDS = 1.0


async def persisted_record(model: ServedModel, agent: Agent, seconds: float) -> AgentRecord:
    """See `Archives.write_out`. What the agent's last turn has left is stored before it is written."""
    if model.persistence.memory.disk.exists:
        with trio.move_on_after(min(SETTLE_SECONDS, seconds)):
            await model.engine.settle()
    return await model.archives.write_out(agent, seconds)
