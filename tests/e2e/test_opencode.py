"""The real opencode, in both protocols, against a server whose answers are given."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semantic_trio.adapters.scripted.rules import Call, Rule
from tests.e2e.isolated import Isolated, from_npm
from tests.e2e.meter import Meter, assert_nothing_read_twice
from tests.process import ServerProcess

pytestmark = pytest.mark.timeout(300)

VERSION = "1.18.33"
CHAT, MESSAGES = "@ai-sdk/openai-compatible", "@ai-sdk/anthropic"
QUIET = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "SHARE")


def configured(url: str, package: str) -> str:
    """As docs/opencode.md has it."""
    limit = {"context": 131072, "output": 8192}
    options = {"baseURL": f"{url}/v1", "apiKey": "local"}
    provider = {
        "npm": package,
        "name": "semantic-trio",
        "options": options,
        "models": {"tiny-random": {"name": "tiny-random", "limit": limit}},
    }
    schema = "https://opencode.ai/config.json"
    return json.dumps(
        {
            "$schema": schema,
            "model": "local/tiny-random",
            "share": "disabled",
            "autoupdate": False,
            "provider": {"local": provider},
        }
    )


def work(project: Path) -> tuple[Rule, ...]:
    """Read, edit, then two at once, then the end. Keys are not in the order of the schema."""
    notes, copy = str(project / "notes.txt"), str(project / "copy.txt")
    return (
        Rule(when="Generate a title", text="Work on notes"),
        Rule(
            when="work",
            turn=0,
            thinking="I look first.",
            text="I read it.",
            calls=(Call("read", {"filePath": notes}),),
        ),
        Rule(
            seen="work",
            turn=1,
            calls=(Call("edit", {"newString": "beta", "oldString": "alpha", "filePath": notes}),),
        ),
        Rule(
            seen="work",
            turn=2,
            text="Two at once.",
            calls=(
                Call("bash", {"description": "Slow", "command": f"sleep 0.5; cat {notes}"}),
                Call("write", {"content": "gämma \n\n", "filePath": copy}),
            ),
        ),
        Rule(seen="work", turn=3, text="Finished."),
        Rule(when="again", text="I was finished already."),
    )


def parts(out: str, kind: str) -> list[dict[str, Any]]:
    """What it has told of, of one kind."""
    events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return [event["part"] for event in events if event["type"] == kind]


@pytest.mark.parametrize("package", [CHAT, MESSAGES])
def test_opencode_changes_files_and_nothing_is_read_twice_whoever_starts_again(
    tmp_path: Path,
    scripted: Callable[..., ServerProcess],
    metered: Callable[[ServerProcess], Meter],
    package: str,
) -> None:
    server = scripted(*work(tmp_path / "project"))
    meter = metered(server)
    program = from_npm("opencode", "opencode-ai", VERSION, "opencode-*/bin/opencode")
    opencode = Isolated(
        program,
        tmp_path / "home",
        tmp_path / "project",
        {f"OPENCODE_DISABLE_{name}": "1" for name in QUIET},
    )
    opencode.configure(".config/opencode/opencode.json", configured(meter.url, package))
    (opencode.project / "notes.txt").write_text("one\nalpha\n")
    said = opencode.run("run", "--format", "json", "work please").out
    server.end()
    meter.server = scripted(*work(tmp_path / "project")).url
    again = opencode.run("run", "--format", "json", "--continue", "and again").out

    assert [part["text"].strip() for part in parts(said, "text")] == [
        "I read it.",
        "Two at once.",
        "Finished.",
    ]
    assert [part["text"] for part in parts(again, "text")] == ["I was finished already."]
    assert (opencode.project / "notes.txt").read_text() == "one\nbeta\n"
    assert (opencode.project / "copy.txt").read_text() == "gämma \n\n"
    assert (
        "beta"
        in {part["tool"]: part for part in parts(said, "tool_use")}["bash"]["state"]["output"]
    )
    assert {exchange.path for exchange in meter.exchanges} == {
        "/v1/chat/completions" if package == CHAT else "/v1/messages"
    }
    assert "disk" in {exchange.cache.get("source") for exchange in meter.exchanges}
    assert_nothing_read_twice(meter, at_least=4)
