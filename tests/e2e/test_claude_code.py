"""The real Claude Code against a server whose answers are given: what it does works, and what it
says again is not read again.
"""

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from semantic_trio.adapters.scripted.rules import Call, Rule
from tests.e2e.claude_code import NEWEST, OLDER, QUIET, Client, Dialogue, Said, install, pointing_at
from tests.e2e.meter import SHARE, Meter, assert_nothing_read_twice
from tests.process import ServerProcess

pytestmark = pytest.mark.timeout(300)

Scripted = Callable[..., ServerProcess]
Metered = Callable[[ServerProcess], Meter]
# What older versions ask beside the conversation.
ASIDES = (
    Rule(when="^Warmup", text="ok"),
    Rule(
        when="Extract any file paths",
        text="<is_displaying_contents>\nfalse\n</is_displaying_contents>\n\n<filepaths>\n</filepaths>",
    ),
)
FREE = ("--permission-mode", "acceptEdits", "--allowedTools", "Bash")


@pytest.fixture(scope="session", params=[NEWEST, OLDER])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def client(
    tmp_path: Path, url: str, version: str = NEWEST, name: str = "project", **settings: str
) -> Client:
    return Client(
        install(version), tmp_path / f"home-{name}", tmp_path / name, pointing_at(url) | settings
    )


def work(project: Path, word: str = "work") -> tuple[Rule, ...]:
    """Read, edit, then three at once, then the end."""
    notes, copy = str(project / "notes.txt"), str(project / "copy.txt")
    return (
        *ASIDES,
        Rule(
            when=word,
            turn=0,
            thinking="I look first.",
            text="I read it.",
            calls=(Call("Read", {"file_path": notes}),),
        ),
        Rule(
            seen=word,
            turn=1,
            calls=(
                Call("Edit", {"new_string": "beta", "old_string": "alpha", "file_path": notes}),
            ),
        ),
        Rule(
            seen=word,
            turn=2,
            text="Three at once.",
            calls=(
                Call("Bash", {"description": "Slow", "command": f"sleep 0.5; cat {notes}"}),
                Call("Write", {"content": "gamma   \n\n", "file_path": copy}),
                Call("Read", {"file_path": notes}),
            ),
        ),
        Rule(seen=word, turn=3, text="Finished."),
        Rule(when="again", text="I was finished already."),
    )


def results(said: Said) -> list[str]:
    return [str(block["content"]) for block in said.blocks("tool_result")]


def test_a_text_turn(tmp_path: Path, scripted: Scripted, metered: Metered, version: str) -> None:
    meter = metered(
        scripted(*ASIDES, Rule(when="greet", thinking="They greet.", text="Hello, wörld.\n"))
    )
    said = client(tmp_path, meter.url, version).ask("greet me")

    assert said.result.strip() == "Hello, wörld."
    assert not said.is_error
    assert [block["thinking"] for block in said.blocks("thinking")] in ([], ["They greet."])


def printed(home: Path, *arguments: str, path: str = os.environ["PATH"]) -> str:
    """What `semantic-trio claude` prints."""
    command, seen = (
        [sys.executable, "-m", "semantic_trio", "claude", *arguments],
        {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"},
    )
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=seen | QUIET, cwd=home
    ).stdout


def test_the_printed_settings_are_all_it_takes(tmp_path: Path, scripted: Scripted) -> None:
    server = scripted(Rule(when="greet", text="Hello."))
    claude = Client(install(NEWEST), tmp_path / "home", tmp_path / "project", {})
    (claude.home / ".claude").mkdir()
    (claude.home / ".claude" / "settings.json").write_text(
        printed(claude.home, "--url", server.url, "--json")
    )

    assert claude.ask("greet me").result == "Hello."


def test_it_is_started_with_the_settings(tmp_path: Path, scripted: Scripted) -> None:
    server = scripted(Rule(when="greet", text="Hello."))
    path = f"{Path(install(NEWEST)[0]).parent}{os.pathsep}{os.environ['PATH']}"
    said = printed(tmp_path, "--url", server.url, "--run", "--", "-p", "greet me", path=path)

    assert said.strip() == "Hello."


