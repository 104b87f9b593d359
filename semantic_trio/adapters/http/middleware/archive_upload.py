"""Bodies that are archives of agents, written to a file while they arrive.

Knows which requests have an archive, how large it may be and where it is written. Knows nothing of
its content.
"""

import re
from typing import BinaryIO

from hypercorn.typing import ASGIReceiveCallable

from semantic_trio.adapters.http.common.exchange import Exchange
from semantic_trio.adapters.http.common.faults import fault_of
from semantic_trio.adapters.http.common.identity import agent_id_in_url
from semantic_trio.adapters.http.middleware.bodies import BodyReader, declared_bytes
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.errors import AgentExistsError, CachePersistenceError, SemanticError
from semantic_trio.domain.model_names import ANY_MODEL

BRINGS_ARCHIVE = re.compile(r"/v1/agents/([^/]+)/import")
# Bytes written to the file at a time, and bytes after which the free space on disk is checked
# again.
CHUNK_BYTES, CHECK_BYTES = 1 << 20, 64 << 20


def has_archive_body(exchange: Exchange) -> bool:
    """Return True if a request's body is an archive."""
    return exchange.method == "POST" and BRINGS_ARCHIVE.fullmatch(exchange.path) is not None


async def receive_archive(
    exchange: Exchange, receive: ASGIReceiveCallable, state: AppState
) -> bool:
    """Write the body to `exchange.archive`; False if the client left before its end.

    An import that cannot succeed is refused before its body is read: raises `Fault`.
    """
    try:
        model = await state.resolve(ANY_MODEL, exchange.stack)
        limit = model.persistence.memory.disk.budget_bytes
        _refuse_early(exchange, model)
        size = declared_bytes(exchange.headers, limit) if limit else 0
        await model.archives.refuse_without_room(2 * size)  # the archive itself, and its content
        exchange.archive = await _opened_file(model)
        exchange.stack.callback(exchange.archive.close)
        return await _fill(exchange.archive, BodyReader(receive, limit), model)
    except SemanticError as error:
        raise fault_of(error, exchange.protocol) from error


def _refuse_early(exchange: Exchange, model: ServedModel) -> None:
    found = BRINGS_ARCHIVE.fullmatch(exchange.path)
    assert found is not None
    agent = agent_id_in_url(found[1])
    model.engine.refuse_when_closed()
    if model.engine.memory.agents.find(agent) is not None:
        raise AgentExistsError(agent)


async def _opened_file(model: ServedModel) -> BinaryIO:
    try:
        return await model.persistence.in_thread(model.persistence.files.archives.spool)
    except OSError as error:
        raise CachePersistenceError(error.strerror or str(error)) from error


async def _fill(file: BinaryIO, reader: BodyReader, model: ServedModel) -> bool:
    chunks: list[bytes] = []
    checked_at = 0
    while not reader.is_whole:
        chunk = await reader.next()
        if chunk is None:
            return False
        chunks.append(chunk)
        if reader.size - checked_at >= CHECK_BYTES:
            checked_at = reader.size
            await model.archives.refuse_without_room(reader.size)
        if reader.is_whole or sum(map(len, chunks)) >= CHUNK_BYTES:
            await _write(file, b"".join(chunks), model)
            chunks = []
    return True


async def _write(file: BinaryIO, chunk: bytes, model: ServedModel) -> None:
    try:
        await model.persistence.in_thread(file.write, chunk)
        await model.persistence.in_thread(file.flush)
    except OSError as error:
        raise CachePersistenceError(error.strerror or str(error)) from error
