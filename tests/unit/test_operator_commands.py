"""The commands that have a running server do something: `cache evict` and `drain`."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from semantic_trio.entrypoints.cli import main
from semantic_trio.entrypoints.exits import ExitCode
from tests.unit.cache_commands import Cache, held
from tests.unit.test_cache_cli_agents import a_server

EVICTED = json.dumps({"freed_bytes": 3 << 20, "used_bytes": 1024, "unwritten_bytes": 0}).encode()
DRAINING = json.dumps({"running": 1, "waiting": 2, "timeout_seconds": 30.0}).encode()
COMMANDS = {
    "/admin/cache/evict": (["cache", "evict"], 200, EVICTED),
    "/admin/drain": (["drain"], 202, DRAINING),
}
each_command = pytest.mark.parametrize("path", COMMANDS)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """The cache directory that the settings name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEMANTIC_CACHE_DIR", str(tmp_path / "cache"))
    return Cache(tmp_path / "cache")


def run(path: str, *more: str) -> Result:
    return CliRunner().invoke(main, [*COMMANDS[path][0], *more])


@each_command
def test_the_server_that_works_with_the_cache_directory_is_found(
    path: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMANTIC_API_KEY", "hush")
    with a_server(*COMMANDS[path][1:]) as (url, asked), held(cache, f"pid 7, org/tiny on {url}"):
        result = run(path)

    assert result.exit_code == ExitCode.OK, result.stderr
    assert [(asked_path, headers["x-api-key"]) for asked_path, headers, _ in asked] == [
        (path, "hush")
    ]


@each_command
def test_a_server_without_a_cache_directory_is_found_by_its_address(
    path: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_server(*COMMANDS[path][1:]) as (url, asked):
        monkeypatch.setenv("SEMANTIC_PORT", str(urlsplit(url).port))
        result = run(path)

    assert result.exit_code == ExitCode.OK, result.stderr
    assert [asked_path for asked_path, _, _ in asked] == [path]


@each_command
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_server_can_be_named(path: str, scheme: str, cache: Cache) -> None:
    with (
        a_server(*COMMANDS[path][1:]) as (url, asked),
        held(cache, "pid 7, org/tiny on http://127.0.0.1:9"),
    ):
        result = run(path, "--url", url.replace("http://", scheme))

    assert result.exit_code == ExitCode.OK, result.stderr
    assert [asked_path for asked_path, _, _ in asked] == [path]


def test_evict_prints_what_was_freed_and_what_is_left(cache: Cache) -> None:
    with a_server(200, EVICTED) as (url, _):
        lines = run("/admin/cache/evict", "--url", url).output.splitlines()

    assert lines == ["freed            3.0 MiB", "in use           1.0 KiB", "not on disk yet  0 B"]


def test_drain_prints_what_still_runs(cache: Cache) -> None:
    with a_server(202, DRAINING) as (url, _):
        lines = run("/admin/drain", "--url", url).output.splitlines()

    assert lines[:3] == [f"server     {url}", "running    1 request", "waiting    2 requests"]
    assert lines[3].startswith("time left  30 s at most")


@each_command
@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (401, b'{"error": {"message": "no"}}', "wants another API key: set SEMANTIC_API_KEY"),
        (403, b'{"error": {"message": "not from there"}}', "says: not from there"),
        (404, b"<html>", "no semantic-trio answers at"),
        (200, b"{}", "no semantic-trio answers at"),
    ],
)
def test_a_refusal_is_one_line_and_a_code(
    path: str, status: int, answer: bytes, said: str, cache: Cache
) -> None:
    with a_server(status, answer) as (url, _):
        result = run(path, "--url", url)

    assert result.exit_code == ExitCode.USAGE
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@each_command
def test_without_a_server_there_is_one_line_and_a_code(path: str, cache: Cache) -> None:
    with held(cache, "pid 7, org/tiny on http://127.0.0.1:9"):
        result = run(path)

    assert result.exit_code == ExitCode.USAGE
    assert "no semantic-trio answers at http://127.0.0.1:9" in result.stderr
    assert result.stderr.count("\n") == 1


CHANGED = json.dumps({"model": "org/small", "seconds": 2.04, "bytes": 3 << 30}).encode()
ALIASES = json.dumps({"aliases": {"fast": "org/small"}}).encode()


@pytest.mark.parametrize("action", ["load", "unload", "swap"])
def test_models_of_the_running_server_change(
    action: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMANTIC_API_KEY", "hush")
    with a_server(200, CHANGED) as (url, asked), held(cache, f"pid 7, org/tiny on {url}"):
        result = CliRunner().invoke(main, ["models", action, "org/small"])

    assert result.output.splitlines() == ["model   org/small", "took    2.0 s", "memory  3.0 GiB"]
    [(path, headers, size)] = asked
    assert (path, headers["x-api-key"], size) == (
        f"/admin/models/{action}",
        "hush",
        len(b'{"model":"org/small"}'),
    )


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        ([], "/admin/models/aliases", b""),
        (["fast", "org/small"], "/admin/models/aliases", b'{"alias":"fast","model":"org/small"}'),
        (["a/b", "--remove"], "/admin/models/aliases/a%2Fb", b""),
    ],
)
def test_aliases_of_the_running_server_change(
    arguments: list[str], path: str, body: bytes, cache: Cache
) -> None:
    with a_server(200, ALIASES) as (url, asked):
        result = CliRunner().invoke(main, ["models", "alias", *arguments, "--url", url])

    assert result.output.split() == ["fast", "org/small"]
    [(asked_path, _, size)] = asked
    assert (asked_path, size) == (path, len(body))


@pytest.mark.parametrize("arguments", [["fast"], ["--remove"], ["fast", "org/small", "--remove"]])
def test_half_an_alias_is_a_mistake(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, ["models", "alias", *arguments]).exit_code == ExitCode.USAGE


@pytest.mark.parametrize("action", ["load", "unload", "swap"])
def test_a_change_of_models_that_is_refused_is_one_line(action: str, cache: Cache) -> None:
    with a_server(404, b'{"error": {"message": "no such model"}}') as (url, _):
        result = CliRunner().invoke(main, ["models", action, "gone", "--url", url])

    assert result.exit_code == ExitCode.USAGE
    assert result.stderr == f"semantic-trio: url: {url} says: no such model\n"
