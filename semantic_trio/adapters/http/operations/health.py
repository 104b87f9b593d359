"""Health probes, metrics, and the answer of `/`."""

from typing import Literal

import attrs
from quart import Blueprint, Response, request
from quart_schema import document_response

from semantic_trio.adapters.http.common.browsers import wants_page
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_redirect, document_text
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.application.engine import EngineState
from semantic_trio.application.model_entry import ModelState

GRAVEST_FIRST = (
    EngineState.DEAD,
    EngineState.DRAINING,
    EngineState.RECOVERING,
    EngineState.STARTING,
    EngineState.RUNNING,
)


@attrs.frozen
class Health:
    """The state of the engines; the gravest of several."""

    status: Literal["ok", "unavailable"]
    state: str


@attrs.frozen
class Banner:
    """The name and version of this server, and where its API, its page and its manual are."""

    name: str
    version: str
    api: str = "/v1/ as OpenAI and Anthropic have it, described in /openapi.json"
    page: str = "/dashboard"
    manual: str = "docs/index.md beside the program"


def routes(state: AppState) -> Blueprint:
    """Build the routes `/`, `/healthz`, `/health/*` and `/metrics`."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/")
    @document_response(Banner, 200)
    @document_redirect
    async def banner() -> Response:
        """Return the name of the server and where to go on; browsers are sent to the dashboard."""
        if wants_page(request.headers.get("accept", "")):
            return Response("", 303, {"location": "dashboard", "vary": "accept"})
        return json_response(Banner("semantic-trio", state.version))

    @blueprint.get("/healthz")
    @blueprint.get("/health/live")
    @document_response(Health, 200)
    @document_response(Health, 503)
    async def live() -> Response:
        """Return 503 if the engine is dead and the process should be restarted."""
        return _health(state, EngineState.DEAD not in _states(state))

    @blueprint.get("/health/ready")
    @document_response(Health, 200)
    @document_response(Health, 503)
    async def ready() -> Response:
        """Return 200 if a request sent now would be answered."""
        return _health(state, _states(state) <= {EngineState.RUNNING})

    @blueprint.get("/health/startup")
    @document_response(Health, 200)
    @document_response(Health, 503)
    async def startup() -> Response:
        """Return 200 if the server has started."""
        return _health(state, EngineState.STARTING not in _states(state))

    @blueprint.get("/metrics")
    @document_text
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(state.metrics.exposition(), content_type=state.metrics.content_type)

    return blueprint


def _states(state: AppState) -> set[EngineState]:
    """Return the states of all engines; of models that are not open, or are being closed, requests
    wait.
    """
    return {
        entry.model.engine.state
        for entry in state.registry.models.entries
        if entry.model is not None and entry.state is ModelState.READY
    }


def _health(state: AppState, is_ok: bool) -> Response:
    worst = next((one for one in GRAVEST_FIRST if one in _states(state)), EngineState.RUNNING)
    body = Health("ok" if is_ok else "unavailable", worst.value)
    return json_response(body, 200 if is_ok else 503)
