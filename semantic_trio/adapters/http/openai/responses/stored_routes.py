"""Routes of responses that exist: retrieve, cancel, delete, list input items.

Knows nothing of how responses are generated.
"""

from typing import Annotated, Literal

import attrs
import msgspec
from quart import Blueprint, Response, request
from quart_schema import document_querystring, document_response

from semantic_trio.adapters.http.common.faults import Fault, OpenAIError
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults
from semantic_trio.adapters.http.openai.responses.history import input_items
from semantic_trio.adapters.http.openai.responses.response_object import (
    ResponseAnswer,
    ResponseError,
)
from semantic_trio.adapters.http.openai.responses.state import ResponsesState
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.deletion import delete_response_agents
from semantic_trio.domain.errors import InvalidRequestError, ResponseNotFoundError
from semantic_trio.domain.responses import StoredResponse

LOST = ResponseError("server_error", "the server ended while this response was made")
PAGE, LONGEST_PAGE = 20, 100


@attrs.frozen
class DeletedResponse:
    """The confirmation that a response is deleted."""

    id: str
    deleted: bool = True
    object: Literal["response"] = "response"


@attrs.frozen
class ItemPage:
    """A page of the items that came with a request."""

    data: list[dict[str, object]]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


@attrs.frozen
class PageParams:
    """The page that is asked for."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=LONGEST_PAGE)] = PAGE
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None  # id of the item before the page


def routes(state: AppState, responses: ResponsesState) -> Blueprint:
    """Build the route `/v1/responses/<id>` and those below it."""
    blueprint = Blueprint("responses-kept", __name__)
    _add_views(blueprint, responses)
    _add_endings(blueprint, state, responses)
    return blueprint


def _add_views(blueprint: Blueprint, responses: ResponsesState) -> None:
    @blueprint.get("/v1/responses/<response_id>")
    @document_response(ResponseAnswer, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404, 503)
    async def get_response(response_id: str) -> Response:
        """Return a response in its current state."""
        if request.args.get("stream", "").lower() in {"true", "1"}:
            raise InvalidRequestError(
                "a stored response is returned whole: leave stream out", "stream", quotes=False
            )
        generation = responses.active.find(response_id)
        return (
            json_response(generation.response)
            if generation is not None and generation.is_stored
            else _stored_response(await _find(responses, response_id))
        )

    @blueprint.get("/v1/responses/<response_id>/input_items")
    @document_querystring(PageParams)
    @document_response(ItemPage, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404, 503)
    async def list_input_items(response_id: str) -> Response:
        """List the items that came with the request for a response, without those of earlier
        responses.
        """
        wanted = _params(request.args.to_dict())
        record = await responses.store.call(lambda store: store.get(response_id))
        if record is None:
            responses.active.refuse_unfinished(response_id, "response_id")
            raise ResponseNotFoundError(response_id)
        return json_response(_page(input_items(record), wanted))


def _add_endings(blueprint: Blueprint, state: AppState, responses: ResponsesState) -> None:
    @blueprint.delete("/v1/responses/<response_id>")
    @document_response(DeletedResponse, 200)
    @document_faults(OpenAIError, 401, 403, 404, 503)
    async def delete_response(response_id: str) -> Response:
        """Delete a response for good, and the agents that have read it.

        A response that is being generated is cancelled; responses that continue it stay, and cannot
        be continued any more.
        """
        await _cancel(responses, response_id)
        is_known = [await delete_response_agents(model, response_id) for model in state.models]
        if not (
            await responses.store.call(lambda store: store.delete(response_id)) or any(is_known)
        ):
            raise ResponseNotFoundError(response_id)
        return json_response(DeletedResponse(response_id))

    @blueprint.post("/v1/responses/<response_id>/cancel")
    @document_response(ResponseAnswer, 200)
    @document_faults(OpenAIError, 401, 403, 404, 503)
    async def cancel_response(response_id: str) -> Response:
        """Stop a response that is being generated; its output so far is kept.

        A response that has ended is returned unchanged.
        """
        ended = await _cancel(responses, response_id)
        return (
            json_response(ended)
            if ended is not None
            else _stored_response(await _find(responses, response_id))
        )


async def _find(responses: ResponsesState, response_id: str) -> StoredResponse:
    record = await responses.store.call(lambda store: store.get(response_id))
    if record is None:
        raise ResponseNotFoundError(response_id)
    return record


async def _cancel(responses: ResponsesState, response_id: str) -> ResponseAnswer | None:
    """Cancel a response and return its end; None if no response of this id is being generated, or
    its reader has left.
    """
    generation = responses.active.find(response_id)
    if generation is None:
        return None
    generation.cancel()
    await generation.over.wait()
    return generation.final


def _stored_response(record: StoredResponse) -> Response:
    """Return a stored response.

    One that is stored as unfinished, and is not being generated here, was left by a server that has
    ended.
    """
    assert record.output is not None
    if not record.is_pending:
        return json_response(msgspec.Raw(record.output))
    return json_response(
        decode(record.output, dict[str, object]) | {"status": "failed", "error": attrs.asdict(LOST)}
    )


def _params(given: dict[str, str]) -> PageParams:
    try:
        return msgspec.convert(given, PageParams, strict=False)
    except msgspec.ValidationError as error:
        raise Fault(400, str(error), is_private=True) from error


def _page(items: list[dict[str, object]], wanted: PageParams) -> ItemPage:
    ordered = items if wanted.order == "asc" else items[::-1]
    ids = [str(item["id"]) for item in ordered]
    if wanted.after is not None and wanted.after not in ids:
        raise InvalidRequestError(f"no item {wanted.after!r} came with the request", "after")
    # the last item of this id: clients may repeat ids
    start = 0 if wanted.after is None else len(ids) - ids[::-1].index(wanted.after)
    page, page_ids = ordered[start : start + wanted.limit], ids[start : start + wanted.limit]
    return ItemPage(
        page,
        page_ids[0] if page_ids else None,
        page_ids[-1] if page_ids else None,
        start + wanted.limit < len(ordered),
    )
