"""Files that describe the server to launchd and systemd say what was asked for, whatever stands in
paths and values.
"""

import configparser
import io
import os
import plistlib
import shutil
import stat
import subprocess
from pathlib import Path

import attrs
import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.ending import longest_end_seconds
from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.options import as_arguments, from_arguments
from semantic_trio.entrypoints.service import environment, plist, unit
from semantic_trio.entrypoints.service.files import PRIVATE, read, write
from semantic_trio.entrypoints.service.plan import SERVE, Plan, left_behind, make_plan
from semantic_trio.entrypoints.settings import Settings

HARD = [
    "a b",
    "50%",
    "100%%",
    "%h",
    '"quoted"',
    "it's",
    "back\\slash",
    "ends\\",
    "$HOME",
    "${HOME}",
    "$$",
    "#x",
    ";",
    "ü",
    "",
    "-x",
    "a=b",
    "~",
]
PRINTABLE = st.text().filter(str.isprintable)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEMANTIC_DATA_DIR", str(tmp_path / "data"))


def plan(*arguments: str, directory: Path = Path('/srv/my 50% "home"')) -> Plan:
    return Plan((*SERVE, *arguments), directory, 67, Settings())


def parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_the_property_list_has_what_launchd_needs() -> None:
    content = plistlib.loads(plist.render(plan("--model", "a b"), Path("/logs/output.log")))

    assert content == {
        "Label": "com.semantic.server",
        "ProgramArguments": [*SERVE, "--model", "a b"],
        "WorkingDirectory": '/srv/my 50% "home"',
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 30,
        "ExitTimeOut": 67,
        "ProcessType": "Interactive",
        "Umask": 0o077,
        "StandardOutPath": "/logs/output.log",
        "StandardErrorPath": "/logs/output.log",
    }


def test_the_unit_has_what_systemd_needs() -> None:
    found = parsed(unit.render(plan("--model", "tiny-random", directory=Path("/srv/home"))))

    assert dict(found["Service"]) == {
        "Type": "simple",
        "ExecStart": f":{SERVE[0]} -m semantic_trio serve --model tiny-random",
        "WorkingDirectory": "/srv/home",
        "EnvironmentFile": "-/srv/home/.env",
        "UMask": "0077",
        "Restart": "on-failure",
        "RestartSec": "5",
        "RestartPreventExitStatus": "2 3 5",
        "SuccessExitStatus": "130 143",
        "KillSignal": "SIGTERM",
        "KillMode": "mixed",
        "TimeoutStopSec": "67",
        "StandardOutput": "journal",
        "StandardError": "journal",
    }
    assert dict(found["Unit"])["StartLimitBurst"] == "5"
    assert dict(found["Install"]) == {"WantedBy": "default.target"}


def test_an_end_that_a_new_start_may_mend_is_followed_by_one() -> None:
    assert set(ExitCode) - set(unit.FINAL) == {
        ExitCode.OK,
        ExitCode.ENGINE_DIED,
        ExitCode.ADDRESS_UNAVAILABLE,
    }


@pytest.mark.parametrize("hard", HARD)
def test_a_hard_argument_comes_back_from_both_files(hard: str) -> None:
    wanted = plan("--model", hard)

    assert unit.command(unit.render(wanted)) == list(wanted.command)
    assert plist.command(plist.render(wanted, Path("/x"))) == list(wanted.command)


@given(PRINTABLE)
def test_any_printable_argument_comes_back_from_a_unit(text: str) -> None:
    assert unit.command(unit.render(plan(text))) == [*SERVE, text]


def test_specifiers_of_systemd_are_escaped_in_arguments_and_paths() -> None:
    text = unit.render(plan("--model", "/m/%h"))

    assert "serve --model /m/%%h\n" in text
    assert 'WorkingDirectory=/srv/my 50%% "home"\n' in text
    assert 'EnvironmentFile=-/srv/my 50%% "home"/.env\n' in text


@pytest.mark.parametrize("bad", ["two\nlines", "tab\t", "\x1b"])
def test_control_characters_are_refused_in_a_unit(bad: str) -> None:
    with pytest.raises(InvalidRequestError, match="control characters"):
        unit.render(plan(bad))


