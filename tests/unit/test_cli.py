"""The command line without a server."""

import contextlib
import json
import logging as stdlib_logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from semantic_trio.adapters.catalogue.suggested import SUGGESTED
from semantic_trio.domain.errors import EngineDeadError, InvalidRequestError, ModelNotFoundError
from semantic_trio.entrypoints import logging
from semantic_trio.entrypoints.cli import CURL, main
from semantic_trio.entrypoints.exits import ExitCode, known_ends
from semantic_trio.entrypoints.settings import LogFormat, LogLevel

HOUSE = Path(__file__).parents[2]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEMANTIC_DATA_DIR", str(tmp_path / "data"))
    return CliRunner()


def test_help_names_every_command(cli: CliRunner) -> None:
    text = cli.invoke(main, ["--help"]).output

    assert all(
        name in text
        for name in (
            "serve",
            "drain",
            "claude",
            "models",
            "cache",
            "agents",
            "config",
            "doctor",
            "bench",
            "service",
            "completion",
        )
    )
    assert "--max-decode-stall-ms" in cli.invoke(main, ["serve", "--help"]).output


def test_what_to_try_asks_for_a_short_answer_that_is_the_same_every_time() -> None:
    """The first answer of a small model decides whether there is a second question."""
    command = shlex.split(
        CURL.format(url="http://127.0.0.1:8000", model="tiny").replace("\\\n", "")
    )

    asked = json.loads(command[-1])
    assert command[:2] == ["curl", "http://127.0.0.1:8000/v1/chat/completions"]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("tiny", 0, 64)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_the_program_for_completions(cli: CliRunner, shell: str) -> None:
    result = cli.invoke(main, ["completion", shell])

    assert result.exit_code == 0
    assert f"_SEMANTIC_TRIO_COMPLETE={shell}_complete" in result.output
    assert f"semantic-trio completion {shell}" in (HOUSE / "docs" / "installation.md").read_text()


