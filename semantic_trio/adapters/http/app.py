"""The application: routes, errors and contract around one `AppState`.

Knows how the parts fit. Knows nothing of sockets.
"""

import structlog
from quart import Response
from quart_schema import Info, QuartSchema
from quart_schema.validation import QUART_SCHEMA_REQUEST_ATTRIBUTE
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from semantic_trio.adapters.http.agents import (
    archive_routes,
    inspection_routes,
    residency_routes,
    turn_routes,
)
from semantic_trio.adapters.http.agents import creation_routes as agent_creation
from semantic_trio.adapters.http.anthropic import routes as messages
from semantic_trio.adapters.http.common.exchange import Exchange, current
from semantic_trio.adapters.http.common.faults import Fault, envelope, fault_of, not_offered
from semantic_trio.adapters.http.common.matching_rule import MatchingRule
from semantic_trio.adapters.http.common.openapi import Contract
from semantic_trio.adapters.http.dashboard import pages
from semantic_trio.adapters.http.dashboard.feed import Feed
from semantic_trio.adapters.http.middleware.access import Access
from semantic_trio.adapters.http.middleware.lifecycle import RequestLifecycle, WantsBody
from semantic_trio.adapters.http.middleware.paths import Paths
from semantic_trio.adapters.http.openai.chat import routes as chat
from semantic_trio.adapters.http.openai.completions import routes as completions
from semantic_trio.adapters.http.openai.embeddings import routes as embeddings
from semantic_trio.adapters.http.openai.responses import creation_routes, stored_routes
from semantic_trio.adapters.http.openai.responses.state import ResponsesState
from semantic_trio.adapters.http.operations import admin, health, model_admin, models
from semantic_trio.adapters.http.rerank import routes as rerank
from semantic_trio.adapters.http.serving.app_state import AppState

log = structlog.get_logger(__name__)

# Routes of OpenAI's API that this server lacks. To the routes of responses their last part is an
# id, and POST would be a wrong method.
LIKE_IDS = frozenset({"/v1/responses/compact", "/v1/responses/input_tokens"})


def create_app(state: AppState, responses: ResponsesState) -> QuartTrio:
    """Build the ASGI application that serves a model."""
    app = QuartTrio(__name__, static_folder=None)
    app.url_rule_class = MatchingRule
    # streams last as long as generations; writes have a deadline of their own
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    QuartSchema(
        app,
        redoc_ui_path=None,  # these pages load scripts from elsewhere
        scalar_ui_path=None,
        swagger_ui_path=None,
        info=Info(title="semantic-trio", version=state.version),
        conversion_preference="msgspec",
        openapi_provider_class=Contract,
    )
    for part in (
        messages,
        chat,
        completions,
        embeddings,
        rerank,
        agent_creation,
        inspection_routes,
        residency_routes,
        archive_routes,
        turn_routes,
        models,
        health,
        admin,
        model_admin,
    ):
        app.register_blueprint(part.routes(state))
    app.register_blueprint(pages.routes())
    for part_of_responses in (creation_routes, stored_routes):
        app.register_blueprint(part_of_responses.routes(state, responses))
    # paths are normalised before: a redirect would lose a request's body
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    paths = Paths.of(rule.rule for rule in app.url_map.iter_rules())
    app.register_error_handler(Exception, _error_response)
    access = Access(state.settings)
    lifecycle = RequestLifecycle(
        app.asgi_app, state, access, paths, _body_readers(app), Feed(state, access)
    )
    app.asgi_app = lifecycle  # type: ignore[method-assign]
    return app


def _body_readers(app: QuartTrio) -> WantsBody:
    """Return the test for routes that read a body.

    Nothing is read for other routes, or for a path without a route.
    """
    routes = app.url_map.bind("")

    def wants_body(method: str, path: str) -> bool:
        try:
            endpoint, _ = routes.match(path, method)
        except HTTPException:
            return False
        return hasattr(app.view_functions[endpoint], QUART_SCHEMA_REQUEST_ATTRIBUTE)

    return wants_body


async def _error_response(error: Exception) -> Response:
    """Answer an error in the words of the request's protocol."""
    exchange = current.get()
    fault = exchange.fault = _fault(error, exchange)
    if fault.status == 500:
        log.error("request failed", exc_info=error)
    response = Response(
        envelope(fault, exchange.protocol, exchange.request_id),
        status=fault.status,
        content_type="application/json",
    )
    response.headers.extend(fault.headers)
    if isinstance(error, HTTPException) and fault.status == error.code:
        response.headers.extend(
            (name, value) for name, value in error.get_headers() if name == "Allow"
        )
    return response


def _fault(error: Exception, exchange: Exchange) -> Fault:
    if isinstance(error, NotFound) or (
        isinstance(error, MethodNotAllowed) and exchange.path in LIKE_IDS
    ):
        return not_offered(exchange.method, exchange.path)
    return fault_of(error, exchange.protocol)
