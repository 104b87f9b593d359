"""Messages requests, read as the server reads them."""

import json
from typing import Any

from semantic_trio.adapters.http.anthropic.request import MessagesRequest, generation_params
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.domain.conversation import (
    Part,
)


def request(**fields: Any) -> MessagesRequest:
    """With these fields."""
    body = {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }
    return decode(json.dumps(body).encode(), MessagesRequest)


def meaning(**fields: Any) -> GenerationParams:
    """Of a request with these fields."""
    return generation_params(request(**fields))


def block(kind: str, **fields: Any) -> dict[str, Any]:
    """A block of content."""
    return {"type": kind, **fields}


def call(call_id: str = "t1", **arguments: Any) -> dict[str, Any]:
    """A call of a tool."""
    return block("tool_use", id=call_id, name="look", input=arguments)


def said(*blocks: dict[str, Any], role: str = "user") -> tuple[Part, ...]:
    """The parts of the last of two messages; the first calls `t1` and `t2`."""
    messages = [
        {"role": "assistant", "content": [call(), call("t2")]},
        {"role": role, "content": list(blocks)},
    ]
    return meaning(messages=messages).conversation.messages[-1].parts
