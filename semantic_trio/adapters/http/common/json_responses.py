"""JSON answers, and the empty one. Knows encoding alone."""

from quart import Response

from semantic_trio.adapters.http.common.cache_report import CACHE_HEADER, cache_header
from semantic_trio.adapters.http.common.json_encoding import encode_json
from semantic_trio.domain.reuse import Reuse


def json_response(content: object, status: int = 200, *, reuse: Reuse | None = None) -> Response:
    """Anything msgspec can encode, as an answer; that of a generation says how much of its prompt was reused."""
    response = Response(encode_json(content), status=status, content_type="application/json")
    if reuse is not None:
        response.headers[CACHE_HEADER] = cache_header(reuse)
    return response


def empty_response() -> Response:
    """204. The body is empty and not absent: what the framework makes of none needs another event loop than ours."""
    response = Response(b"", status=204)
    for name in ("content-type", "content-length"):
        response.headers.pop(name, None)
    return response
