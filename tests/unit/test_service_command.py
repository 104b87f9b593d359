"""`semantic-trio service`, against small programs in the places of `systemctl`, `journalctl` and
`launchctl` that note what they are asked.
"""

import contextlib
import plistlib
import stat
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner, Result

from semantic_trio.entrypoints.cli import main
from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.service.launchd import Launchd
from semantic_trio.entrypoints.service.supervisor import Supervisor
from semantic_trio.entrypoints.service.systemd import Systemd

# Notes its arguments, and answers with what stands in files named after its subcommand: `CODE-show`
# is an exit code, `OUT-show` its output.
FAKE = """\
#!/bin/sh
here='{here}'
name=$(basename "$0")
echo "$name $*" >> "$here/calls"
[ "$1" = --user ] && shift
for seen in "$1" "$1-$(basename -- "$2")"; do
  [ -e "$here/OUT-$seen" ] && /bin/cat "$here/OUT-$seen"
  [ -e "$here/CODE-$seen" ] && code=$(/bin/cat "$here/CODE-$seen")
done
case $1 in
  bootstrap) echo > "$here/OUT-print-com.semantic.server"; echo 0 > "$here/CODE-print-com.semantic.server" ;;
  bootout) echo 113 > "$here/CODE-print-com.semantic.server" ;;
esac
exit ${{code:-0}}
"""


