"""The answer of a server to whether it is ready."""

import contextlib
import http.client
from urllib.parse import urlsplit

import attrs
import msgspec

ANSWER_SECONDS = 10.0


class _Health(msgspec.Struct):
    state: str


@attrs.frozen
class Readiness:
    """True for a server that answers requests, and one line about it."""

    is_ready: bool
    text: str


def ask_readiness(url: str) -> Readiness:
    """Ask the server at a URL.

    A server that loads its model answers with the phase of its start.
    """
    place = urlsplit(url)
    try:
        with contextlib.closing(
            http.client.HTTPConnection(place.hostname or "", place.port, timeout=ANSWER_SECONDS)
        ) as connection:
            connection.request("GET", "/health/ready")
            with connection.getresponse() as response:
                status, body = response.status, response.read()
        state = msgspec.json.decode(body, type=_Health).state
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        return Readiness(
            False,
            f"no ({error}): it has just begun, or could not start: semantic-trio service logs",
        )
    return Readiness(
        status == http.client.OK, "yes" if status == http.client.OK else f"no: {state}"
    )