TOO_OLD = 9
# What bash does at a press of the tab key: it calls the registered function with the words before
# the cursor.
TAB = """
((BASH_VERSINFO[0] > 4)) || exit 9
eval "$(semantic-trio completion bash)"
complete -p semantic-trio >&2
COMP_WORDS=(semantic-trio {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_semantic_trio_completion semantic-trio
printf '%s\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [("comp", ["completion"]), ("completion z", ["zsh"]), ("bench --pl", ["--plot"])],
)
def test_bash_completes_commands_arguments_and_options(
    tmp_path: Path, words: str, found: list[str]
) -> None:
    program = tmp_path / "semantic-trio"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m semantic_trio "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    done = subprocess.run(
        ["bash", "--norc", "-c", TAB.format(words=words)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    if done.returncode == TOO_OLD:
        pytest.skip("needs bash 5")
    assert done.stdout.split() == found, done.stderr
    assert done.stderr == "complete -o nosort -F _semantic_trio_completion semantic-trio\n"


def test_config_prints_values_and_sources_but_no_key(cli: CliRunner) -> None:
    result = cli.invoke(
        main,
        ["config", "--port", "9"],
        env={"SEMANTIC_API_KEY": "hush", "SEMANTIC_QUEUE_LIMIT": "7"},
    )
    lines = {line.split()[0]: line for line in result.output.splitlines()}

    assert result.exit_code == 0
    assert lines["port"].split()[1:] == ["9", "command", "line"]
    assert lines["queue_limit"].split()[1:] == ["7", "environment"]
    assert "hush" not in result.output


def test_models_are_listed_before_any_is_here(cli: CliRunner) -> None:
    output = cli.invoke(main, ["models", "list"]).output

    assert "smollm2-135m" in output
    assert "tiny-random" in output


def test_models_for_coding_agents_are_named_with_the_memory_they_take(cli: CliRunner) -> None:
    output = cli.invoke(main, ["models", "list"]).output

    assert "for 32 GB: 22 GiB with 65,536 tokens of context" in output
    assert all(
        suggestion.name in output and suggestion.total_gib < 0.75 * suggestion.machine_gib
        for suggestion in SUGGESTED
    )


@pytest.mark.parametrize("name", ["smollm2-135m", "nonsense", "./nowhere"])
def test_a_model_that_is_not_here_is_one_line_and_a_code(cli: CliRunner, name: str) -> None:
    result = cli.invoke(main, ["models", "path", name])

    assert result.exit_code == ExitCode.MODEL_NOT_FOUND
    assert result.stderr.count("\n") == 1
    assert name in result.stderr


def test_doctor_looks_at_everything(cli: CliRunner) -> None:
    output = cli.invoke(main, ["doctor"]).output

    assert all(
        subject in output
        for subject in ("python", "packages", "BLAS", "device", "compiler", "disk", "cache")
    )


def doctors_line(cli: CliRunner, subject: str, *options: str) -> str:
    lines = cli.invoke(main, ["doctor", *options]).output.splitlines()
    return next(
        (
            " ".join(line.split())
            for line in lines
            if line.split()[:2][-1] == subject or line.split()[0] == subject
        ),
        "",
    )


def test_doctor_measures_how_fast_the_cache_is_read_and_leaves_nothing_there(
    cli: CliRunner, tmp_path: Path
) -> None:
    line = doctors_line(
        cli, "cache", "--cache-dir", str(tmp_path / "cache"), "--disk-floor-mb", "1"
    )

    assert re.fullmatch(
        (
            rf"cache {tmp_path}/cache: 0 B used by 0 models, \S+ [KMGT]iB free, of which 1.0 MiB "
            r"stay free, read at [\d,]+ MB/s"
        ),
        line,
    )
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_that_there_is_too_little_room(cli: CliRunner, tmp_path: Path) -> None:
    assert doctors_line(
        cli, "cache", "--cache-dir", str(tmp_path), "--disk-floor-mb", str(1 << 30)
    ).startswith("! cache ")
    assert (
        "do: free some space"
        in cli.invoke(main, ["doctor", "--disk-floor-mb", str(1 << 30)]).output
    )
    assert doctors_line(cli, "cache", "--disk-budget-mb", "0") == "cache off: disk_budget_mb = 0"


@pytest.mark.parametrize(
    ("computed", "read", "said"),
    [
        (
            300,
            5000,
            (
                "prompts are computed at 300 tokens/s and read from disk at 5,000 tokens/s: "
                "reading is faster"
            ),
        ),
        (
            5000,
            300,
            (
                "prompts are computed at 5,000 tokens/s and read from disk at 300 tokens/s: "
                "computing is faster"
            ),
        ),
        (300, 0, ": prompts are computed at 300 tokens/s; nothing has come back from disk yet"),
        (0, 5000, ": no prompt has been computed yet; memory is read from disk at 5,000 tokens/s"),
        (0, 0, ": no prompt has been computed yet; nothing has come back from disk yet"),
        (None, None, ""),
    ],
)
def test_doctor_compares_what_a_running_server_has_measured(
    cli: CliRunner, computed: float | None, read: float | None, said: str
) -> None:
    text = "# HELP x y\n"
    if computed is not None:
        text += (
            f"semantic_prefill_tokens_per_second {computed}\nsemantic_disk_read_tokens_per_second "
            f"{read}.0\n"
        )

    with scraped(text.encode()) as port:
        line = doctors_line(cli, "server", "--port", str(port))

    assert line.endswith(said)
    assert bool(line) == bool(said)


@contextlib.contextmanager
def scraped(metrics: bytes) -> Iterator[int]:
    """A server that has figures; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(metrics)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


PUBLISHED = Path(__file__).parent / "configs" / "llama-3.1-8b.json"


