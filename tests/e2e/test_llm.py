"""The real `llm` command: its schemas against a model that can say anything, the rest against a
server whose answers are given.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from semantic_trio.adapters.scripted.rules import Call, Rule
from tests.e2e.isolated import Isolated, from_pypi
from tests.e2e.meter import Meter, assert_nothing_read_twice
from tests.process import ServerProcess, serving

pytestmark = pytest.mark.timeout(300)

Scripted = Callable[..., ServerProcess]
Metered = Callable[[ServerProcess], Meter]
VERSION = "0.36"
NOTE = """
def note(text: str, times: int) -> str:
    "Write a text into notes.txt, so many times."
    with open("notes.txt", "w") as file:
        file.write(text * times)
    return f"{times} times"
"""
DOG = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Rex", "Bello"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 20},
        "good": {"type": "boolean"},
    },
    "required": ["name", "age", "good"],
    "additionalProperties": False,
}


def client(tmp_path: Path, url: str) -> Isolated:
    """Configured as docs/llm.md has it."""
    llm = Isolated(
        from_pypi("llm", VERSION, "llm"),
        tmp_path / "home",
        tmp_path / "project",
        {"LLM_USER_PATH": str(tmp_path / "home")},
    )
    model = {
        "model_id": "local",
        "model_name": "tiny-random",
        "api_base": f"{url}/v1",
        "supports_tools": True,
        "supports_schema": True,
    }
    llm.configure("extra-openai-models.yaml", f"- {json.dumps(model)}\n")
    return llm


def test_llm_goes_on_with_what_was_said_and_nothing_is_read_twice(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    long = " ".join(f"line {line}" for line in range(200))
    meter = metered(
        scripted(Rule(when="greet", text="Hello, wörld."), Rule(when="again", text="Hello again."))
    )
    llm = client(tmp_path, meter.url)

    assert llm.run("-m", "local", f"greet me {long}").out == "Hello, wörld.\n"
    assert llm.run("-c", "and again").out == "Hello again.\n"
    assert llm.run("-c", "and again", "--no-stream").out == "Hello again.\n"
    assert_nothing_read_twice(meter, at_least=2)


def test_llm_calls_a_tool_that_changes_a_file_and_nothing_is_read_twice(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    """It writes the arguments of calls anew."""
    calls = (Call("note", {"times": 2, "text": "gämma "}), Call("llm_version"))
    meter = metered(
        scripted(
            Rule(when="note it", text="I note it.", calls=calls),
            Rule(when="2 times", text="Noted."),
            Rule(text="Yes."),
        )
    )
    llm = client(tmp_path, meter.url)
    said = llm.run(
        "-m", "local", "--functions", NOTE, "-T", "llm_version", f"note it {'please ' * 100}"
    ).out

    assert said.endswith("Noted.\n")
    assert (llm.project / "notes.txt").read_text() == "gämma gämma "
    assert VERSION in str(meter.exchanges[-1].asked["messages"][-2:])
    assert llm.run("-c", "--functions", NOTE, "-T", "llm_version", "was it?").out == "Yes.\n"
    assert_nothing_read_twice(meter, at_least=2)


def test_llm_gets_what_it_has_a_schema_for_from_a_model_that_knows_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        said = (
            client(tmp_path, server.url)
            .run("-m", "local", "--schema", json.dumps(DOG), "invent a dog")
            .out
        )

    dog = json.loads(said)
    assert sorted(dog) == ["age", "good", "name"]
    assert dog["name"] in {"Rex", "Bello"}
    assert 0 <= dog["age"] <= 20
    assert isinstance(dog["good"], bool)
