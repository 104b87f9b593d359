"""Routes that list the served models, in objects that the clients of both protocols can read."""

import datetime
from typing import Literal

import attrs
from quart import Blueprint, Response
from quart_schema import document_response

from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.application.model_entry import ModelState, RegisteredModel
from semantic_trio.domain.embedding import Pooling


@attrs.frozen
class Embeddings:
    """Properties of a model's embeddings."""

    dimensions: int
    pooling: Pooling
    is_approximate: bool  # the model was trained to generate, not to embed


@attrs.frozen
class ModelEntry:
    """A model, in the fields of both protocols."""

    id: str
    display_name: str
    created_at: str  # RFC 3339
    created: int
    max_input_tokens: int | None  # null: unknown, for the model was not loaded yet
    max_tokens: int | None
    state: ModelState
    # of the loaded model, with the memory that its cache may take; null: it is not loaded
    bytes: int | None
    type: Literal["model"] = "model"
    object: Literal["model"] = "model"
    owned_by: str = "local"
    embeddings: Embeddings | None = None  # null: the model makes no embeddings
    adapter: str | None = None  # name of the adapter; null: the model without one


@attrs.frozen
class ModelList:
    """All models, in the fields of both protocols."""

    data: list[ModelEntry]
    first_id: str | None
    last_id: str | None
    has_more: Literal[False] = False
    object: Literal["list"] = "list"


def routes(state: AppState) -> Blueprint:
    """Build the routes `/v1/models` and `/v1/models/<id>`."""
    blueprint = Blueprint("models", __name__)

    @blueprint.get("/v1/models")
    @document_response(ModelList, 200)
    @document_faults(OpenAIError, 401, 403)
    async def list_models() -> Response:
        """List the models that are served, the main one first, each followed by itself with each of
        its adapters.

        Those that are not loaded are loaded when a request names them.
        """
        data = [
            shown
            for one in state.registry.models.entries
            for shown in [entry(one), *(entry(one, name) for name in await _adapters(state, one))]
        ]
        return json_response(ModelList(data, data[0].id, data[-1].id))

    @blueprint.get("/v1/models/<path:model_id>")
    @document_response(ModelEntry, 200)
    @document_faults(OpenAIError, 401, 403, 404)
    async def get_model(model_id: str) -> Response:
        """Return the model that a name refers to. It is not loaded for that."""
        name, adapter = state.apart(model_id)
        served = state.registry.models.entry(state.registry.names.resolve(name))
        if adapter and state.shelf is not None:
            await state.shelf.find(served.name, adapter)
        return json_response(entry(served, adapter or None))

    return blueprint


async def _adapters(state: AppState, served: RegisteredModel[ServedModel]) -> list[str]:
    return await state.shelf.names(served.name) if state.shelf is not None else []


def entry(served: RegisteredModel[ServedModel], adapter: str | None = None) -> ModelEntry:
    """Return the entry of a model, alone or with an adapter."""
    card, model = served.card, served.model
    # the epoch stands for an unknown date in Anthropic's API
    created = card.created_at if card is not None else 0
    created_at = datetime.datetime.fromtimestamp(created, datetime.UTC).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )
    length, size = (
        card.context_length if card is not None else None,
        model.bytes if model is not None else None,
    )
    embeddings = _embeddings(model) if model is not None and adapter is None else None
    suffix = f":{adapter}" if adapter is not None else ""
    name = (card.display_name if card is not None else served.name) + suffix
    return ModelEntry(
        served.name + suffix,
        name,
        created_at,
        created,
        length,
        length,
        served.state,
        size,
        embeddings=embeddings,
        adapter=adapter,
    )


def _embeddings(model: ServedModel) -> Embeddings | None:
    size, form = model.engine.runner.embedding_size, model.card.embeds
    return Embeddings(size, form.pooling, form.is_approximate) if size else None
