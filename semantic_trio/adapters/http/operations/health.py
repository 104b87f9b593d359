"""Health probes, metrics and the banner of the server."""

from typing import Literal

import attrs
from quart import Blueprint, Response, request
from quart_schema import document_response

from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_page, document_text
from semantic_trio.adapters.http.operations.landing_page import page
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.application.engine import EngineState


@attrs.frozen
class Health:
    """The state of the engine."""

    status: Literal["ok", "unavailable"]
    state: str


@attrs.frozen
class Banner:
    """The name and version of this server."""

    name: str
    version: str


def routes(state: AppState) -> Blueprint:
    """Build the routes `/`, `/health/*` and `/metrics`."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/")
    @document_response(Banner, 200)
    @document_page
    async def banner() -> Response:
        """Return the name and version of the server; browsers get a page."""
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            return page(state.model.card, state.version, request.host)
        return json_response(Banner("semantic-trio", state.version))

    @blueprint.get("/health/live")
    @document_response(Health, 200)
    @document_response(Health, 503)
    async def live() -> Response:
        """Return 503 if the engine is dead and the process should be restarted."""
        return _health(state, state.model.engine.state is not EngineState.DEAD)

    @blueprint.get("/health/ready")
    @document_response(Health, 200)
    @document_response(Health, 503)
    async def ready() -> Response:
        """Return 200 if a request sent now would be answered."""
        return _health(state, state.model.engine.state is EngineState.RUNNING)

    @blueprint.get("/health/startup")
    @document_response(Health, 200)
    @document_response(Health, 503)
    async def startup() -> Response:
        """Return 200 if the server has started."""
        return _health(state, state.model.engine.state is not EngineState.STARTING)

    @blueprint.get("/metrics")
    @document_text
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(state.metrics.exposition(), content_type=state.metrics.content_type)

    return blueprint


def _health(state: AppState, is_ok: bool) -> Response:
    body = Health("ok" if is_ok else "unavailable", state.model.engine.state.value)
    return json_response(body, 200 if is_ok else 503)
