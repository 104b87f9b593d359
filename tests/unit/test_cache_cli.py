"""The commands that look at what is on disk, tidy it up, and carry agents about."""

import contextlib
import errno
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
from click.testing import CliRunner, Result

from semantic_trio.adapters.disk import CacheDirectory, CacheLock, ModelFiles, held_by
from semantic_trio.adapters.disk.directory import to_be_given_up
from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun, pack, root_key
from semantic_trio.domain.content import AgentRecord, Item, Kind, Tensor
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.lineage import lineage
from semantic_trio.entrypoints import sending
from semantic_trio.entrypoints.cli import main
from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.printing import human

ONE, TWO = "ab" * 32, "cd" * 32
BLOCK_BYTES = 100_000
# Two blocks and a tail, of which the first block is shared.
HISTORIES = {
    "ada": pack([*range(256), *range(256), *range(10)]),
    "eve": pack([*range(256), *range(500, 800)]),
}


@attrs.define
class Cache:
    """A cache directory, and the commands on it."""

    root: Path

    def files(self, fingerprint: str = ONE, model: str = "org/tiny") -> ModelFiles:
        return ModelFiles(self.root, fingerprint, model)

    def remember(
        self, agent: str, used: int, fingerprint: str = ONE, model: str = "org/tiny", **more: object
    ) -> AgentRecord:
        """An agent with all its blocks."""
        run = TokenRun.of_packed(HISTORIES.get(agent, HISTORIES["ada"]), root_key(fingerprint), 256)
        flags = {
            "is_named": True,
            "is_kept": True,
            "is_pinned": False,
            "parent": None,
            "turns": 3,
            "prompt_tokens": 9,
            **more,
        }
        record = AgentRecord(id=agent, history=run.packed, used=used, chain=run.keys[-1], **flags)  # type: ignore[arg-type]
        files = self.files(fingerprint, model)
        for item in lineage(record, fingerprint):
            files.write(item, {"a": Tensor("U8", (BLOCK_BYTES,), memoryview(bytes(BLOCK_BYTES)))})
        files.write_agent(record)
        return record

    def paths(self, pattern: str) -> list[Path]:
        return sorted(path for path in self.root.rglob(pattern) if path.is_file())

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        group, *rest = arguments
        return CliRunner().invoke(main, [group, "--cache-dir", str(self.root), *rest], input=stdin)

    def facts(self, *arguments: str) -> dict[str, str]:
        """What a command says, by its name; the last of equal names."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output + result.stderr
        return dict(line.split(None, 1) for line in result.output.splitlines() if line.strip())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    monkeypatch.chdir(tmp_path)
    yield Cache(tmp_path / "cache")
    structlog.reset_defaults()
    logging.basicConfig(handlers=[], force=True)


@contextlib.contextmanager
def held(cache: Cache, holder: str = "pid 7, org/tiny on http://127.0.0.1:9") -> Iterator[None]:
    with CacheLock(cache.root, holder):
        yield


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


# ----------------------------------------------------------------------------------------------- ls


def test_a_directory_that_is_not_there_holds_nothing_and_is_not_made(cache: Cache) -> None:
    assert cache.facts("cache", "ls") == {
        "directory": str(cache.root),
        "quarantine": "0 files, 0 B",
        "in": "use by   nobody",
    }
    for command in (["cache", "verify"], ["agents", "ls"]):
        assert cache.run(*command).exit_code == 0
    assert cache.paths("*.safetensors") == []


def test_models_are_listed_with_what_they_have(cache: Cache) -> None:
    cache.remember("ada", 1)
    cache.remember("eve", 2)
    cache.remember("ada", 1, TWO, "another")

    lines = [line.split(None, 1) for line in cache.run("cache", "ls").output.splitlines()]

    assert [tuple(line) for line in lines[:6]] == [
        ("model", "another"), ("fingerprint", TWO[:12]), ("agents", "1"), ("blocks", "3"), ("marks", "0"), ("bytes", lines[5][1]),
    ]  # fmt: skip
    assert [line[1] for line in lines[7:12]] == ["org/tiny", ONE[:12], "2", "5", "0"]
    assert lines[5][1].endswith("KiB")


def test_who_holds_the_lock_is_named_as_long_as_it_does(cache: Cache) -> None:
    with held(cache):
        assert cache.facts("cache", "ls")["in"] == "use by   pid 7, org/tiny on http://127.0.0.1:9"
        (cache.root / "lock.holder").unlink()
        assert held_by(cache.root) == "another process"
    assert cache.facts("cache", "ls")["in"] == "use by   nobody"


def test_who_was_killed_holds_nothing(cache: Cache) -> None:
    cache.root.mkdir()
    (cache.root / "lock").touch()
    (cache.root / "lock.holder").write_text("pid 7")

    assert held_by(cache.root) is None


def test_to_ask_who_holds_the_lock_turns_nobody_away(cache: Cache) -> None:
    cache.root.mkdir()
    (cache.root / "lock").touch()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            held_by(cache.root)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(50):
            with held(cache):
                pass
    finally:
        stop.set()
        thread.join()


def test_a_model_whose_first_files_are_damaged_is_known_by_the_others(cache: Cache) -> None:
    cache.remember("ada", 1)
    for path in cache.paths("agents/*.safetensors"):
        damage(path)

    assert cache.facts("cache", "ls")["model"] == "org/tiny"


def test_a_model_without_a_whole_file_is_unknown(cache: Cache) -> None:
    cache.remember("ada", 1)
    for path in cache.paths("*.safetensors"):
        damage(path)

    facts = cache.facts("cache", "ls")

    assert (facts["model"], facts["fingerprint"]) == ("unknown", ONE[:12])


def test_what_a_file_says_is_not_acted_upon_by_a_terminal(cache: Cache) -> None:
    cache.remember("ada", 1, model="evil\x1b[2Jmodel")

    assert cache.facts("cache", "ls")["model"] == "evil?[2Jmodel"


# ------------------------------------------------------------------------------------------- verify


def test_what_is_whole_is_told_so(cache: Cache) -> None:
    cache.remember("ada", 1)

    assert cache.facts("cache", "verify") == {"read": "4 files", "damaged": "0 files"}


def test_what_is_damaged_is_told_and_put_aside(cache: Cache) -> None:
    cache.remember("ada", 1)
    files = [cache.paths("blocks/*/*.safetensors")[0], cache.paths("agents/*.safetensors")[0]]
    for path in files:
        damage(path)

    result = cache.run("cache", "verify")

    assert result.exit_code == 1
    told = [line for line in result.output.splitlines() if line.startswith("damaged  ")]
    assert [path.name in line for path, line in zip(files, told, strict=False)] == [True, True]
    assert all(line.endswith("; put aside") and "checksum" in line for line in told[:2])
    assert [path.exists() for path in files] == [False, False]
    assert len(cache.paths("quarantine/*.safetensors")) == 2
    assert cache.facts("cache", "verify")["damaged"] == "0 files"


def test_beside_a_server_it_only_tells(cache: Cache) -> None:
    cache.remember("ada", 1)
    path = cache.paths("blocks/*/*.safetensors")[0]
    damage(path)

    with held(cache):
        result = cache.run("cache", "verify")

    assert result.exit_code == 1
    assert "stays where it is, for pid 7" in result.output
    assert path.exists()


def test_a_file_under_anothers_name_is_damaged(cache: Cache) -> None:
    cache.remember("ada", 1)
    one, other, *_ = cache.paths("blocks/*/*.safetensors")
    one.write_bytes(other.read_bytes())

    assert f"is named {other.stem}" in cache.run("cache", "verify").output


def test_a_record_that_is_not_of_its_blocks_is_damaged(cache: Cache) -> None:
    record = cache.remember("ada", 1)
    cache.files().write_agent(attrs.evolve(record, chain=bytes(32)))

    assert "its tokens are not those of its blocks" in cache.run("cache", "verify").output


def test_what_cannot_be_read_is_told_and_stays(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    cache.remember("ada", 1)
    before = cache.paths("*.safetensors")
    monkeypatch.setattr("semantic_trio.adapters.disk.format.read_raw", fail)

    result = cache.run("cache", "verify")

    assert result.exit_code == 1
    assert result.output.count("Input/output error\n") == 3
    assert cache.paths("*.safetensors") == before


# -------------------------------------------------------------------------------------------- prune


def test_what_nothing_leads_to_is_deleted_and_nothing_else(cache: Cache) -> None:
    cache.remember("ada", 1)
    kept = cache.paths("memory/**/*.safetensors")
    for kind in Kind:
        cache.files().write(Item(kind, bytes(32)), {})
    (kept[0].parent / ".tmp-x").write_bytes(b"begun")
    (cache.root / ".tmp-y").write_bytes(b"begun")

    lines = cache.run("cache", "prune").output.splitlines()

    assert cache.paths("memory/**/*") == kept
    assert lines[0].split() == ["unfinished", "2", "files", "10", "B"]
    assert lines[1].split()[:6] == ["of", "no", "agent,", "org/tiny", "2", "files"]
    assert cache.run("cache", "verify").exit_code == 0


def test_the_quarantine_is_emptied_when_asked(cache: Cache) -> None:
    cache.remember("ada", 1)
    damage(cache.paths("blocks/*/*.safetensors")[0])
    cache.run("cache", "verify")

    cache.run("cache", "prune")
    before = len(cache.paths("quarantine/*"))
    cache.run("cache", "prune", "--quarantine")

    assert (before, len(cache.paths("quarantine/*"))) == (2, 0)


def tokens_here(cache: Cache, agent: str, fingerprint: str = ONE) -> int:
    """How many tokens of an agent's history are on disk, from the first on."""
    record, belongings = next(
        model for model in CacheDirectory(cache.root).models() if model.fingerprint == fingerprint
    ).agent(agent)  # type: ignore[misc]
    here, run = cache.files(fingerprint).index(), 0
    for item in belongings.blocks:
        if item not in here:
            return run
        run += 256
    return len(record.history) // TOKEN_BYTES if belongings.tail in here else run


