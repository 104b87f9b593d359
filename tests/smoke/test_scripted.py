"""A server that gives answers from a file."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from semantic_trio.entrypoints.exits import ExitCode
from tests.process import ServerProcess, run_to_end, serving

SCRIPT = [
    {"when": "weather", "thinking": "I look.", "calls": [{"name": "look", "input": {"at": "sky"}}]},
    {"text": "Hello."},
]
TOOLS = [
    {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}
]


HALF = '<tool_call>\n{"name": "look", "arguments": {"at": "x\\ud83dy"}}\n</tool_call>'
THOUGHTFUL = [
    {"when": "think", "thinking": "I look.\n\nI say.", "text": "Hello there."},
    {"when": "call", "text": HALF},
]


@pytest.fixture(scope="module")
def thoughtful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("thoughtful")
    (directory / "script.json").write_text(json.dumps(THOUGHTFUL))
    with serving(directory, "--script", str(directory / "script.json")) as server:
        yield server


def ask(server: ServerProcess, text: str) -> httpx.Response:
    body = {
        "model": "default",
        "max_tokens": 100,
        "tools": TOOLS,
        "messages": [{"role": "user", "content": text}],
    }
    return server.post("/v1/messages", json=body)


def test_answers_come_from_the_script_and_the_context_is_as_long_as_it_was_set(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT))
    with serving(tmp_path, "--script", str(script), "--context-length", "1000") as server:
        text, call, refused = (
            ask(server, prompt).json() for prompt in ("greet", "weather", "word " * 1000)
        )
        model = server.get("/v1/models").json()["data"][0]

        assert "answers are scripted" in server.said
    assert [block["text"] for block in text["content"]] == ["Hello."]
    assert [block["input"] for block in call["content"] if block["type"] == "tool_use"] == [
        {"at": "sky"}
    ]
    assert "1000 maximum" in refused["error"]["message"]
    assert model["max_input_tokens"] == 1000


def test_a_script_that_cannot_be_read_is_one_line_and_a_code(tmp_path: Path) -> None:
    code, output = run_to_end(tmp_path, "--script", str(tmp_path / "absent.json"))

    assert code == ExitCode.USAGE
    assert "absent.json" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("stop", ["\n", "\n\n", "look", "</think>"])
def test_no_stop_string_ends_a_thought(thoughtful: ServerProcess, stop: str) -> None:
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": "think"}],
        "stop": stop,
        "logprobs": True,
    }
    choice = thoughtful.post("/v1/chat/completions", json=body).json()["choices"][0]

    assert choice["message"] == {
        "role": "assistant",
        "content": "Hello there.",
        "refusal": None,
        "reasoning_content": "I look.\n\nI say.",
    }
    assert choice["finish_reason"] == "stop"
    assert "".join(token["token"] for token in choice["logprobs"]["content"]) == "Hello there."


def test_a_call_with_half_a_character_is_told_by_every_protocol(thoughtful: ServerProcess) -> None:
    tool = {"name": "look", "parameters": {"type": "object"}}
    asked = [{"role": "user", "content": "call"}]
    chat = {
        "model": "default",
        "messages": asked,
        "tools": [{"type": "function", "function": tool}],
    }
    whole = thoughtful.post("/v1/chat/completions", json=chat).json()
    stream = thoughtful.post("/v1/chat/completions", json={**chat, "stream": True}).text
    response = thoughtful.post(
        "/v1/responses",
        json={"model": "default", "input": asked, "tools": [{"type": "function", **tool}]},
    ).json()
    message = ask(thoughtful, "call").json()

    assert (
        whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
        == '{"at": "x\ufffdy"}'
    )
    assert stream.endswith("data: [DONE]\n\n")
    assert [item["arguments"] for item in response["output"]] == ['{"at": "x\ufffdy"}']
    assert message["content"][0]["input"] == {"at": "x\ufffdy"}
