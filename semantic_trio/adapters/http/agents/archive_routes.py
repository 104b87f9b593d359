"""Routes by which agents leave and come, as files."""

from collections.abc import AsyncGenerator, Iterator

import structlog
import trio
from quart import Blueprint, Response
from quart_schema import document_response

from semantic_trio.adapters.http.agents.persisted_record import persisted_record
from semantic_trio.adapters.http.agents.running_turn import refuse_deleted
from semantic_trio.adapters.http.agents.views import AgentView, agent_view, find_agent
from semantic_trio.adapters.http.common.exchange import current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.identity import agent_id_in_url
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_archive, document_archive_body, document_faults
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.sse import StreamAbortedError
from semantic_trio.application.threads import InThread
from semantic_trio.domain.agent import OWN_ID_START

log = structlog.get_logger(__name__)

# How long an agent that is asked for may take to be on disk: a long history to a slow disk.
EXPORT_SECONDS = 30.0


def routes(state: AppState) -> Blueprint:
    """`/v1/agents/<id>/export` and `import`."""
    blueprint = Blueprint("agents-archive", __name__)

    @blueprint.get("/v1/agents/<agent_id>/export")
    @document_archive
    @document_faults(OpenAIError, 400, 401, 403, 404, 409)
    async def export_agent(agent_id: str) -> Response:
        """Give an agent as a file: what it has read and said, and all that is remembered of it, as far as its last whole turn."""
        model, agent = find_agent(state, agent_id)
        record = await persisted_record(model, agent, EXPORT_SECONDS)
        refuse_deleted(agent)
        pieces, in_thread = model.persistence.files.export_agent(record), model.persistence.in_thread
        response = Response(_sent(await in_thread(next, pieces), pieces, in_thread), content_type="application/x-tar")
        response.timeout = None  # as of all streams: writes have a deadline of their own
        response.headers["content-disposition"] = f'attachment; filename="{agent.id.lstrip(OWN_ID_START)}.tar"'
        return response

    @blueprint.post("/v1/agents/<agent_id>/import")
    @document_archive_body
    @document_response(AgentView, 201)
    @document_faults(OpenAIError, 400, 401, 403, 408, 409, 413, 500, 503)
    async def import_agent(agent_id: str) -> Response:
        """Take an agent in from a file that was exported for the same model. Other agents use what it brings only with `import_trust = "shared"`."""
        model, archive = state.model, current.get().archive
        assert archive is not None, "the gate has received it"
        try:
            agent = await model.archives.take_in(archive, agent_id_in_url(agent_id), model.card.vocabulary)
        finally:
            with trio.CancelScope(shield=True):
                await model.persistence.in_thread(archive.close)  # which frees as much of the disk as it has: not in the event loop
        log.info("agent imported", agent=agent.id, tokens=agent.tokens, blocks=len(agent.blocks))
        return json_response(agent_view(model, agent), 201)

    return blueprint


async def _sent(first: bytes, rest: Iterator[bytes], in_thread: InThread) -> AsyncGenerator[bytes, None]:
    """The pieces of an archive, each read when the one before is on its way. One that cannot be read drops the connection."""
    yield first
    try:
        while piece := await in_thread(_next, rest):
            yield piece
    except OSError as error:
        log.warning("an archive could not be read to its end", reason=str(error))
        raise StreamAbortedError(str(error)) from error


def _next(pieces: Iterator[bytes]) -> bytes:
    """The next piece that is something; empty after the last."""
    return next(filter(None, pieces), b"")
