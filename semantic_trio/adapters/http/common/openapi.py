"""The OpenAPI document at `/openapi.json`: quart-schema's, completed.

Knows routes and their documented classes. Quart-schema keeps the first class of a schema and loses
those it refers to; it documents only JSON.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from quart_schema import DataSource, OpenAPIProvider
from quart_schema.validation import QUART_SCHEMA_RESPONSE_ATTRIBUTE
from werkzeug.routing import BaseConverter, Rule

from semantic_trio.domain.agent import AGENT_ID

Handler = TypeVar("Handler", bound=Callable[..., Any])
REF = "#/components/schemas/{name}"
# One server-sent event.
EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
STREAM_MARK = "_semantic_trio_streams"
TEXT_MARK = "_semantic_trio_is_text"
REDIRECT_MARK = "_semantic_trio_redirects_browsers"
EMPTY_MARK = "_semantic_trio_is_empty"
ARCHIVE_MARK = "_semantic_trio_answers_an_archive"
ARCHIVE_BODY_MARK = "_semantic_trio_takes_an_archive"
OPTIONAL_MARK = "_semantic_trio_body_is_optional"
# The archive of an agent.
ARCHIVE = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}
# Schema of agent ids in paths.
ID_PARAMETER, ID_SCHEMA = "agent_id", {"type": "string", "pattern": f"^{AGENT_ID.pattern}$"}


def document_faults(kind: type, *statuses: int) -> Callable[[Handler], Handler]:
    """Document the error class of a route, and its statuses."""

    def mark(handler: Handler) -> Handler:
        responses = {
            **getattr(handler, QUART_SCHEMA_RESPONSE_ATTRIBUTE, {}),
            **dict.fromkeys(statuses, (kind, None)),
        }
        setattr(handler, QUART_SCHEMA_RESPONSE_ATTRIBUTE, responses)
        return handler

    return mark


def document_stream(handler: Handler) -> Handler:
    """Document that a route may answer 200 with server-sent events."""
    setattr(handler, STREAM_MARK, True)
    return handler


def document_text(handler: Handler) -> Handler:
    """Document that a route answers 200 with plain text."""
    setattr(handler, TEXT_MARK, True)
    return handler


def document_redirect(handler: Handler) -> Handler:
    """Document that a route sends browsers to a page."""
    setattr(handler, REDIRECT_MARK, True)
    return handler


def document_archive(handler: Handler) -> Handler:
    """Document that a route answers 200 with an archive."""
    setattr(handler, ARCHIVE_MARK, True)
    return handler


def document_archive_body(handler: Handler) -> Handler:
    """Document that the body of a route is an archive."""
    setattr(handler, ARCHIVE_BODY_MARK, True)
    return handler


def document_nothing(handler: Handler) -> Handler:
    """Document that a route answers 204 without a body."""
    setattr(handler, EMPTY_MARK, True)
    return handler


def document_optional_body(handler: Handler) -> Handler:
    """Document that a route takes an absent body for an empty object."""
    setattr(handler, OPTIONAL_MARK, True)
    return handler


def one_of(*kinds: type) -> msgspec.Meta:
    """Document raw JSON, which is decoded later, as one of these classes."""
    references, components = msgspec.json.schema_components(
        kinds, ref_template=REF, schema_hook=_schema_of_object
    )
    return msgspec.Meta(
        extra_json_schema={"anyOf": [_inlined(reference, components) for reference in references]}
    )


class Contract(OpenAPIProvider):
    """Builds the OpenAPI document from the routes."""

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the path object of a route, with the responses that are not JSON."""
        paths, components = super().build_paths(rule)
        handler = self._app.view_functions[rule.endpoint]
        for operation in (operation for path in paths.values() for operation in path.values()):
            responses = operation["responses"]
            if getattr(handler, STREAM_MARK, False):
                responses[200]["content"]["text/event-stream"] = {"schema": EVENT}
            if getattr(handler, REDIRECT_MARK, False):
                responses[303] = {"description": "To the page for people."}
            if getattr(handler, TEXT_MARK, False):
                responses[200] = {
                    "description": "Plain text.",
                    "content": {"text/plain": {"schema": {"type": "string"}}},
                }
            if getattr(handler, ARCHIVE_MARK, False):
                responses[200] = {"description": "An archive of the agent.", "content": ARCHIVE}
            if getattr(handler, ARCHIVE_BODY_MARK, False):
                operation["requestBody"] = {"content": ARCHIVE}
            if getattr(handler, EMPTY_MARK, False):
                responses[204] = {"description": "Done."}
            if "requestBody" in operation:
                operation["requestBody"]["required"] = not getattr(handler, OPTIONAL_MARK, False)
        return paths, components

    def build_path_parameter(self, name: str, converter: BaseConverter) -> dict[str, Any]:
        """Return the schema of a path parameter; agent ids have their pattern."""
        parameter = super().build_path_parameter(name, converter)
        return {**parameter, "schema": ID_SCHEMA} if name == ID_PARAMETER else parameter

    def build_request_body(
        self, model: type, source: DataSource
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the schema of a JSON body, by reference."""
        reference, components = _schema(model)
        return {"content": {"application/json": {"schema": reference}}}, components

    def build_response_object(
        self, model: type, headers_model: type | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the schema of a JSON response, by reference."""
        reference, components = _schema(model)
        return {
            "description": model.__doc__ or "",
            "content": {"application/json": {"schema": reference}},
        }, components


def _schema(model: type) -> tuple[dict[str, Any], dict[str, Any]]:
    (reference,), components = msgspec.json.schema_components(
        [model], ref_template=REF, schema_hook=_schema_of_object
    )
    return reference, components


def _inlined(schema: object, components: dict[str, Any]) -> object:
    """Return a schema with its references replaced by what they refer to."""
    match schema:
        case {"$ref": str(reference)}:
            return _inlined(components[reference.removeprefix(REF.format(name=""))], components)
        case dict():
            return {key: _inlined(inner, components) for key, inner in schema.items()}
        case list():
            return [_inlined(inner, components) for inner in schema]
    return schema


def _schema_of_object(kind: type) -> dict[str, Any]:
    if kind is object:
        return {"description": "Anything."}
    raise NotImplementedError
