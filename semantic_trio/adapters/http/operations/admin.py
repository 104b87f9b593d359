"""Actions of an operator while the server runs: change the batch window, evict the cache, drain the
server.
"""

from typing import Annotated

import attrs
import msgspec
import structlog
from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.common.exchange import current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.eviction import EvictionReport, evict_cache

log = structlog.get_logger(__name__)


@attrs.frozen
class BatchWindowBody:
    """Time for which an idle engine waits for more requests before its first step."""

    batch_window_ms: Annotated[float, msgspec.Meta(ge=1, le=1000)]


@attrs.frozen
class Draining:
    """Requests that a server still answers before it ends."""

    running: int  # requests with a row
    waiting: int  # requests without one
    timeout_seconds: float  # most time until the last of them ends, or fails


def routes(state: AppState) -> Blueprint:
    """Build the routes of `/admin/`."""
    blueprint = Blueprint("admin", __name__)
    _add_batch_window(blueprint, state)
    _add_actions(blueprint, state)
    return blueprint


def _add_batch_window(blueprint: Blueprint, state: AppState) -> None:
    @blueprint.get("/admin/batch-window")
    @document_response(BatchWindowBody, 200)
    @document_faults(OpenAIError, 401, 403)
    async def get_batch_window() -> Response:
        """Return the current batch window."""
        return json_response(BatchWindowBody(state.window.seconds * 1000))

    @blueprint.put("/admin/batch-window")
    @document_request(BatchWindowBody)
    @document_response(BatchWindowBody, 200)
    @document_faults(OpenAIError, 400, 401, 403, 408, 413)
    async def set_batch_window() -> Response:
        """Change the batch window of all models, until the server restarts."""
        wanted = decode(current.get().body, BatchWindowBody)
        state.window.seconds = wanted.batch_window_ms / 1000
        for model in state.models:
            model.engine.batch_window_seconds = state.window.seconds
        log.info("batch window changed", batch_window_ms=wanted.batch_window_ms)
        return json_response(wanted)


def _add_actions(blueprint: Blueprint, state: AppState) -> None:
    @blueprint.post("/admin/cache/evict")
    @document_response(EvictionReport, 200)
    @document_faults(OpenAIError, 401, 403)
    async def evict() -> Response:
        """Evict from RAM what no request uses and no pin holds, of all models; what is not on disk
        yet is written first.

        Later turns load it.
        """
        evicted, models = EvictionReport(0, 0, 0), state.models
        for model in models:  # all at once: one that is evicted later would be unloaded meanwhile
            state.registry.models.hold(model, current.get().stack)
        for model in models:
            evicted = evicted.plus(await evict_cache(model))
        log.info("cache evicted", **attrs.asdict(evicted))
        return json_response(evicted)

    @blueprint.post("/admin/drain")
    @document_response(Draining, 202)
    @document_faults(OpenAIError, 401, 403)
    async def drain() -> Response:
        """Finish the requests that are open, refuse new ones, and end the process with exit code 0,
        as SIGTERM does.
        """
        engines = [model.engine for model in state.models]
        running, waiting = (
            sum(engine.scheduler.running for engine in engines),
            sum(engine.waiting for engine in engines),
        )
        draining = Draining(running, waiting, state.settings.shutdown_timeout_seconds)
        log.info("asked to drain", **attrs.asdict(draining))
        state.stop()
        return json_response(draining, 202)