@pytest.mark.parametrize(
    ("config", "budget", "said"),
    [
        # Keys and values, 32 layers, 8 heads x 128: 65,536 numbers a token. In float32, as on a
        # CPU, two such contexts fill 4 GiB.
        (
            {"dtype": "float32"},
            "4096",
            (
                "262,144 bytes a token, 2,048 MiB for 8,192 tokens: 2 such contexts fit "
                "cache_budget_mb = 4,096"
            ),
        ),
        ({"dtype": "float32"}, "2047", "raise cache_budget_mb"),
        ({"dtype": "float32"}, "0", "2 such contexts fit cache_budget_mb = 4,096"),
        ({"model_type": "unheard-of"}, "4096", "measured only when it is loaded"),
    ],
)
def test_doctor_says_how_many_conversations_fit(
    cli: CliRunner, tmp_path: Path, config: dict[str, object], budget: str, said: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    (tmp_path / "model" / "config.json").write_text(
        json.dumps(json.loads(PUBLISHED.read_text()) | config)
    )

    assert (
        said
        in cli.invoke(main, ["doctor", "--model", "./model", "--cache-budget-mb", budget]).output
    )


@pytest.mark.parametrize(
    ("changed", "kv_bits", "said"),
    [
        # On a CPU numbers have 32 bits, and so have the scales: 64 numbers of 8 bits take 9 each.
        (
            {"dtype": "float32"},
            "8",
            "73,728 bytes a token, 576 MiB for 8,192 tokens: 7 such contexts",
        ),
        (
            {"dtype": "float32"},
            "4",
            "40,960 bytes a token, 320 MiB for 8,192 tokens: 12 such contexts",
        ),
        ({"head_dim": 80}, "8", "this model's have 80: set kv_bits = 16"),
    ],
)
def test_doctor_counts_the_bits_of_keys_and_values(
    cli: CliRunner, tmp_path: Path, changed: dict[str, object], kv_bits: str, said: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    (tmp_path / "model" / "config.json").write_text(
        json.dumps(json.loads(PUBLISHED.read_text()) | changed)
    )

    assert (
        said
        in cli.invoke(
            main,
            ["doctor", "--model", "./model", "--cache-budget-mb", "4096", "--kv-bits", kv_bits],
        ).output
    )


@pytest.mark.parametrize("kv_bits", ["0", "5", "32"])
def test_bits_that_do_not_exist_are_refused_with_those_that_do(
    cli: CliRunner, kv_bits: str
) -> None:
    refused = cli.invoke(main, ["doctor", "--kv-bits", kv_bits])

    assert refused.exit_code != 0
    assert f"kv_bits: {kv_bits} is none of 16, 8, 4" in refused.output


@pytest.mark.parametrize("size", ["0", "16", "100", "2048"])
def test_sizes_of_blocks_that_do_not_exist_are_refused_with_those_that_do(
    cli: CliRunner, size: str
) -> None:
    refused = cli.invoke(main, ["doctor", "--block-tokens", size])

    assert refused.exit_code != 0
    assert f"block_tokens: {size} is none of 64, 128, 256, 512, 1024" in refused.output


def test_doctor_says_nothing_of_a_model_that_is_not_here(cli: CliRunner) -> None:
    assert "memory" not in cli.invoke(main, ["doctor", "--model", "./nowhere"]).output


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelNotFoundError("x", "gone"), ExitCode.MODEL_NOT_FOUND, "model: x (gone)"),
        (InvalidRequestError("is wrong", field="port"), ExitCode.USAGE, "port: is wrong"),
        (PermissionError("cache_dir: no"), ExitCode.DIRECTORY_UNWRITABLE, "cache_dir: no"),
        (
            OSError(98, "cannot listen on here:1: Address already in use"),
            ExitCode.ADDRESS_UNAVAILABLE,
            "cannot listen on here:1: Address already in use",
        ),
    ],
)
def test_a_fault_we_know_is_one_line_and_a_code_also_from_a_nursery(
    error: Exception, code: ExitCode, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for raised in (error, ExceptionGroup("nursery", [ExceptionGroup("inner", [error])])):
        with pytest.raises(SystemExit) as ended, known_ends():
            raise raised
        assert ended.value.code == code
        assert capsys.readouterr().err == f"semantic-trio: {line}\n"


def test_a_dead_engine_leaves_without_the_interpreters_own_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    with pytest.raises(SystemExit), known_ends():
        raise EngineDeadError("three in a row")

    assert codes == [ExitCode.ENGINE_DIED]


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), known_ends():
        _ = 1 // 0


@pytest.fixture
def _restored_logging() -> object:
    yield
    structlog.reset_defaults()
    stdlib_logging.basicConfig(handlers=[], force=True)


@pytest.mark.usefixtures("_restored_logging")
def test_json_logs_are_one_object_per_line_with_what_was_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.configure(LogFormat.JSON, LogLevel.INFO)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("test").info("hello", answer=42)
        stdlib_logging.getLogger("library").warning("theirs")
    structlog.get_logger("test").debug("too quiet")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    assert [line["event"] for line in lines] == ["hello", "theirs"]
    assert lines[0]["answer"] == 42
    assert all(line["request_id"] == "r1" for line in lines)


@pytest.mark.usefixtures("_restored_logging")
@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.CONSOLE])
def test_a_logged_exception_shows_no_local_variables(
    capsys: pytest.CaptureFixture[str], log_format: LogFormat
) -> None:
    logging.configure(log_format, LogLevel.INFO)
    prompt = "".join(["my ", "private ", "prompt"])
    try:
        _ = len(prompt) // 0
    except ZeroDivisionError:
        structlog.get_logger("test").exception("failed")
    shown = capsys.readouterr().err

    assert "ZeroDivisionError" in shown
    assert "my private prompt" not in shown
