"""The commands that carry agents about, and faults of all commands on the cache."""

import contextlib
import io
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import attrs
import pytest
import structlog

from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints import sending
from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.printing import human
from tests.unit.cache_commands import ONE, TWO, Cache, damage, held, tokens_here


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    monkeypatch.chdir(tmp_path)
    yield Cache(tmp_path / "cache")
    structlog.reset_defaults()
    logging.basicConfig(handlers=[], force=True)


# ------------------------------------------------------------------------------------------- agents


def test_agents_are_listed_in_the_order_of_their_use(cache: Cache) -> None:
    for used, agent in [(3, "c"), (1, "a"), (2, "b")]:
        cache.remember(agent, used)

    rows = [line.split() for line in cache.run("agents", "ls").output.splitlines()]

    assert [row[0] for row in rows] == ["a", "b", "c"]
    assert rows[0][1:6] == ["org/tiny", "522", "tokens", "3", "turns"]


def test_an_agent_is_shown_but_not_what_it_said(cache: Cache) -> None:
    cache.remember("ada", 1, parent="mother")
    cache.paths("blocks/*/*.safetensors")[0].unlink()

    facts = cache.facts("agents", "show", "ada")

    assert (facts["tokens"], facts["turns"], facts["parent"], facts["pinned"]) == (
        "522",
        "3",
        "mother",
        "no",
    )
    assert facts["blocks"] == "2 of 3 are here"


def test_an_agent_of_two_models_has_to_be_told_apart(cache: Cache) -> None:
    cache.remember("ada", 1)
    cache.remember("ada", 1, TWO, "another")

    either = cache.run("agents", "show", "ada")

    assert either.exit_code == ExitCode.USAGE
    assert (
        "another (cdcdcdcdcdcd), org/tiny (abababababab): say which, with --model" in either.stderr
    )
    assert cache.facts("agents", "show", "ada", "--model", "another")["model"] == "another"
    assert cache.facts("agents", "show", "ada", "--model", ONE[:6])["model"] == "org/tiny"


@pytest.mark.parametrize(
    "arguments",
    [("show", "nobody"), ("export", "nobody", "file"), ("show", "../x"), ("import", "no-archive")],
)
def test_what_is_not_there_is_one_line_and_a_code(cache: Cache, arguments: tuple[str, ...]) -> None:
    cache.remember("ada", 1)
    Path("no-archive").write_bytes(b"?" * 1000)

    result = cache.run("agents", *arguments)

    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.count("\n") == 1
    assert not Path("file").exists()


def test_a_damaged_record_is_told(cache: Cache) -> None:
    cache.remember("ada", 1)
    damage(cache.paths("agents/*.safetensors")[0])
    cache.files().write(Item(Kind.BLOCK, bytes(32)), {})

    result = cache.run("agents", "show", "ada")

    assert result.exit_code == ExitCode.USAGE
    assert "the record of ada" in result.stderr


