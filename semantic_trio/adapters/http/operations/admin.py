"""Settings that an operator changes while the server runs."""

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

log = structlog.get_logger(__name__)


@attrs.frozen
class BatchWindow:
    """Time for which an idle engine waits for more requests before its first step."""

    batch_window_ms: Annotated[float, msgspec.Meta(ge=1, le=1000)]


def routes(state: AppState) -> Blueprint:
    """Build the routes of `/admin/batch-window`."""
    blueprint = Blueprint("admin", __name__)
    engine = state.model.engine

    @blueprint.get("/admin/batch-window")
    @document_response(BatchWindow, 200)
    @document_faults(OpenAIError, 401, 403)
    async def get_batch_window() -> Response:
        """Return the current batch window."""
        return json_response(BatchWindow(engine.batch_window_seconds * 1000))

    @blueprint.put("/admin/batch-window")
    @document_request(BatchWindow)
    @document_response(BatchWindow, 200)
    @document_faults(OpenAIError, 400, 401, 403, 408, 413)
    async def set_batch_window() -> Response:
        """Change the batch window, until the server restarts."""
        wanted = decode(current.get().body, BatchWindow)
        engine.batch_window_seconds = wanted.batch_window_ms / 1000
        log.info("batch window changed", batch_window_ms=wanted.batch_window_ms)
        return json_response(wanted)

    return blueprint
