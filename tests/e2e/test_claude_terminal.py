"""The real Claude Code in a terminal, as people use it: keys are pressed, the screen is read, and
nothing is read twice.
"""

import base64
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semantic_trio.adapters.scripted.rules import Call, Rule
from tests.e2e import bell
from tests.e2e.claude_code import NEWEST, Client, Json, install, pointing_at
from tests.e2e.meter import SHARE, Exchange, Meter, assert_nothing_read_twice
from tests.e2e.terminal import Terminal, terminal
from tests.e2e.test_claude_code import PNG
from tests.process import ServerProcess

pytestmark = pytest.mark.timeout(300)

Scripted = Callable[..., ServerProcess]
Metered = Callable[[ServerProcess], Meter]
FINE = Rule(text="Fine it is.")
# A conversation that has begun, so that what comes after it has something to go on from.
HELLO = Rule(when="^good morning$", text="Good morning to you.")


@contextlib.contextmanager
def claude(tmp_path: Path, meter: Meter, *arguments: str) -> Iterator[Terminal]:
    """Claude Code, with all that it asks a newcomer answered before, and ready for a prompt."""
    settings = {
        name: value for name, value in pointing_at(meter.url).items() if name != "ANTHROPIC_API_KEY"
    } | {"ANTHROPIC_AUTH_TOKEN": "local"}
    client = Client(install(NEWEST), tmp_path / "home", tmp_path / "project", settings)
    known = {
        "hasCompletedOnboarding": True,
        "projects": {str(client.project): {"hasTrustDialogAccepted": True}},
    }
    (client.home / ".claude.json").write_text(json.dumps(known))
    command = (*client.command, "--permission-mode", "acceptEdits", *arguments)
    with terminal(command, client.environment, client.project) as started:
        started.shows("accept edits on")
        yield started


def prompt_line(screen: Terminal) -> str:
    """What stands in the line that is typed into: the last one with its mark."""
    return [
        line
        for line in screen.screen.splitlines()
        if line.startswith("\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}")
    ][-1]


def greet(screen: Terminal) -> None:
    screen.say("good morning")
    screen.shows("Good morning to you.")


