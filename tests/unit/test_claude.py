"""The settings of Claude Code, as the running server's answers make them."""

import contextlib
import http.server
import json
import os
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from semantic_trio.entrypoints.claude import ask, default_url
from semantic_trio.entrypoints.cli import main
from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.settings import Settings
from tests.ports import free_port

MODEL = "org/a model"


@contextlib.contextmanager
def answering(models: list[dict[str, object]], key: str | None = None) -> Iterator[str]:
    """A server that knows one route."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/v1/models" and self.headers.get("x-api-key") == key
            body = json.dumps({"data": models}).encode()
            self.send_response(200 if known else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def served(context: int = 65_536, name: str = MODEL) -> list[dict[str, object]]:
    return [{"id": name, "max_input_tokens": context, "display_name": "ignored"}]


def claude(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, ["claude", *arguments])


EXPECTED = {
    "ANTHROPIC_AUTH_TOKEN": "local",
    "ANTHROPIC_MODEL": MODEL,
    "ANTHROPIC_DEFAULT_FABLE_MODEL": MODEL,
    "ANTHROPIC_DEFAULT_OPUS_MODEL": MODEL,
    "ANTHROPIC_DEFAULT_SONNET_MODEL": MODEL,
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
    "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "65536",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "8192",
    "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


def test_the_first_model_is_the_main_one_and_others_may_never_have_been_loaded() -> None:
    absent: list[dict[str, object]] = [{"id": "org/small", "max_input_tokens": None}]
    with answering([*served(), *absent]) as url:
        result = claude("--url", url, "--json")
    with answering([*absent, *served()]) as url:
        refused = claude("--url", url, "--json")

    assert json.loads(result.stdout)["env"]["ANTHROPIC_MODEL"] == MODEL
    assert "org/small is not loaded, and its context length is unknown" in refused.stderr


def test_json_is_the_env_of_its_settings_file() -> None:
    with answering(served()) as url:
        result = claude("--url", url, "--json")

    assert json.loads(result.stdout) == {"env": {"ANTHROPIC_BASE_URL": url, **EXPECTED}}
    assert result.stderr == ""


def test_exports_say_the_same_to_a_shell_and_put_a_foreign_key_away() -> None:
    with answering(served()) as url:
        first, *exports = claude("--url", url).stdout.splitlines()

    assert first == "unset ANTHROPIC_API_KEY"
    words = [shlex.split(line) for line in exports]
    assert {word for word, _ in words} == {"export"}
    assert dict(pair.split("=", 1) for _, pair in words) == {"ANTHROPIC_BASE_URL": url, **EXPECTED}


@pytest.mark.parametrize("written", ["{}/v1", "{}/", "{}/v1/"])
def test_a_url_as_other_clients_want_it_is_understood(written: str) -> None:
    with answering(served()) as url:
        assert ask(written.format(url), None).url == url
        assert ask(written.format(url.removeprefix("http://")), None).url == url


def test_the_address_and_the_key_come_from_the_settings() -> None:
    with answering(served(), key="hush") as url:
        result = claude("--json", SEMANTIC_PORT=url.rpartition(":")[2], SEMANTIC_API_KEY="hush")

    assert json.loads(result.stdout)["env"] == {
        "ANTHROPIC_BASE_URL": url,
        **EXPECTED,
        "ANTHROPIC_AUTH_TOKEN": "hush",
    }


def test_a_server_that_listens_everywhere_is_reached_here() -> None:
    assert default_url(Settings(host="0.0.0.0", port=1)) == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("models", "word"),
    [
        (served(8192), "8,192 tokens"),
        (served(name="claude-local"), "hosted model"),
        (served(200_000), ""),
    ],
)
def test_what_will_not_go_well_is_told_beside_the_settings(
    models: list[dict[str, object]], word: str
) -> None:
    with answering(models) as url:
        result = claude("--url", url)

    assert result.exit_code == 0
    assert word in result.stderr
    assert bool(result.stderr) is bool(word)


def test_an_answer_leaves_most_of_a_small_context_free() -> None:
    with answering(served(16_384)) as url:
        assert ask(url, None).variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "2048"


def test_a_server_that_is_not_there_is_one_line_and_a_code() -> None:
    result = claude("--url", f"http://127.0.0.1:{free_port()}")

    assert result.exit_code == ExitCode.USAGE
    assert "semantic-trio serve" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_key_that_is_not_the_servers_is_one_line_and_a_code() -> None:
    with answering(served(), key="hush") as url:
        result = claude("--url", url)

    assert result.exit_code == ExitCode.USAGE
    assert "SEMANTIC_API_KEY" in result.stderr


@pytest.mark.parametrize("models", [[], [{"id": 7}]])
def test_something_else_that_answers_is_no_server(models: list[dict[str, object]]) -> None:
    with answering(models) as url:
        assert claude("--url", url).exit_code == ExitCode.USAGE


def test_run_becomes_claude_code_with_its_arguments_and_without_a_foreign_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    (tmp_path / "claude").touch(mode=0o755)
    with answering(served()) as url:
        claude(
            "--url", url, "--run", "--", "-p", "hi", PATH=str(tmp_path), ANTHROPIC_API_KEY="theirs"
        )

    [(path, arguments, environment)] = started
    assert path == str(tmp_path / "claude")
    assert arguments == ["claude", "-p", "hi"]
    assert environment["ANTHROPIC_BASE_URL"] == url
    assert "ANTHROPIC_API_KEY" not in environment


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ((), True),
        (("--continue",), True),
        (("fix the tests",), True),
        (("--permission-mode", "acceptEdits"), False),
        (("--permission-mode=plan",), False),
        (("--dangerously-skip-permissions",), False),
        (("-p", "hi"), False),
        (("--print", "hi"), False),
    ],
)
def test_run_asks_the_user_where_no_permission_mode_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], added: bool
) -> None:
    """By itself it asks the server whether each command is safe, and every first write ends in a
    dialog about that.
    """
    started: list[list[str]] = []
    monkeypatch.setattr(
        os, "execve", lambda path, arguments, environment: started.append(arguments)
    )
    (tmp_path / "claude").touch(mode=0o755)
    with answering(served()) as url:
        result = claude("--url", url, "--run", "--", *given, PATH=str(tmp_path))

    assert started == [["claude", *(["--permission-mode", "default"] if added else []), *given]]
    assert ("--permission-mode acceptEdits" in result.stderr) is added


def test_run_without_claude_code_is_one_line_and_a_code(tmp_path: Path) -> None:
    with answering(served()) as url:
        result = claude("--url", url, "--run", PATH=str(tmp_path))

    assert result.exit_code == ExitCode.USAGE
    assert "npm install" in result.stderr


def test_arguments_without_run_are_a_mistake() -> None:
    assert claude("--", "-p").exit_code == ExitCode.USAGE
