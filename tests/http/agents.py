"""Short ways to ask `/v1/agents`."""

from typing import Any

from quart_trio import QuartTrio

from tests.http.serving import Call, Served, get, post

Answer = dict[str, Any]


async def create(server: Served, **fields: object) -> str:
    call = await post(server.app, "/v1/agents", fields)
    assert call.status == 201, call.content
    return str(call.json["id"])


async def say(server: Served, agent: str, message: object = "hi", **fields: object) -> Answer:
    body = {"message": message, "max_tokens": 5, "temperature": 0, **fields}
    call = await post(server.app, f"/v1/agents/{agent}/generate", body)
    assert call.status == 200, call.content
    return call.json


def answer(call: Call) -> Answer:
    return call.json


async def do(server: Served, agent: str, what: str, **fields: object) -> Call:
    return await post(server.app, f"/v1/agents/{agent}/{what}", fields)


async def view(server: Served, agent: str) -> Answer:
    return (await get(server.app, f"/v1/agents/{agent}")).json


async def delete(app: QuartTrio, agent: str) -> int:
    call = await Call(app, "DELETE", f"/v1/agents/{agent}").run()
    assert call.is_complete
    assert bool(call.content) == (call.status != 204)
    return call.status
