"""The server that runs on this machine: where it is found, and requests to it.

Knows HTTP and how a server says where it is. Knows nothing of what is asked of it.
"""

import contextlib
import http.client
import re
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from semantic_trio.adapters.disk import held_by
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.claude import ANYWHERE, default_url
from semantic_trio.entrypoints.settings import Settings

# The URL in what a server says of itself to whoever finds its cache directory locked.
URL = re.compile(r"https?://\S+")
# Seconds for an answer: before it evicts, a server waits for its disk.
ANSWER_SECONDS = 60.0

Answer = TypeVar("Answer")


class _Error(msgspec.Struct):
    message: str


class Refusal(msgspec.Struct):
    """A server's answer to a request that it refuses."""

    error: _Error


def server_url(settings: Settings) -> str:
    """Return the URL of the server that works with the cache directory; without one, that of the
    address in the settings.

    Raises `OSError` if the directory cannot be read.
    """
    found = URL.search(held_by(settings.cache_dir) or "")
    return found[0] if found else default_url(settings)


def connect(url: str, seconds: float) -> http.client.HTTPConnection:
    """Return a connection to the server at a URL, not opened yet.

    A server that listens on all addresses is reached on loopback.
    """
    place = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    host = place.hostname or ""
    return kind(ANYWHERE.get(host, host).strip("[]"), place.port, timeout=seconds)


def post(url: str, path: str, key: str | None, kind: type[Answer]) -> Answer:
    """Send a POST without a body. Raises as `ask` does."""
    return ask(url, "POST", path, key, kind)


def ask(
    url: str,
    method: str,
    path: str,
    key: str | None,
    kind: type[Answer],
    *,
    body: object = None,
    seconds: float = ANSWER_SECONDS,
) -> Answer:
    """Send a request, with a JSON body unless that is None.

    Raises `InvalidRequestError` if no server answers in time, or if it refuses.
    """
    headers = {"x-api-key": key} if key else {}
    content = None if body is None else msgspec.json.encode(body)
    try:
        with contextlib.closing(connect(url, seconds)) as connection:
            connection.request(
                method,
                path,
                content,
                headers if content is None else {**headers, "content-type": "application/json"},
            )
            with connection.getresponse() as response:
                status, answer = response.status, response.read()
        if status < http.client.BAD_REQUEST:
            return msgspec.json.decode(answer, type=kind)
        reason = msgspec.json.decode(answer, type=Refusal).error.message
    except (OSError, ValueError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise InvalidRequestError(
            (
                f"no semantic-trio answers at {url} ({error}): is it running, and is its address "
                "another one?"
            ),
            "url",
        ) from error
    if status == http.client.UNAUTHORIZED:
        raise InvalidRequestError(
            f"{url} wants another API key: set SEMANTIC_API_KEY or api_key_file as for the server",
            "api_key",
        )
    raise InvalidRequestError(f"{url} says: {reason}", "url")