@attrs.define
class Machine:
    """A home with service managers that do nothing but take notes."""

    home: Path
    tools: Path
    supervisor: Supervisor

    def service(self, *arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(
            main, ["service", *arguments], obj=self.supervisor, env=environment
        )

    def answers(self, subcommand: str, text: str = "", code: int = 0) -> None:
        (self.tools / f"OUT-{subcommand}").write_text(text)
        (self.tools / f"CODE-{subcommand}").write_text(str(code))

    @property
    def calls(self) -> list[str]:
        file = self.tools / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def calls_of(self, *arguments: str) -> list[str]:
        before = len(self.calls)
        result = self.service(*arguments)
        assert result.exit_code == 0, result.output
        return self.calls[before:]

    @property
    def environment_file(self) -> Path:
        return self.supervisor.directory / ".env"


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A directory that looks like a model."""
    directory = tmp_path / "a model"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (directory / name).write_text("{}")
    return str(directory)


@contextlib.contextmanager
def machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervisor: Supervisor
) -> Iterator[Machine]:
    tools, home = tmp_path / "tools", tmp_path / "home"
    tools.mkdir()
    home.mkdir()
    for name in ("systemctl", "journalctl", "launchctl", "tail"):
        (tools / name).write_text(FAKE.format(here=tools))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SEMANTIC_DATA_DIR", str(home / "data"))
    monkeypatch.setenv("SEMANTIC_CACHE_DIR", str(home / "cache"))
    monkeypatch.chdir(home)
    made = Machine(home, tools, supervisor)
    made.answers("print-com.semantic.server", "Could not find service", 113)
    yield made


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with machine(
        tmp_path,
        monkeypatch,
        Systemd(tmp_path / "home/.config", tmp_path / "home/.config/semantic_trio/service"),
    ) as made:
        yield made


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with machine(
        tmp_path,
        monkeypatch,
        Launchd(tmp_path / "home", 501, tmp_path / "home/Library/Application Support/service"),
    ) as made:
        yield made


@pytest.fixture(params=["linux", "mac"])
def either(request: pytest.FixtureRequest) -> Machine:
    found: Machine = request.getfixturevalue(request.param)
    return found


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """A server that answers every GET so; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_install_writes_the_unit_and_starts_it(linux: Machine, model: str) -> None:
    result = linux.service("install", "--model", model, "--port", "8123")

    assert result.exit_code == 0, result.output
    assert f'serve --model "{model}" --port 8123\n' in linux.supervisor.file.read_text()
    assert linux.calls == [
        "systemctl --user show --property=Version",
        "systemctl --user daemon-reload",
        "systemctl --user enable semantic-trio.service",
        "systemctl --user reset-failed semantic-trio.service",
        "systemctl --user restart semantic-trio.service",
    ]
    for told in (
        str(linux.supervisor.file),
        str(linux.environment_file),
        "http://127.0.0.1:8123",
        "service logs -f",
        "enable-linger",
    ):
        assert told in result.output


def test_install_writes_the_agent_and_loads_it(mac: Machine, model: str) -> None:
    result = mac.service("install", "--model", model)

    assert result.exit_code == 0, result.output
    logs = mac.home / "Library/Logs/semantic_trio"
    agent = plistlib.loads(mac.supervisor.file.read_bytes())
    assert agent["ProgramArguments"][3:] == [
        "serve",
        "--model",
        model,
        "--log-file",
        str(logs / "server.log"),
    ]
    assert (agent["StandardErrorPath"], logs.is_dir()) == (str(logs / "output.log"), True)
    assert mac.calls == [
        "launchctl print gui/501",
        "launchctl print gui/501/com.semantic.server",
        "launchctl enable gui/501/com.semantic.server",
        f"launchctl bootstrap gui/501 {mac.supervisor.file}",
    ]


def test_install_again_ends_the_agent_that_is_loaded_before_it_loads_the_new_one(
    mac: Machine, model: str
) -> None:
    mac.service("install", "--model", model)
    mac.answers("bootout", "Boot-out failed: 36: Operation now in progress", 36)

    calls = mac.calls_of("install", "--model", model)

    assert calls[1:4] == [
        "launchctl print gui/501/com.semantic.server",
        "launchctl bootout gui/501/com.semantic.server",
        calls[1],
    ]
    assert calls[-1].startswith("launchctl bootstrap ")


def test_install_again_leaves_the_same_files(either: Machine, model: str) -> None:
    either.service("install", "--model", model, "--api-key", "hush")
    before = either.supervisor.file.read_text(), either.environment_file.read_text()

    assert either.service("install", "--model", model).exit_code == 0
    assert (either.supervisor.file.read_text(), either.environment_file.read_text()) == before


def test_a_key_is_in_the_private_file_alone(either: Machine, model: str) -> None:
    result = either.service(
        "install",
        "--model",
        model,
        "--api-key",
        "hush-1",
        SEMANTIC_RESPONSES_URL="sqlite:////hush-2",
    )

    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(either.environment_file.stat().st_mode) == 0o600
    assert 'SEMANTIC_API_KEY="hush-1"\n' in either.environment_file.read_text()
    assert "hush-2" in either.environment_file.read_text()
    assert "hush" not in either.supervisor.file.read_text() + result.output + "".join(either.calls)


def test_print_shows_the_file_and_changes_nothing(either: Machine, model: str) -> None:
    result = either.service("install", "--print", "--model", model, "--api-key", "hush")

    assert (
        either.supervisor.command(result.output)[-2:] == ["--model", model]
        or "--log-file" in result.output
    )
    assert "hush" not in result.output
    assert (either.calls, either.supervisor.file.exists(), either.environment_file.exists()) == (
        [],
        False,
        False,
    )


def test_settings_of_a_file_nearby_are_not_taken_along_silently(linux: Machine, model: str) -> None:
    (linux.home / ".env").write_text("SEMANTIC_QUEUE_LIMIT=7\n")

    result = linux.service("install", "--model", model)

    assert "queue_limit is set in .env, which the service does not read" in result.output


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (["--port", "0"], "port: 0 is another port after every start", ExitCode.USAGE),
        (["--allow-remote"], "needs an API key", ExitCode.USAGE),
        (["--queue-limit", "many"], "is no whole number", ExitCode.USAGE),
        (["--model", "/absent"], "no such directory", ExitCode.MODEL_NOT_FOUND),
    ],
)
def test_what_could_not_start_is_not_installed(
    either: Machine, model: str, arguments: list[str], told: str, code: ExitCode
) -> None:
    result = either.service("install", "--model", model, *arguments)

    assert (result.exit_code, told in result.output) == (code, True), result.output
    assert (either.supervisor.file.exists(), either.environment_file.exists()) == (False, False)


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_without_a_session_the_line_says_what_to_do(
    either: Machine, model: str, command: str
) -> None:
    for subcommand in ("show", "print"):
        either.answers(subcommand, "Failed to connect to bus", 1)

    result = either.service(command, *(["--model", model] if command == "install" else []))

    assert result.exit_code == ExitCode.USAGE
    assert "no session of this user (" in result.output
    assert "log in" in result.output
    assert len(result.output.splitlines()) == 1
    assert not either.supervisor.file.exists()


@pytest.mark.parametrize("name", ["systemctl", "launchctl"])
def test_without_the_program_the_line_says_so(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, model: str, name: str
) -> None:
    found: Machine = request.getfixturevalue("linux" if name == "systemctl" else "mac")
    monkeypatch.setenv("PATH", str(found.home))

    result = found.service("install", "--model", model)

    assert result.exit_code == ExitCode.USAGE
    assert f"{name} is not on the PATH: " in result.output
    assert "service install --print" in result.output


def test_a_service_manager_that_refuses_is_quoted(linux: Machine, model: str) -> None:
    linux.answers("restart", "Job failed. See the journal.", 1)

    result = linux.service("install", "--model", model)

    assert (
        result.exit_code,
        "`systemctl --user restart semantic-trio.service` failed: Job failed." in result.output,
    ) == (ExitCode.USAGE, True)