@pytest.mark.parametrize("trust", ["agent", "shared"])
def test_an_agent_is_carried_to_another_directory(
    cache: Cache, tmp_path: Path, trust: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMANTIC_IMPORT_TRUST", trust)
    record = cache.remember("ada", 5)
    other = Cache(tmp_path / "other")
    other.remember("eve", 9)

    with held(cache):
        exported = cache.facts("agents", "export", "ada", "ada.tar")
    imported = other.facts("agents", "import", "ada.tar")

    assert (exported["agent"], exported["model"]) == ("ada", "org/tiny")
    assert Path("ada.tar").stat().st_mode & 0o777 == 0o600
    assert (imported["agent"], imported["tokens"]) == ("ada", "522")
    assert [found.id for found in other.files().agents()] == ["eve", "ada"], "it was used last"
    [_, there] = other.files().agents()
    assert attrs.evolve(there, salt=record.salt, chain=record.chain) == attrs.evolve(
        record, used=10
    )
    assert bool(there.salt) == (trust == "agent")
    assert other.facts("agents", "show", "ada")["shares"] == (
        "no: its blocks have a salt of their own" if there.salt else "yes"
    )
    assert (
        other.facts("agents", "show", "ada")["blocks"]
        == cache.facts("agents", "show", "ada")["blocks"]
    )
    assert tokens_here(other, "ada") == 522
    assert other.run("cache", "verify").exit_code == 0


def test_an_agent_comes_to_a_machine_where_its_model_has_not_run_yet(
    cache: Cache, tmp_path: Path
) -> None:
    cache.remember("ada", 1)
    cache.run("agents", "export", "ada", "ada.tar")
    other = Cache(tmp_path / "other")

    other.facts("agents", "import", "ada.tar", "--as", "eve")

    assert other.facts("agents", "show", "eve")["model"] == "org/tiny"


def test_an_agent_that_exists_is_not_replaced(cache: Cache) -> None:
    cache.remember("ada", 1)
    cache.run("agents", "export", "ada", "ada.tar")

    refused = cache.run("agents", "import", "ada.tar")

    assert refused.exit_code == ExitCode.USAGE
    assert refused.stderr == "semantic-trio: an agent ada exists\n"
    assert cache.facts("agents", "import", "ada.tar", "--as", "second")["agent"] == "second"


def test_an_archive_of_another_model_than_is_wanted_is_refused(
    cache: Cache, tmp_path: Path
) -> None:
    cache.remember("ada", 1)
    cache.run("agents", "export", "ada", "ada.tar")

    refused = Cache(tmp_path / "other").run("agents", "import", "ada.tar", "--model", "another")

    assert refused.exit_code == ExitCode.USAGE
    assert "is of model org/tiny (abababababab), and not of another" in refused.stderr


@contextlib.contextmanager
def a_server(
    status: int, answer: bytes
) -> Iterator[tuple[str, list[tuple[str, dict[str, str], int]]]]:
    """Answers one way, whatever it is asked; and what it was asked."""
    asked: list[tuple[str, dict[str, str], int]] = []
    asked_enough = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = (
                self.rfile.read(int(self.headers["content-length"] or 0))
                if status in {200, 201}
                else b""
            )
            asked.append(
                (
                    self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                    len(body),
                )
            )
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            asked_enough.wait(10 if status == 409 else 0)  # without reading what is sent

        do_GET = do_PUT = do_DELETE = do_POST  # noqa: N815 - as the library names them

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            asked_enough.set()
            server.shutdown()
            thread.join()


def test_a_server_that_has_the_directory_is_sent_the_agent(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.remember("ada", 1)
    cache.run("agents", "export", "ada", "ada.tar")
    monkeypatch.setenv("SEMANTIC_API_KEY", "hush")

    with (
        a_server(201, b'{"id": "eve", "model": "org/tiny", "tokens": 522}') as (url, asked),
        held(cache, f"pid 7, org/tiny on {url}"),
    ):
        facts = cache.facts("agents", "import", "ada.tar", "--as", "eve")

    [(path, headers, size)] = asked
    assert (path, headers["x-api-key"], size) == (
        "/v1/agents/eve/import",
        "hush",
        Path("ada.tar").stat().st_size,
    )
    assert (facts["agent"], facts["tokens"], facts["known"]) == ("eve", "522", f"now, at {url}")


def test_what_the_server_says_against_it_is_told_also_when_it_says_so_early(cache: Cache) -> None:
    cache.remember("ada", 1)
    cache.run("agents", "export", "ada", "ada.tar")

    with (
        a_server(409, b'{"error": {"message": "an agent ada exists"}}') as (url, _),
        held(cache, f"pid 7, org/tiny on {url}"),
    ):
        result = cache.run("agents", "import", "ada.tar")

    assert result.exit_code == ExitCode.USAGE
    assert result.stderr == f"semantic-trio: agent: {url} says: an agent ada exists\n"


def test_a_refusal_that_comes_before_all_is_sent_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "ANSWER_SECONDS", 5.0)

    with (
        a_server(409, b'{"error": {"message": "an agent ada exists"}}') as (url, _),
        pytest.raises(InvalidRequestError, match="an agent ada exists"),
    ):
        sending.send_agent(url, "ada", io.BytesIO(bytes(64 << 20)), None)


@pytest.mark.parametrize(
    ("status", "said"), [(401, "wants another API key"), (500, "does not answer")]
)
def test_a_server_that_does_not_understand_is_told(cache: Cache, status: int, said: str) -> None:
    cache.remember("ada", 1)
    cache.run("agents", "export", "ada", "ada.tar")
    answer = b'{"error": {"message": "no"}}' if status == 401 else b"?"

    with a_server(status, answer) as (url, _), held(cache, f"pid 7, org/tiny on {url}"):
        assert said in cache.run("agents", "import", "ada.tar").stderr


@pytest.mark.parametrize(
    ("holder", "said"),
    [
        ("pid 7, semantic-trio cache prune", "is in use by pid 7"),
        ("on http://127.0.0.1:9", "does not answer"),
    ],
)
def test_where_no_server_answers_that_is_told(cache: Cache, holder: str, said: str) -> None:
    cache.remember("ada", 1)
    cache.run("agents", "export", "ada", "ada.tar")

    with held(cache, holder):
        result = cache.run("agents", "import", "ada.tar")

    assert result.exit_code == ExitCode.USAGE
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


# ----------------------------------------------------------------------------------------- and else


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_288_490_189, "1.2 GiB"),
        (1 << 45, "32.0 TiB"),
    ],
)
def test_bytes_are_told_as_people_say_them(size: int, said: str) -> None:
    assert human(size) == said


def test_a_directory_that_cannot_be_read_is_one_line_and_its_own_code(cache: Cache) -> None:
    cache.root.write_text("no directory")

    result = cache.run("cache", "prune")

    assert result.exit_code == ExitCode.DIRECTORY_UNWRITABLE
    assert result.stderr.count("\n") == 1


def test_the_commands_import_no_mlx() -> None:
    code = (
        "import sys, semantic_trio.entrypoints.cli as cli; cli.main(['cache', '--cache-dir', "
        "'nowhere', 'ls'], standalone_mode=False); "
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code + "sys.exit('mlx' in sys.modules or 'mlx.core' in sys.modules)",
        ],
        check=False,
    )

    assert done.returncode == 0
