"""Responses, asked for and read as OpenAI's SDK reads them."""

from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.http.messages import speaking
from tests.http.serving import Call, Served, get, post

PARSE_EVENT = TypeAdapter[ResponseStreamEvent](ResponseStreamEvent)
PATH = "/v1/responses"
LOOK = {
    "type": "function",
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
}
PATCH = {"type": "custom", "name": "patch", "description": "Changes files."}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>'
THOUGHT_AND_CALL = f"<think>\nI look.\n</think>\n\nOne moment.\n\n{CALL}"


def body(given: object = "hi", **fields: object) -> dict[str, object]:
    """A request with room for an answer."""
    return {"model": "org/tiny", "input": given, "max_output_tokens": 10_000, **fields}


async def respond(server: Served, given: object = "hi", **fields: object) -> Response:
    """A whole response."""
    call = await post(server.app, PATH, body(given, **fields))
    assert call.status == 200, call.content
    return Response.model_validate(call.json)


async def stream(server: Served, given: object = "hi", **fields: object) -> list[Any]:
    """The events of a response."""
    return events(await post(server.app, PATH, body(given, stream=True, **fields)))


async def stored(server: Served, response_id: str) -> Call:
    """What is told of a response afterwards."""
    return await get(server.app, f"{PATH}/{response_id}")


def events(call: Call) -> list[Any]:
    """The events of a stream, each of which is named as it says itself."""
    found = []
    for block in call.content.decode().split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            event = PARSE_EVENT.validate_json(data.removeprefix("data: "))
            assert name == f"event: {event.type}"
            found.append(event)
    return found


def echoed(response: Response) -> list[dict[str, object]]:
    """The output of a response as its client sends it back."""
    return [item.model_dump(mode="json", exclude_none=True) for item in response.output]


def cached(response: Response) -> int:
    """Tokens of the input that were not computed again."""
    assert response.usage is not None
    return response.usage.input_tokens_details.cached_tokens


async def server_delete(server: Any, response_id: str) -> Call:
    return await Call(server.app, "DELETE", f"{PATH}/{response_id}").run()


async def cancel(server: Any, response_id: str) -> Call:
    return await post(server.app, f"{PATH}/{response_id}/cancel", b"")


def slowly(text: str) -> Any:
    server = speaking(text)
    server.runner.seconds_per_step = 0.25
    return server