def test_a_launchd_that_does_not_let_go_is_quoted(mac: Machine, model: str) -> None:
    mac.service("install", "--model", model)
    mac.answers("bootout", "Boot-out failed: 1: Operation not permitted", 1)

    result = mac.service("uninstall")

    assert (
        result.exit_code,
        "Operation not permitted" in result.output,
        mac.supervisor.file.exists(),
    ) == (ExitCode.USAGE, True, True)


def test_uninstall_ends_the_server_and_removes_its_file(either: Machine, model: str) -> None:
    either.service("install", "--model", model, "--api-key", "hush")

    calls = either.calls_of("uninstall")

    ends = {
        "systemctl --user disable --now semantic-trio.service",
        "launchctl bootout gui/501/com.semantic.server",
    }
    assert len(ends & set(calls)) == 1
    assert not either.supervisor.file.exists()
    assert either.environment_file.exists()
    assert "nothing to remove" in either.service("uninstall").output


@pytest.mark.parametrize(
    ("status", "body", "told", "code"),
    [
        (200, b'{"status": "ok", "state": "running"}', "ready    yes", 0),
        (503, b'{"status": "unavailable", "state": "draining"}', "ready    no: draining", 1),
        (200, b"something else", "ready    no (", 1),
    ],
)
def test_status_says_whether_the_server_is_ready(
    either: Machine, model: str, status: int, body: bytes, told: str, code: int
) -> None:
    with answering(status, body) as port:
        either.service("install", "--model", model, SEMANTIC_PORT=str(port))
        either.answers("show", "MainPID=4711\nExecMainCode=0\nExecMainStatus=0\n")
        either.answers(
            "print-com.semantic.server",
            "gui/501/com.semantic.server = {\n\tpid = 4711\n\tlast exit code = (never exited)\n}\n",
        )

        result = either.service("status", SEMANTIC_PORT="1")

    assert "service  running, pid 4711" in result.output
    assert f"http://127.0.0.1:{port}" in result.output
    assert told in result.output
    assert result.exit_code == code


@pytest.mark.parametrize(
    ("systemd", "launchd", "told"),
    [
        (
            "MainPID=0\nExecMainCode=1\nExecMainStatus=3\n",
            "\tlast exit code = 3\n",
            "not running; it ended with exit code 3 (model not found)",
        ),
        (
            "MainPID=0\nExecMainCode=1\nExecMainStatus=77\n",
            "\tlast exit code = 77\n",
            "not running; it ended with exit code 77\n",
        ),
        (
            "MainPID=0\nExecMainCode=2\nExecMainStatus=9\n",
            "\tlast terminating signal = 9\n",
            "not running; it ended with signal 9\n",
        ),
        (
            "MainPID=0\nExecMainCode=0\nExecMainStatus=0\n",
            "\tlast exit code = (never exited)\n",
            "not running\n",
        ),
    ],
)
def test_status_says_how_the_server_ended(
    either: Machine, model: str, systemd: str, launchd: str, told: str
) -> None:
    with answering(200, b'{"state": "running"}') as port:
        either.service("install", "--model", model, "--port", str(port))
        either.answers("show", systemd)
        either.answers("print-com.semantic.server", launchd)

        result = either.service("status")

    assert told in result.output
    assert result.exit_code == 1


def test_logs_are_those_of_the_service(either: Machine, model: str) -> None:
    either.service("install", "--model", model)
    logs = either.home / "Library/Logs/semantic_trio"

    last = {
        f"tail -n 7 -F {logs / 'output.log'} {logs / 'server.log'}",
        "journalctl --user --unit semantic-trio.service --lines 7 --output cat --no-pager --follow",
    }
    assert either.calls_of("logs", "-n", "7", "-f")[-1] in last
    assert "50" in either.calls_of("logs")[-1].split()


def test_a_setting_that_cannot_be_is_named_by_status_and_keeps_nobody_from_the_logs(
    either: Machine, model: str
) -> None:
    either.service("install", "--model", model)
    with either.environment_file.open("a") as file:
        file.write("SEMANTIC_QUEUE_LIMIT=many\n")

    status = either.service("status")

    assert (status.exit_code, "queue_limit: 'many' is no whole number (.env)" in status.output) == (
        ExitCode.USAGE,
        True,
    )
    assert either.service("logs").exit_code == 0


@pytest.mark.parametrize("command", ["status", "logs"])
def test_what_is_not_installed_has_neither_status_nor_logs(either: Machine, command: str) -> None:
    result = either.service(command)

    assert result.exit_code == ExitCode.USAGE
    assert "not installed: semantic-trio service install" in result.output


@pytest.mark.skipif(sys.platform == "darwin", reason="launchd is there")
def test_the_service_manager_is_that_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(main, ["service", "install", "--print"])

    assert f"WorkingDirectory={tmp_path}/semantic_trio/service\n" in result.output
    assert list(tmp_path.iterdir()) == []
