"""The real Codex CLI, which speaks the Responses API and nothing else, against a server whose
answers are given.
"""

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

VERSION, PROGRAM = "0.169.0", "@openai/codex-*/vendor/*/bin/codex"
PATCH = "apply_patch <<'EOF'\n*** Begin Patch\n*** Add File: copy.txt\n+gämma\n*** End Patch\nEOF"


def configured(url: str) -> str:
    """As docs/codex.md has it, but for the sandbox: one that cannot be made here is not what is
    tested.
    """
    return f"""\
model = "tiny-random"
model_provider = "local"
model_context_window = 131072
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[model_providers.local]
name = "semantic-trio"
base_url = "{url}/v1"
wire_api = "responses"

[analytics]
enabled = false
"""


# Reads, edits, then patches and looks at once, then ends. What it knows no tool for, a patch, it is
# told to do in its shell.
WORK = (
    Rule(
        when="work",
        turn=0,
        thinking="I look first.",
        text="I read it.",
        calls=(Call("exec_command", {"cmd": "cat notes.txt"}),),
    ),
    Rule(
        seen="work please",
        turn=1,
        calls=(
            Call(
                "exec_command", {"yield_time_ms": 5000, "cmd": "sed -i.old s/alpha/beta/ notes.txt"}
            ),
        ),
    ),
    Rule(
        seen="work please",
        turn=2,
        text="Two at once.",
        calls=(
            Call("exec_command", {"cmd": PATCH}),
            Call("exec_command", {"cmd": "sleep 0.5; cat notes.txt"}),
        ),
    ),
    Rule(seen="work please", turn=3, text="Finished."),
    Rule(when="again", text="I was finished already."),
)


def items(out: str, kind: str) -> list[dict[str, Any]]:
    """What it has finished, of one kind."""
    events = [json.loads(line) for line in out.splitlines()]
    return [
        event["item"]
        for event in events
        if event["type"] == "item.completed" and event["item"]["type"] == kind
    ]


def test_codex_changes_files_and_nothing_is_read_twice_whoever_starts_again(
    tmp_path: Path,
    scripted: Callable[..., ServerProcess],
    metered: Callable[[ServerProcess], Meter],
) -> None:
    server = scripted(*WORK)
    meter = metered(server)
    program = from_npm("codex", "@openai/codex", VERSION, PROGRAM)
    codex = Isolated(program, tmp_path / "home", tmp_path / "project")
    codex.configure(".codex/config.toml", configured(meter.url))
    (codex.project / "notes.txt").write_text("one\nalpha\n")
    said = codex.run("exec", "--json", "--skip-git-repo-check", "work please").out
    server.end()
    meter.server = scripted(*WORK).url
    again = codex.run(
        "exec", "resume", "--last", "--json", "--skip-git-repo-check", "and again"
    ).out

    assert [item["text"].strip() for item in items(said, "agent_message")] == [
        "I read it.",
        "Two at once.",
        "Finished.",
    ]
    assert [item["text"] for item in items(again, "agent_message")] == ["I was finished already."]
    assert (codex.project / "notes.txt").read_text() == "one\nbeta\n"
    assert (codex.project / "copy.txt").read_text() == "gämma\n"
    assert [item["aggregated_output"] for item in items(said, "command_execution")][
        -1
    ] == "one\nbeta\n"
    assert {(exchange.path, exchange.status) for exchange in meter.exchanges} == {
        ("/v1/responses", 200)
    }
    assert {"namespace", "web_search"} < {
        tool["type"] for tool in meter.exchanges[0].asked["tools"]
    }, "what is to be passed over is not asked"
    assert meter.exchanges[-1].cache["source"] == "disk"
    assert_nothing_read_twice(meter, at_least=4)


def test_codex_hands_on_the_schema_of_its_last_message(
    tmp_path: Path,
    scripted: Callable[..., ServerProcess],
    metered: Callable[[ServerProcess], Meter],
) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    meter = metered(scripted(Rule(when="dog", text='{"name":"Rex"}')))
    codex = Isolated(
        from_npm("codex", "@openai/codex", VERSION, PROGRAM),
        tmp_path / "home",
        tmp_path / "project",
    )
    codex.configure(".codex/config.toml", configured(meter.url))
    (codex.project / "dog.json").write_text(json.dumps(schema))
    codex.run(
        "exec",
        "--skip-git-repo-check",
        "--output-schema",
        "dog.json",
        "--output-last-message",
        "said.json",
        "invent a dog",
    )

    asked = meter.exchanges[0].asked["text"]["format"]
    assert (asked["type"], asked["strict"], asked["schema"]) == ("json_schema", True, schema)
    assert json.loads((codex.project / "said.json").read_text()) == {"name": "Rex"}