@pytest.mark.parametrize(
    ("limit_blocks", "left"),
    [
        (5, (522, 556)),
        (4, (512, 556)),
        (3, (256, 556)),
        (2, (256, 512)),
        (1, (256, 256)),
        (0, (0, 0)),
    ],
)
def test_agents_give_up_what_is_theirs_alone_and_no_more_than_has_to(
    cache: Cache, limit_blocks: int, left: tuple[int, int]
) -> None:
    """Least recently used first, and the ends of their histories first.

    What both lead to goes last.
    """
    cache.remember("ada", 1)
    cache.remember("eve", 2)
    model = CacheDirectory(cache.root).models()[0]
    records = model.bytes - sum(model.sizes.values())
    per_block = sum(model.sizes.values()) // 5 + 1

    for one, item in to_be_given_up([model], records + limit_blocks * per_block):
        one.remove([item])

    assert (tokens_here(cache, "ada"), tokens_here(cache, "eve")) == left


def test_a_limit_in_megabytes_is_kept_to(cache: Cache) -> None:
    for used, agent in enumerate(["ada", "eve", *(f"agent-{n}" for n in range(3))]):
        cache.remember(agent, used)
    cache.files().write(
        Item(Kind.BLOCK, bytes(32)), {"a": Tensor("U8", (2 << 20,), memoryview(bytes(2 << 20)))}
    )

    roomy, tight = (
        cache.run("cache", "prune", "--to-mb", "1"),
        cache.run("cache", "prune", "--to-mb", "0"),
    )

    assert (roomy.exit_code, tight.exit_code) == (0, 1), "records stay"
    assert [
        line.split()[2] for line in roomy.output.splitlines() if line.startswith("of agents")
    ] == ["0"]
    assert (tokens_here(cache, "ada"), len(cache.files().agents())) == (0, 5)


