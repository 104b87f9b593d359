"""The meter itself: what it takes two prompts to have in common is what the server reads of it."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from semantic_trio.adapters.scripted.rules import Rule
from tests.e2e.meter import Meter, assert_nothing_read_twice
from tests.process import ServerProcess

LONG = " ".join(f"line {line}" for line in range(300))
SAID = [{"role": "user", "content": LONG}, {"role": "assistant", "content": "Yes."}]
TOOL: dict[str, Any] = {"name": "look", "parameters": {"type": "object", "properties": {}}}


def chat(*messages: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {
        "messages": messages,
        "tools": [{"type": "function", "function": TOOL}],
        "max_tokens": 20,
    }


def messages(*messages: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "/v1/messages", {
        "messages": messages,
        "tools": [{"name": "look", "input_schema": TOOL["parameters"]}],
        "max_tokens": 20,
    }


def responses(*messages: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "/v1/responses", {
        "input": messages,
        "tools": [TOOL | {"type": "function"}],
        "max_output_tokens": 20,
    }


@pytest.mark.parametrize("ask", [chat, messages, responses])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_appended_and_what_is_changed_are_told_apart(
    scripted: Callable[..., ServerProcess],
    metered: Callable[[ServerProcess], Meter],
    ask: Callable[..., Any],
    stream: bool,
) -> None:
    meter = metered(scripted(Rule(text="Yes.")))
    says = [{"role": "user", "content": text} for text in ("Is it?", "Is it not?")]
    for conversation in (SAID[:1], [*SAID, says[0]], [*SAID, says[1]]):
        path, body = ask(*conversation)
        more = {"model": "default", "stream": stream} | (
            {"stream_options": {"include_usage": True}} if ask is chat else {}
        )
        httpx.post(f"{meter.url}{path}", json=body | more, timeout=30).raise_for_status()
    first, second, third = meter.turns

    assert [turn.kind for turn in meter.turns] == ["first", "append", "changed"]
    assert second.common == first.prompt
    assert second.said > 1
    assert first.prompt < third.common < third.prompt
    assert_nothing_read_twice(meter, at_least=2)
