"""JSON answers. Knows encoding alone."""

import msgspec
from quart import Response


def json_answer(content: object, status: int = 200) -> Response:
    """Anything msgspec can encode, as an answer."""
    return Response(msgspec.json.encode(content), status=status, content_type="application/json")