def test_pinned_agents_keep_what_they_have_and_that_is_told(cache: Cache) -> None:
    cache.remember("ada", 1, is_pinned=True)
    cache.remember("eve", 2)

    result = cache.run("cache", "prune", "--to-mb", "0")

    assert result.exit_code == 1
    assert "pinned agents take more than 0 MiB" in result.stderr
    assert (tokens_here(cache, "ada"), tokens_here(cache, "eve")) == (522, 256)


@pytest.mark.parametrize("command", [["cache", "prune"], ["cache", "rm", "--all", "--yes"]])
def test_nothing_is_deleted_under_a_server(cache: Cache, command: list[str]) -> None:
    cache.remember("ada", 1)
    cache.files().write(Item(Kind.BLOCK, bytes(32)), {})
    before = cache.paths("*.safetensors")

    with held(cache):
        result = cache.run(*command)

    assert result.exit_code == ExitCode.USAGE
    assert result.stderr == (
        f"semantic-trio: the cache in {cache.root} is in use by pid 7, org/tiny on "
        "http://127.0.0.1:9\n"
    )
    assert cache.paths("*.safetensors") == before


# ----------------------------------------------------------------------------------------------- rm


@pytest.mark.parametrize("called", ["org/tiny", ONE[:8], ONE])
def test_a_model_is_forgotten_by_its_name_or_fingerprint(cache: Cache, called: str) -> None:
    cache.remember("ada", 1)
    cache.remember("ada", 1, TWO, "another")

    result = cache.run("cache", "rm", called, stdin="y\n")

    assert result.exit_code == 0
    assert [model.name for model in CacheDirectory(cache.root).models()] == ["another"]


def test_who_does_not_confirm_keeps_it(cache: Cache) -> None:
    cache.remember("ada", 1)

    result = cache.run("cache", "rm", "org/tiny", stdin="n\n")

    assert "org/tiny" in result.output
    assert result.exit_code == 1
    assert len(CacheDirectory(cache.root).models()) == 1


def test_all_is_all(cache: Cache) -> None:
    cache.remember("ada", 1)
    cache.remember("ada", 1, TWO, "another")
    damage(cache.paths("blocks/*/*.safetensors")[0])
    cache.run("cache", "verify")

    assert cache.run("cache", "rm", "--all", "--yes").exit_code == 0

    assert cache.paths("*.safetensors") == []
    assert cache.paths("quarantine/*") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a model, or say --all"),
        (["org/tiny", "--all"], "name a model, or say --all"),
        (["nobody"], "has no memory"),
        (["ab"], "has no memory"),
    ],
)
def test_what_names_no_model_forgets_none(cache: Cache, arguments: list[str], said: str) -> None:
    cache.remember("ada", 1)

    result = cache.run("cache", "rm", *arguments, "--yes")

    assert result.exit_code == ExitCode.USAGE
    assert said in result.stderr


def test_two_models_that_begin_alike_are_not_forgotten_together(cache: Cache) -> None:
    cache.remember("ada", 1)
    # in the same directory by name: as if it were another's
    cache.remember("ada", 1, "ab" * 31 + "cd", "another")
    cache.remember("ada", 1, "ab" * 8 + "cd" * 24, "third")

    result = cache.run("cache", "rm", "abab", "--yes")

    assert result.exit_code == ExitCode.USAGE
    assert "abab may be" in result.stderr


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
