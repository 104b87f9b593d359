"""Actions of an operator on the models of a running server: load, unload, swap, and aliases."""

from typing import Annotated

import attrs
import msgspec
import structlog
import trio
from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.common.exchange import current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.application.model_entry import Changed
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.domain.model_names import ModelNames

log = structlog.get_logger(__name__)

# A character that is no wildcard: an alias of wildcards alone would stand for every name.
NAMES_SOMETHING = r"[^*]"


@attrs.frozen
class NamedModel:
    """The model that an action is about: an id, an alias, or to load and to swap anything that is a
    model on this machine.
    """

    model: str


@attrs.frozen
class Alias:
    """Another name of a served model."""

    # one that ends with * stands for all names that begin so
    alias: Annotated[str, msgspec.Meta(pattern=NAMES_SOMETHING)]
    model: str


@attrs.frozen
class Aliases:
    """Aliases in force, and the ids of the models that they stand for."""

    aliases: dict[str, str]


def routes(state: AppState) -> Blueprint:
    """Build the routes of `/admin/models/`."""
    blueprint = Blueprint("model-admin", __name__)
    _add_actions(blueprint, state)
    _add_aliases(blueprint, state.registry.names)
    return blueprint


def _add_actions(blueprint: Blueprint, state: AppState) -> None:
    registry = state.registry

    @blueprint.post("/admin/models/load")
    @document_request(NamedModel)
    @document_response(Changed, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 413, 429, 503)
    async def load_model() -> Response:
        """Load a model and serve it beside the others, until the server ends.

        Answers when it is loaded.
        """
        return json_response(await registry.load(_named()))

    @blueprint.post("/admin/models/unload")
    @document_request(NamedModel)
    @document_response(Changed, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 413, 503)
    async def unload_model() -> Response:
        """Unload a model when its requests are over; those that take longer than
        `shutdown_timeout_seconds` fail.

        The next request loads it again.

        `MODEL:ADAPTER` unloads the adapter alone, when its requests are over.
        """
        name, adapter = state.apart(_named())
        return json_response(
            await _unload_adapter(state, name, adapter) if adapter else await registry.unload(name)
        )

    @blueprint.post("/admin/models/swap")
    @document_request(NamedModel)
    @document_response(Changed, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 409, 413, 503)
    async def swap_models() -> Response:
        """Unload the main model as above, and make another one the main model.

        If that cannot be loaded, the old one is loaded again.
        """
        return json_response(await registry.swap(_named()))


def _add_aliases(blueprint: Blueprint, names: ModelNames) -> None:
    @blueprint.get("/admin/models/aliases")
    @document_response(Aliases, 200)
    @document_faults(OpenAIError, 401, 403)
    async def list_aliases() -> Response:
        """Return the aliases in force."""
        return json_response(Aliases(names.aliases))

    @blueprint.put("/admin/models/aliases")
    @document_request(Alias)
    @document_response(Aliases, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 413)
    async def set_alias() -> Response:
        """Have an alias stand for a served model, until the server restarts."""
        wanted = decode(current.get().body, Alias)
        names.set_alias(wanted.alias, wanted.model)
        log.info("alias set", alias=wanted.alias, model=names.aliases[wanted.alias])
        return json_response(Aliases(names.aliases))

    @blueprint.delete("/admin/models/aliases/<path:alias>")
    @document_response(Aliases, 200)
    @document_faults(OpenAIError, 401, 403, 404)
    async def remove_alias(alias: str) -> Response:
        """Remove an alias, until the server restarts."""
        names.remove_alias(alias)
        log.info("alias removed", alias=alias)
        return json_response(Aliases(names.aliases))


async def _unload_adapter(state: AppState, name: str, adapter: str) -> Changed:
    """Unload an adapter of a model that is open. Raises `ModelNotFoundError` where that is not."""
    began, served = (
        trio.current_time(),
        state.registry.models.entry(state.registry.names.resolve(name)),
    )
    if served.model is None or served.model.adapters is None:
        raise ModelNotFoundError(f"{served.name}:{adapter}", f"{served.name} is not loaded")
    unloaded = await served.model.adapters.unload(adapter)
    return Changed(f"{served.name}:{adapter}", trio.current_time() - began, unloaded.bytes)


def _named() -> str:
    """Return the model that the request names.

    Raises `Fault` or `InvalidRequestError` for a body that names none.
    """
    return decode(current.get().body, NamedModel).model