def test_tools_change_files_and_nothing_is_read_twice(
    tmp_path: Path, scripted: Scripted, metered: Metered, version: str
) -> None:
    meter = metered(scripted(*work(tmp_path / "project")))
    claude = client(tmp_path, meter.url, version)
    (claude.project / "notes.txt").write_text("one\nalpha\n")
    said = claude.ask("work please", *FREE)
    again = claude.ask("and again", "--continue", *FREE)

    assert said.result == "Finished."
    assert again.result == "I was finished already."
    assert (claude.project / "notes.txt").read_text() == "one\nbeta\n"
    assert (claude.project / "copy.txt").read_text().startswith("gamma")
    assert "beta" in results(said)[2] + results(said)[3] + results(said)[4]
    assert_nothing_read_twice(meter, at_least=4)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_conversation_goes_on_where_it_was_when_the_server_has_been_started_again(
    tmp_path: Path, scripted: Scripted, metered: Metered, version: str, end: signal.Signals
) -> None:
    server = scripted(*work(tmp_path / "project"))
    meter = metered(server)
    claude = client(tmp_path, meter.url, version)
    (claude.project / "notes.txt").write_text("one\nalpha\n")
    claude.ask("work please", *FREE)
    before = len(meter.turns)
    if end is signal.SIGKILL:
        server.until_written()
    server.signal(end)
    server.exit_code()
    meter.server = scripted(*work(tmp_path / "project")).url
    again = claude.ask("and again", "--continue", *FREE)
    sources = [
        exchange.cache["source"]
        for exchange in meter.exchanges
        if exchange.is_turn and "and again" in str(exchange.asked["messages"][-1])
    ]

    assert again.result == "I was finished already."
    assert [turn.common > 0 for turn in meter.turns[before:]].count(True) >= 1
    assert sources[-1:] == ["disk"]
    assert_nothing_read_twice(meter, at_least=4)


SUMMARY = (
    "<analysis>\nShort.\n</analysis>\n\n<summary>\n1. Primary Request and Intent: read large "
    "files.\n</summary>"
)


def reading(project: Path, files: int) -> tuple[Rule, ...]:
    """Reads one file after the other until it is told what came of it."""
    reads = [
        Rule(
            seen="devour", turn=at, calls=(Call("Read", {"file_path": str(project / f"{at}.txt")}),)
        )
        for at in range(files)
    ]
    return (
        Rule(when="CRITICAL: Respond with TEXT ONLY", text=SUMMARY),
        Rule(seen="This session is being continued", text="I go on from the summary."),
        *reads,
        Rule(text="All read."),
    )


@pytest.mark.parametrize(
    ("context", "told"),
    [
        pytest.param(
            40_000, {"CLAUDE_CODE_MAX_CONTEXT_TOKENS": "40000"}, id="the client knows the context"
        ),
        pytest.param(30_000, {}, id="the server refuses what is too long"),
    ],
)
def test_a_conversation_that_outgrows_the_context_is_compacted(
    tmp_path: Path, scripted: Scripted, metered: Metered, context: int, told: dict[str, str]
) -> None:
    meter = metered(
        scripted(*reading(tmp_path / "project", 12), arguments=("--context-length", str(context)))
    )
    claude = client(tmp_path, meter.url, CLAUDE_CODE_MAX_OUTPUT_TOKENS="4096", **told)
    for at in range(12):
        (claude.project / f"{at}.txt").write_text(
            "".join(f"line {line} of file {at}\n" for line in range(150))
        )
    said = claude.ask("devour them", *FREE)

    assert said.result == "I go on from the summary."
    assert "compact_boundary" in [event.get("subtype") for event in said.events]
    assert (
        [exchange.status for exchange in meter.exchanges if exchange.status != 200] == []
    ) is bool(told)
    assert_nothing_read_twice(meter, at_least=4)


@pytest.mark.parametrize("options", [{}, {"max_results": 5}])
def test_tools_that_are_loaded_later_do_not_change_the_front(
    tmp_path: Path, scripted: Scripted, metered: Metered, options: dict[str, object]
) -> None:
    """It puts them among the other tools; here they are read where it was told of them."""
    search = Rule(
        when="look it up",
        calls=(Call("ToolSearch", {"query": "select:WebFetch,NotebookEdit", **options}),),
    )
    meter = metered(scripted(search, Rule(text="Loaded.")))
    claude = client(tmp_path, meter.url)
    said, again = claude.ask("look it up"), claude.ask("and again", "--continue")

    assert [said.result, again.result] == ["Loaded."] * 2
    assert len({len(exchange.asked["tools"]) for exchange in meter.exchanges}) > 1
    assert_nothing_read_twice(meter, at_least=2)


# The smallest there are.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF = base64.b64encode(
    b"%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count "
    b"1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
).decode()


