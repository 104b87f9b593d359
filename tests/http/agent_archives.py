"""Agents of one server, exported and imported by tests."""

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.domain.content import ImportTrust
from semantic_trio.ports.cache_files import CacheFiles
from semantic_trio.testing import FakeRunner, MemoryFiles
from tests.http.agents import create, say
from tests.http.serving import Call, Served, get, post, running, served

DISK = 1 << 24


LONG = "x" * 200


def with_disk(
    files: CacheFiles | None = None,
    settings: HttpSettings | None = None,
    disk_bytes: int = DISK,
    trust: ImportTrust = ImportTrust.AGENT,
) -> Served:
    server = served(FakeRunner(), settings, disk_bytes=disk_bytes, files=files or MemoryFiles())
    server.persistence.import_trust = trust
    return server


async def exported(server: Served, agent: str) -> bytes:
    call = await get(server.app, f"/v1/agents/{agent}/export")
    assert (call.status, call.is_complete) == (200, True), call.content
    return call.content


async def brought(server: Served, agent: str, archive: bytes, **headers: str) -> Call:
    return await post(
        server.app,
        f"/v1/agents/{agent}/import",
        archive,
        **{"content-type": "application/x-tar", **headers},
    )


async def an_archive(agent: str = "ada", message: str = LONG) -> bytes:
    """Made by a server that is gone."""
    async with running(with_disk()) as server:
        await create(server, id=agent, system="Be brief.")
        await say(server, agent, message)
        return await exported(server, agent)


async def ids(server: Served) -> list[str]:
    return [agent["id"] for agent in (await get(server.app, "/v1/agents")).json["data"]]  # type: ignore[index, attr-defined]