def faults(directory: Path, text: str) -> str:
    """Faults that systemd finds with a unit; empty: none."""
    file = directory / unit.NAME
    file.write_text(text)
    (directory / "runtime").mkdir(mode=0o700, exist_ok=True)
    environment = {
        "HOME": str(directory),
        "XDG_RUNTIME_DIR": str(directory / "runtime"),
        "PATH": os.environ["PATH"],
    }
    command = ["systemd-analyze", "verify", "--user", "--man=no", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = [line for line in done.stderr.splitlines() if unit.NAME in line]
    return "\n".join(found) or (f"exit code {done.returncode}" if done.returncode else "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_no_fault_with_a_unit_of_hard_arguments(tmp_path: Path) -> None:
    if problem := faults(tmp_path, "[Service]\nExecStart=/bin/sh\n"):
        pytest.skip(f"systemd-analyze cannot verify any unit here: {problem}")
    text = unit.render(plan(*HARD, directory=tmp_path))

    assert faults(tmp_path, text) == ""
    assert faults(tmp_path, text.replace("-m semantic_trio", '-m "semantic_trio')) != ""


@pytest.mark.parametrize("value", [value for value in HARD if "${" not in value])
def test_a_hard_value_comes_back_from_the_environment_file(value: str) -> None:
    text = environment.updated("", {"SEMANTIC_API_KEY": value})

    assert dotenv_values(stream=io.StringIO(text)) == {"SEMANTIC_API_KEY": value}


@pytest.mark.parametrize("value", ["two\nlines", "tab\t", "${HOME}"])
def test_a_value_that_would_be_read_as_another_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError, match="SEMANTIC_API_KEY: its value cannot be written"):
        environment.updated("", {"SEMANTIC_API_KEY": value})


def test_what_else_stands_in_the_environment_file_is_kept() -> None:
    text = environment.updated("# mine\nHF_TOKEN=t\nSEMANTIC_PORT=1\n", {"SEMANTIC_PORT": "2"})

    assert text == '# mine\nHF_TOKEN=t\nSEMANTIC_PORT="2"\n'
    assert environment.updated(text, {"SEMANTIC_PORT": "2"}) == text


def test_a_private_file_is_private_from_the_start_and_when_it_was_not(tmp_path: Path) -> None:
    file = tmp_path / "new" / ".env"
    write(file, "a", PRIVATE)
    file.chmod(0o644)
    write(file, "b", PRIVATE)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (
        read(file),
        read(tmp_path / "absent"),
        [path.name for path in file.parent.iterdir()],
    ) == ("b", "", [".env"])


def test_a_file_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff")

    with pytest.raises(PermissionError, match="cannot be written to"):
        write(tmp_path / "file" / "x", "", PRIVATE)
    with pytest.raises(PermissionError, match="it is no text"):
        read(tmp_path / "file")


def test_options_come_back_from_their_arguments() -> None:
    options = {
        "port": "9",
        "model_id": "a b",
        "allow_remote": True,
        "log_prompts": False,
        "api_key_file": "-x",
    }

    assert from_arguments(list(as_arguments(options))) == (None, options)
    assert from_arguments(["--config", "/x.toml"]) == (Path("/x.toml"), {})


def test_a_plan_has_absolute_paths_and_no_secret_in_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMANTIC_CACHE_DIR", "cache")
    monkeypatch.setenv("SEMANTIC_QUEUE_LIMIT", "7")
    (tmp_path / "model").mkdir()
    (tmp_path / "my.toml").write_text("[semantic]\nmax_batch_size = 3\n")
    options = {
        "model_id": "./model",
        "api_key": "hush",
        "api_key_file": None,
        "responses_url": "sqlite:///x?p=hush",
        "log_prompts": False,
    }

    made = make_plan(Path("my.toml"), options, tmp_path / "service", None)

    here = Path.cwd()
    assert made.command == (
        *SERVE,
        "--config",
        str(here / "my.toml"),
        "--model",
        str(here / "model"),
        "--no-log-prompts",
    )
    assert made.variables == {
        "SEMANTIC_DATA_DIR": str(tmp_path / "data"),
        "SEMANTIC_CACHE_DIR": str(here / "cache"),
        "SEMANTIC_QUEUE_LIMIT": "7",
        "SEMANTIC_API_KEY": "hush",
        "SEMANTIC_RESPONSES_URL": "sqlite:///x?p=hush",
    }
    assert (made.settings.max_batch_size, made.settings.key) == (3, "hush")


def test_directories_that_follow_the_shell_are_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEMANTIC_DATA_DIR")

    made = make_plan(None, {}, tmp_path, None)

    assert made.variables == {
        f"SEMANTIC_{name.upper()}": str(getattr(Settings(), name))
        for name in ("data_dir", "cache_dir")
    }


@pytest.mark.parametrize(
    ("options", "wanted"), [({}, "/logs/server.log"), ({"log_file": "/mine"}, "/mine")]
)
def test_a_log_file_is_given_where_none_is_set(
    tmp_path: Path, options: dict[str, object], wanted: str
) -> None:
    made = make_plan(None, options, tmp_path, Path("/logs/server.log"))

    assert made.command == (*SERVE, "--log-file", wanted)
    assert made.settings.log_file == Path(wanted)


def test_settings_of_files_that_the_service_does_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SEMANTIC_PORT=9\nSEMANTIC_QUEUE_LIMIT=64\n")
    options = {"max_batch_size": "2"}

    assert list(
        left_behind(None, options, make_plan(None, options, tmp_path / "service", None))
    ) == [("port", ".env")]


def test_the_service_manager_waits_longer_than_any_end_of_the_server_takes() -> None:
    """Longer than the drain, the connections with the slowest reader, and what memory gets in any
    case.
    """
    settings = attrs.evolve(Settings(), shutdown_timeout_seconds=100.5, write_timeout_seconds=20.0)

    assert longest_end_seconds(settings) == 101 + 2 + 20 + 5 + 2 * 5 + 10


def test_directories_of_models_are_absolute_in_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service works in another directory than the shell that installs it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    monkeypatch.setenv("SEMANTIC_ALIASES", "haiku=./small, x=org/other")
    plan = make_plan(
        None, {"model_id": "tiny-random", "models": "small, org/other,"}, tmp_path / "service", None
    )

    assert plan.command[-2:] == ("--models", f"{tmp_path}/small,org/other")
    assert plan.variables["SEMANTIC_ALIASES"] == f"haiku={tmp_path}/small,x=org/other"