@pytest.mark.parametrize(("name", "content"), [("a.png", PNG), ("a.pdf", PDF)])
def test_a_file_the_model_cannot_see_does_not_end_the_conversation(
    tmp_path: Path, scripted: Scripted, metered: Metered, name: str, content: str
) -> None:
    file = tmp_path / "project" / name
    meter = metered(
        scripted(
            Rule(when="look", turn=0, calls=(Call("Read", {"file_path": str(file)}),)),
            Rule(text="Seen."),
        )
    )
    claude = client(tmp_path, meter.url)
    file.write_bytes(base64.b64decode(content))
    said, again = claude.ask("look at it", *FREE), claude.ask("go on", "--continue", *FREE)

    assert [said.result, again.result] == ["Seen."] * 2
    assert_nothing_read_twice(meter, at_least=2)


def test_subagents_keep_their_own_memory(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    project, names = tmp_path / "project", ("left", "right")
    reads = {name: Call("Read", {"file_path": str(project / f"{name}.txt")}) for name in names}
    common = {"description": "Look", "subagent_type": "Explore", "run_in_background": False}
    meter = metered(
        scripted(
            Rule(when="^subtask", turn=0, calls=(Call("Bash", {"command": f"ls {project}"}),)),
            *(Rule(seen=f"^subtask {name}", turn=1, calls=(reads[name],)) for name in names),
            Rule(seen="^subtask", turn=2, text="I looked."),
            Rule(
                when="delegate",
                turn=0,
                calls=tuple(
                    Call("Agent", common | {"prompt": f"subtask {name}"}) for name in names
                ),
            ),
            Rule(seen="delegate", turn=1, text="Both have looked."),
        )
    )
    claude = client(tmp_path, meter.url)
    for name in names:
        (project / f"{name}.txt").write_text(f"{name} it is")
    said = claude.ask("delegate it", *FREE)

    assert said.result == "Both have looked."
    assert sum("I looked." in result for result in results(said)) == 2
    assert len(meter.turns) == 8
    assert_nothing_read_twice(meter, at_least=5)


def test_five_sessions_at_once(tmp_path: Path, scripted: Scripted, metered: Metered) -> None:
    names = [f"project{number}" for number in range(5)]
    meter = metered(
        scripted(*(rule for name in names for rule in work(tmp_path / name, f"work on {name}")))
    )
    clients = [client(tmp_path, meter.url, name=name) for name in names]
    for claude in clients:
        (claude.project / "notes.txt").write_text("alpha")
    with ThreadPoolExecutor(5) as pool:
        said = list(
            pool.map(lambda claude: claude.ask(f"work on {claude.project.name}", *FREE), clients)
        )

    assert [one.result for one in said] == ["Finished."] * 5
    assert [(claude.project / "notes.txt").read_text() for claude in clients] == ["beta"] * 5
    assert_nothing_read_twice(meter, at_least=15)


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_answering(meter: Meter) -> bool:
    return any(exchange.answer.count(b"text_delta") > 5 for exchange in meter.exchanges)


SLOW = (
    Rule(when="and now", text="I am still here."),
    Rule(
        when="count", thinking="I count.", text=" ".join(map(str, range(2000))), pace_seconds=0.02
    ),
)


def test_a_client_that_is_killed_in_mid_answer_goes_on_the_next_time(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    server = scripted(*SLOW)
    meter = metered(server)
    claude = client(tmp_path, meter.url)
    with claude.started("-p", "count please"):
        wait_for(lambda: is_answering(meter))
    empty_after = server.until_empty()
    said = claude.ask("and now", "--continue")

    assert empty_after < 5
    assert said.result == "I am still here."
    assert_nothing_read_twice(meter, at_least=1)


def test_an_interrupted_answer_is_gone_on_from(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    meter = metered(scripted(*SLOW))
    with client(tmp_path, meter.url).started("-p", "--input-format", "stream-json") as process:
        dialogue = Dialogue(process)
        dialogue.say("count please")
        wait_for(lambda: is_answering(meter))
        dialogue.control(subtype="interrupt")
        dialogue.until("result")
        dialogue.say("and now")
        answered = dialogue.until("result")

    assert answered["result"] == "I am still here."
    assert_nothing_read_twice(meter, at_least=1)


def with_context(project: Path) -> None:
    """What the client tells of a project before the first prompt: instructions and the state of
    git.
    """
    (project / "CLAUDE.md").write_text("Be kind to files.\n" * 20)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)


def roles(meter: Meter) -> list[list[str]]:
    return [
        [message["role"] for message in exchange.asked["messages"]] for exchange in meter.exchanges
    ]


def test_a_first_message_that_grows_has_the_environment_read_once_and_so_has_another_session(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    """The environment stands behind the first message, to which the client adds that the answer was
    empty.
    """
    meter = metered(
        scripted(
            Rule(when="no visible output", text="Here I am."),
            Rule(when="say nothing", text=""),
            Rule(text="Fine."),
        )
    )
    claude = client(tmp_path, meter.url)
    with_context(claude.project)
    said = [claude.ask(prompt).result for prompt in ("say nothing", "another session")]
    first, grown, other = meter.turns

    assert said == ["Here I am.", "Fine."]
    assert roles(meter) == [["user", "system"]] * 3, (
        "the client has another place for the environment: is the rule of use?"
    )
    assert grown.share >= SHARE
    assert other.share >= SHARE
    assert other.common > first.prompt - 20, "all but its own words"


def test_a_first_message_that_was_interrupted_grows_and_has_the_environment_read_once(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    meter = metered(scripted(Rule(text="Fine.")))
    meter.passing.clear()
    claude = client(tmp_path, meter.url)
    with_context(claude.project)
    with claude.started("-p", "--input-format", "stream-json") as process:
        dialogue = Dialogue(process)
        dialogue.say("wait for it")
        wait_for(lambda: any(exchange.answer for exchange in meter.exchanges))
        dialogue.control(subtype="interrupt")
        dialogue.until("result")
        meter.passing.set()
        dialogue.say("go on")
        answered = dialogue.until("result")
    wait_for(lambda: len(meter.turns) == 2)
    _, grown = meter.turns

    assert answered["result"] == "Fine."
    assert roles(meter) == [["user", "system"]] * 2
    assert grown.share >= SHARE


def test_steering_while_a_tool_runs(tmp_path: Path, scripted: Scripted, metered: Metered) -> None:
    meter = metered(
        scripted(
            Rule(when="^start", calls=(Call("Bash", {"command": "sleep 3; echo slept"}),)),
            Rule(when="turn left", text="Left it is."),
            Rule(text="Nobody steered."),
        )
    )
    with client(tmp_path, meter.url).started(
        "-p", "--input-format", "stream-json", *FREE
    ) as process:
        dialogue = Dialogue(process)
        dialogue.say("start")
        dialogue.until("assistant")
        time.sleep(1)
        dialogue.say("turn left")
        answered = dialogue.until("result")

    assert answered["result"] == "Left it is."
    assert_nothing_read_twice(meter, at_least=1)


def test_plan_mode_is_entered_and_left(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    project = tmp_path / "project"
    meter = metered(
        scripted(
            Rule(when="make a plan", text="The plan: write it."),
            Rule(
                when="do it",
                calls=(Call("Write", {"file_path": str(project / "done.txt"), "content": "done"}),),
            ),
            Rule(text="Done."),
        )
    )
    with client(tmp_path, meter.url).started(
        "-p", "--input-format", "stream-json", "--permission-mode", "plan"
    ) as process:
        dialogue = Dialogue(process)
        dialogue.say("make a plan")
        planned = dialogue.until("result")
        dialogue.control(subtype="set_permission_mode", mode="acceptEdits")
        dialogue.say("do it")
        done = dialogue.until("result")

    assert planned["result"] == "The plan: write it."
    assert done["result"] == "Done."
    assert (project / "done.txt").read_text() == "done"
    assert_nothing_read_twice(meter, at_least=2)


def test_a_search_of_the_web_says_that_it_cannot_be_made(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    """Its side request offers the provider's tool alone: a model that is asked invents what it
    found.
    """
    look_up = Call("WebSearch", {"query": "weather in Paris"})
    rules = (
        Rule(when="look it up", turn=0, calls=(look_up,)),
        Rule(seen="look it up", turn=1, text="No luck."),
        Rule(when="Perform", text="Sunny."),
    )
    meter = metered(scripted(*rules))
    said = client(tmp_path, meter.url, ENABLE_TOOL_SEARCH="false").ask(
        "look it up", "--allowedTools", "WebSearch"
    )

    assert said.result == "No luck."
    assert "This server cannot search the web" in results(said)[0]
    assert "Sunny" not in results(said)[0]


def test_a_call_that_was_begun_and_is_malformed_is_not_run(
    tmp_path: Path, scripted: Scripted, metered: Metered, version: str
) -> None:
    """All that was told of it, read by a reader that takes the beginning of JSON for the whole, is
    a command that could be run.
    """
    wrong = tmp_path / "project" / "wrong.txt"
    malformed = (
        f'<tool_call>\n{{"name": "Bash", "arguments": {{"command": "touch {wrong}", "description": '
        f"Wrong}}}}\n</tool_call>"
    )
    meter = metered(
        scripted(*ASIDES, Rule(when="go", turn=0, text=malformed), Rule(text="I stop here."))
    )
    client(tmp_path, meter.url, version).ask("go")

    assert not wrong.exists()
