"""Routes that export agents as files, and import them."""

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
from semantic_trio.adapters.http.common.openapi import (
    document_archive,
    document_archive_body,
    document_faults,
)
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.sse import StreamAbortedError
from semantic_trio.application.threads import InThread
from semantic_trio.domain.agent import OWN_ID_START
from semantic_trio.domain.model_names import ANY_MODEL

log = structlog.get_logger(__name__)

# Seconds an export waits for the agent to be on disk: a long history to a slow disk.
EXPORT_SECONDS = 30.0


def routes(state: AppState) -> Blueprint:
    """Build the routes `/v1/agents/<id>/export` and `import`."""
    blueprint = Blueprint("agents-archive", __name__)
    _add_export(blueprint, state)
    _add_import(blueprint, state)
    return blueprint


def _add_export(blueprint: Blueprint, state: AppState) -> None:
    @blueprint.get("/v1/agents/<agent_id>/export")
    @document_archive
    @document_faults(OpenAIError, 400, 401, 403, 404, 409)
    async def export_agent(agent_id: str) -> Response:
        """Export an agent as a file: its tokens and everything remembered of it, up to its last
        whole turn.
        """
        model, agent = await find_agent(state, agent_id)
        record = await persisted_record(model, agent, EXPORT_SECONDS)
        refuse_deleted(agent)
        chunks, in_thread = (
            model.persistence.files.archives.export_agent(record),
            model.persistence.in_thread,
        )
        response = Response(
            _chunks(await in_thread(next, chunks), chunks, in_thread),
            content_type="application/x-tar",
        )
        response.timeout = None  # as for all streams: each write has a deadline of its own
        response.headers["content-disposition"] = (
            f'attachment; filename="{agent.id.lstrip(OWN_ID_START)}.tar"'
        )
        return response


def _add_import(blueprint: Blueprint, state: AppState) -> None:
    @blueprint.post("/v1/agents/<agent_id>/import")
    @document_archive_body
    @document_response(AgentView, 201)
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 409, 413, 500, 503)
    async def import_agent(agent_id: str) -> Response:
        """Import an agent from a file of the same model.

        Other agents share its blocks only with `import_trust = "shared"`.
        """
        exchange = current.get()
        archive = exchange.archive
        assert archive is not None, "the gate has received it"
        model = await state.resolve(ANY_MODEL, exchange.stack)
        try:
            agent = await model.archives.take_in(
                archive, agent_id_in_url(agent_id), model.card.vocabulary
            )
        finally:
            with trio.CancelScope(shield=True):
                # closing frees the file's space on disk, which takes time: not in the event loop
                await model.persistence.in_thread(archive.close)
        log.info("agent imported", agent=agent.id, tokens=agent.tokens, blocks=len(agent.blocks))
        return json_response(agent_view(model, agent), 201)


async def _chunks(
    first: bytes, rest: Iterator[bytes], in_thread: InThread
) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of an archive; each is read when the one before is on its way.

    A read error drops the connection.
    """
    yield first
    try:
        while chunk := await in_thread(_next_chunk, rest):
            yield chunk
    except OSError as error:
        log.warning("an archive could not be read to its end", reason=str(error))
        raise StreamAbortedError(str(error)) from error


def _next_chunk(chunks: Iterator[bytes]) -> bytes:
    """Return the next non-empty chunk; empty after the last."""
    return next(filter(None, chunks), b"")
