"""A server that gives answers from a file."""

import json
from pathlib import Path

import httpx

from semantic_trio.entrypoints.exits import ExitCode
from tests.process import ServerProcess, run_to_end, serving

SCRIPT = [{"when": "weather", "thinking": "I look.", "calls": [{"name": "look", "input": {"at": "sky"}}]}, {"text": "Hello."}]
TOOLS = [{"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}]


def ask(server: ServerProcess, text: str) -> httpx.Response:
    body = {"model": "default", "max_tokens": 100, "tools": TOOLS, "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{server.url}/v1/messages", json=body)


def test_answers_come_from_the_script_and_the_context_is_as_long_as_it_was_set(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT))
    with serving(tmp_path, "--script", str(script), "--context-length", "1000") as server:
        text, call, refused = (ask(server, prompt).json() for prompt in ("greet", "weather", "word " * 1000))
        model = httpx.get(f"{server.url}/v1/models").json()["data"][0]

        assert "answers are scripted" in server.said
    assert [block["text"] for block in text["content"]] == ["Hello."]
    assert [block["input"] for block in call["content"] if block["type"] == "tool_use"] == [{"at": "sky"}]
    assert "1000 maximum" in refused["error"]["message"]
    assert model["max_input_tokens"] == 1000


def test_a_script_that_cannot_be_read_is_one_line_and_a_code(tmp_path: Path) -> None:
    code, output = run_to_end(tmp_path, "--script", str(tmp_path / "absent.json"))

    assert code == ExitCode.USAGE
    assert "absent.json" in output
    assert "Traceback" not in output
