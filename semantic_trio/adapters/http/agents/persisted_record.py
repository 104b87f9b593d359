"""The record of an agent, once the agent is on disk."""

import trio

from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.content import AgentRecord

# Most seconds to wait for the device to be idle, which it never is under load: most of an agent's
# memory is stored within a step.
SETTLE_SECONDS = 1.0


async def persisted_record(model: ServedModel, agent: Agent, seconds: float) -> AgentRecord:
    """See `Archives.write_out`.

    The blocks of the agent's last turn are stored before they are written.
    """
    if model.persistence.memory.disk.exists:
        with trio.move_on_after(min(SETTLE_SECONDS, seconds)):
            await model.engine.settle()
    return await model.archives.write_out(agent, seconds)
