"""An archive on its way to a running server.

Knows HTTP and one route. Knows nothing of what is in archives.
"""

import contextlib
import http.client
import select
import socket
from typing import BinaryIO

import msgspec

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.running_server import Refusal, connect

# A server reads all that was sent again, and hashes it, before it answers.
ANSWER_SECONDS = 600.0
PIECE_BYTES = 1 << 20


class TakenIn(msgspec.Struct):
    """The agent as the server shows it then."""

    id: str
    model: str
    tokens: int


def send_agent(url: str, agent: str, archive: BinaryIO, key: str | None) -> TakenIn:
    """Have the server at a URL take an agent in.

    Raises `InvalidRequestError` with its reason where it does not.
    """
    try:
        with contextlib.closing(connect(url, ANSWER_SECONDS)) as connection:
            status, body = _asked(
                connection, f"/v1/agents/{agent}/import", archive, {"x-api-key": key} if key else {}
            )
        if status == http.client.CREATED:
            return msgspec.json.decode(body, type=TakenIn)
        refusal = msgspec.json.decode(body, type=Refusal).error.message
    except (OSError, ValueError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise InvalidRequestError(
            f"the server at {url} has the directory, and does not answer ({error})", "agent"
        ) from error
    if status == http.client.UNAUTHORIZED:
        raise InvalidRequestError(
            f"{url} wants another API key: set SEMANTIC_API_KEY or api_key_file as for the server",
            "api_key",
        )
    raise InvalidRequestError(f"{url} says: {refusal}", "agent")


def _asked(
    connection: http.client.HTTPConnection, path: str, file: BinaryIO, headers: dict[str, str]
) -> tuple[int, bytes]:
    """Send until all is sent, or until there is an answer: one that comes early is a refusal, and
    may be lost if it is not read at once.
    """
    size = file.seek(0, 2)
    file.seek(0)
    connection.putrequest("POST", path)
    for name, value in {
        **headers,
        "content-type": "application/x-tar",
        "content-length": str(size),
    }.items():
        connection.putheader(name, value)
    connection.endheaders()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while (piece := memoryview(file.read(PIECE_BYTES))) and _send(connection.sock, piece):
            pass
    with connection.getresponse() as response:
        return response.status, response.read()


def _send(sock: socket.socket, piece: memoryview) -> bool:
    """Send some bytes; False where an answer has come meanwhile. Raises `OSError`."""
    while piece:
        answered, takes_more, _ = select.select([sock], [sock], [], ANSWER_SECONDS)
        if answered:
            return False
        if not takes_more:
            raise TimeoutError("it takes nothing more")
        piece = piece[sock.send(piece) :]
    return True
