"""JSON responses, and the empty one. Knows encoding alone."""

from quart import Response

from semantic_trio.adapters.http.common.cache_report import CACHE_HEADER, cache_header
from semantic_trio.adapters.http.common.json_encoding import encode_json
from semantic_trio.domain.reuse import Reuse


def json_response(content: object, status: int = 200, *, reuse: Reuse | None = None) -> Response:
    """Return a JSON response; that of a generation has a header that reports the reuse of its
    prompt.
    """
    response = Response(encode_json(content), status=status, content_type="application/json")
    if reuse is not None:
        response.headers[CACHE_HEADER] = cache_header(reuse)
    return response


def empty_response() -> Response:
    """Return a 204.

    Its body is empty, not absent: without a body the framework needs an event loop that is not
    trio.
    """
    response = Response(b"", status=204)
    for name in ("content-type", "content-length"):
        response.headers.pop(name, None)
    return response