def last_said(exchange: Exchange) -> list[Json]:
    """The blocks of the last message of the user in a request."""
    content = next(
        message["content"]
        for message in reversed(exchange.asked["messages"])
        if message["role"] == "user"
    )
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def test_esc_in_an_answer_reads_nothing_twice(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    server = scripted(
        HELLO,
        Rule(when="^count for me$", text=" ".join(map(str, range(3000))), pace_seconds=0.02),
        FINE,
    )
    meter = metered(server)
    with claude(tmp_path, meter) as screen:
        greet(screen)
        screen.say("count for me")
        screen.shows("0 1 2")
        screen.press("Escape")
        screen.shows("Interrupted")
        server.until_empty()
        screen.say("and then")
        screen.shows("Fine it is.")

    assert "[Request interrupted by user]" in str(last_said(meter.exchanges[-1]))
    assert_nothing_read_twice(meter, at_least=2)


def test_esc_before_an_answer_takes_the_prompt_back_and_another_one_reads_nothing_else(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    meter = metered(scripted(FINE))
    meter.passing.clear()
    with claude(tmp_path, meter) as screen:
        screen.say("say it soon")
        screen.until(
            lambda: any(exchange.answer for exchange in meter.exchanges), "answer that has begun"
        )
        screen.press("Escape")
        screen.until(lambda: "say it soon" in prompt_line(screen), "prompt to change")
        meter.passing.set()
        screen.press("C-u")
        screen.until(lambda: "say it soon" not in screen.screen, "empty line")
        screen.say("another prompt")
        screen.shows("Fine it is.")
        screen.until(lambda: len(meter.turns) == 2, "figures of two requests")

    asked, other = meter.turns
    assert other.share >= SHARE
    assert other.common > asked.prompt - 20, "all but what was typed"


def test_a_pasted_image_does_not_end_the_conversation(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    """The path of a file that is pasted is sent as the image in it."""
    image = tmp_path / "a.png"
    image.write_bytes(base64.b64decode(PNG))
    meter = metered(scripted(Rule(when="what is it", text="It cannot be seen."), FINE))
    with claude(tmp_path, meter) as screen:
        screen.paste(str(image))
        screen.shows("[Image #1]")
        screen.say(" what is it")
        screen.shows("It cannot be seen.")
        screen.say("and then")
        screen.shows("Fine it is.")

    assert "image" in [block["type"] for block in last_said(meter.exchanges[0])]
    assert [exchange.status for exchange in meter.exchanges] == [200, 200]
    assert_nothing_read_twice(meter, at_least=1)


def test_compact_keeps_instructions_and_tools(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    meter = metered(
        scripted(
            HELLO,
            Rule(
                when="CRITICAL: Respond with TEXT ONLY", text="<summary>\nWe greeted.\n</summary>"
            ),
            FINE,
        )
    )
    with claude(tmp_path, meter) as screen:
        greet(screen)
        screen.say("/compact")
        screen.shows("Compacted")
        screen.say("go on then")
        screen.shows("Fine it is.")

    first, summary, after = meter.turns
    assert "This session is being continued" in str(meter.exchanges[-1].asked["messages"][0])
    assert_nothing_read_twice(meter, at_least=1)
    assert summary.kind == "append"
    assert after.reused > first.prompt / 2


def test_plan_mode_is_entered_and_left_by_its_key(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    meter = metered(scripted(HELLO, Rule(when="^make a plan$", text="The plan is made."), FINE))
    with claude(tmp_path, meter) as screen:
        greet(screen)
        screen.press("BTab")
        screen.shows("plan mode on")
        screen.say("make a plan")
        screen.shows("The plan is made.")
        screen.press("BTab")
        screen.until(lambda: "plan mode on" not in screen.screen, "other mode")
        screen.say("and do it")
        screen.shows("Fine it is.")

    planned, done = meter.exchanges[1:]
    assert "Plan mode is active" in str(planned.asked["messages"][-1])
    assert "xited" in str(done.asked["messages"][-2:])
    assert_nothing_read_twice(meter, at_least=2)


def test_a_tool_of_an_mcp_server_is_called(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    rings = Rule(when="^ring the bell$", calls=(Call("mcp__bell__ring", {"times": 3}),))
    meter = metered(scripted(HELLO, rings, Rule(when="dong dong dong", text="It has rung."), FINE))
    servers = {"mcpServers": {"bell": {"command": sys.executable, "args": [bell.__file__]}}}
    with claude(
        tmp_path, meter, "--mcp-config", json.dumps(servers), "--allowedTools", "mcp__bell__ring"
    ) as screen:
        screen.say("/mcp")
        screen.shows("1 tool")
        screen.press("Escape")
        # a letter right after it would be taken for Alt and that letter
        screen.until(lambda: "Esc to close" not in screen.screen, "closed list")
        greet(screen)
        screen.say("ring the bell")
        screen.shows("It has rung.")

    [result] = [block for block in last_said(meter.exchanges[-1]) if block["type"] == "tool_result"]
    assert "dong dong dong" in str(result["content"])
    assert_nothing_read_twice(meter, at_least=2)


def test_a_subagent_has_a_memory_of_its_own(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    """It runs beside the conversation, which is told when it has ended."""
    agent = Call(
        "Agent", {"description": "Look", "subagent_type": "Explore", "prompt": "please look around"}
    )
    meter = metered(
        scripted(
            HELLO,
            Rule(when="^please look around$", text="I looked around."),
            Rule(when="^delegate it$", calls=(agent,)),
            Rule(when="I looked around", text="It has looked."),
            FINE,
        )
    )
    with claude(tmp_path, meter) as screen:
        greet(screen)
        screen.say("delegate it")
        screen.shows("It has looked.")
        screen.say("and now")
        screen.until(
            lambda: (
                "and now" in str(last_said(meter.exchanges[-1])) and meter.exchanges[-1].is_whole
            ),
            "answer",
        )

    own = [
        exchange for exchange in meter.exchanges if "please look around" in str(last_said(exchange))
    ]
    assert len(own) == 1
    assert own[0].asked["system"] != meter.exchanges[0].asked["system"]
    assert_nothing_read_twice(meter, at_least=3)
