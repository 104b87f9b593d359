"""Memory that outlives the process: real servers on real files, as whoever runs them sees it."""

import json
import math
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.disk import format as file_format
from semantic_trio.adapters.disk.layout import ModelPaths
from semantic_trio.adapters.disk.publishing import TEMPORARY
from semantic_trio.adapters.disk.records import decode
from semantic_trio.domain.chain import TokenRun, child_key, root_key
from semantic_trio.domain.content import Content, Item, Kind, Tensor
from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.settings import Settings
from tests.process import ServerProcess, serving
from tests.search import examples
from tests.small_disk import MIB
from tests.smoke.remembering import question, warnings
from tests.talk import Answer, ask, words

BLOCK = 256
# Files of other conversations on a disk.
MANY = examples(50_000)
# What all prompts begin with is shorter, and may be remembered of others.
HEAD = 16
IN_USE = "memory is not kept on disk: give one of the two another --cache-dir"


@attrs.frozen
class Files:
    """What a model has in a cache directory."""

    root: Path

    @property
    def records(self) -> list[Path]:
        return sorted(self.root.glob("memory/*/agents/[!.]*.safetensors"))

    @property
    def put_aside(self) -> dict[str, str]:
        """The reasons, by the names of files."""
        return {note.stem: note.read_text() for note in self.root.glob("quarantine/*.txt")}

    @property
    def unfinished(self) -> list[Path]:
        return list(self.root.rglob(f"{TEMPORARY}*"))

    @property
    def fingerprint(self) -> str:
        with safe_open(self.records[0], framework="np") as file:
            return str(file.metadata()["fingerprint"])

    @property
    def layout(self) -> ModelPaths:
        return ModelPaths(self.root, self.fingerprint)

    def record(self, agent: str) -> Path:
        return self.layout.path(agent)

    def blocks(self, agent: str) -> list[Path]:
        """Of its history, by their names; the tail is the last."""
        history = decode(file_format.read(self.record(agent), "agent", self.fingerprint)[1]).history
        run = TokenRun.of_packed(history, root_key(self.fingerprint), BLOCK)
        keys = [*run.keys, child_key(run.keys[-1], history[4 * BLOCK * len(run.keys) :])]
        return [self.layout.path(Item(Kind.BLOCK, key)) for key in keys]

    def copied(self, to: Path) -> "Files":
        return Files(Path(shutil.copytree(self.root, to)))

    def everything(self, under: str = "") -> dict[str, bytes]:
        return {
            str(file.relative_to(self.root)): file.read_bytes()
            for file in (self.root / under).rglob("*")
            if file.is_file()
        }


@attrs.frozen
class Left:
    """What a server has left behind."""

    files: Files
    answers: Mapping[str, Answer]
    exit_code: int
    ending: Mapping[str, object]  # its last line


SPEAKERS = ("ada", "ben", "cas", "dee", "eve", "fay")
TWINS = ("gil", "hal")


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """By a server that was ended with SIGTERM right after its last answer.

    `ada` was used last, and the twins had said the same.
    """
    directory = tmp_path_factory.mktemp("left")
    with serving(directory) as server:
        answers = {agent: ask(server, agent, question(agent)) for agent in (*SPEAKERS, *DAMAGES)}
        answers |= {twin: ask(server, twin, question("twins")) for twin in TWINS}
        ask(server, "gil", question("something else"))
        ask(server, "ada", question("ada"))
        code = server.end()
        return Left(
            Files(directory / "cache"), answers, code, server.lines("memory is on disk")[-1]
        )


@pytest.fixture
def files(left: Left, tmp_path: Path) -> Files:
    """A copy of what was left behind, where the next server looks for it."""
    return left.files.copied(tmp_path / "cache")


# ----------------------------------------------------------------------------------------- restarts


def test_sigterm_has_everything_on_disk_and_exits_0(left: Left) -> None:
    assert left.exit_code == ExitCode.OK
    assert left.ending["not_written"] == 0
    assert len(left.files.records) == len(left.answers)
    assert left.files.unfinished == []


def test_a_start_neither_fails_for_the_number_of_agents_nor_takes_one_of_them(
    tmp_path: Path,
) -> None:
    """Warming up used to be an agent's turn: there was no start where all places were taken, and an
    agent of that name was gone.
    """
    with serving(tmp_path) as server:
        for agent in ("warm-up", "ada"):
            assert server.post("/v1/agents", json={"id": agent}).status_code == 201
        assert server.post("/v1/agents/warm-up/pin").status_code == 200
        assert server.end() == ExitCode.OK

    with serving(tmp_path, "--max-agents-in-memory", "1") as server:
        [told] = server.lines("an agent on disk is not known again")
        assert server.end() == ExitCode.OK

    with serving(tmp_path) as server:
        agents = {agent["id"]: agent["pinned"] for agent in server.get("/v1/agents").json()["data"]}
    assert "1 agents are kept" in told["reason"]
    assert agents == {"warm-up": True, "ada": False}


def test_what_is_answered_during_the_drain_is_on_disk_too(tmp_path: Path) -> None:
    # long enough for all of them to be seen generating at once
    agents, tokens = ("ida", "jan", "kim", "leo"), 40
    with serving(tmp_path) as server, ThreadPoolExecutor(len(agents)) as pool:
        asked = {
            agent: pool.submit(ask, server, agent, question(agent), max_tokens=tokens)
            for agent in agents
        }
        server.until("semantic_rows", len(agents))
        code = server.end()
        answers = {agent: answer.result() for agent, answer in asked.items()}
    with serving(tmp_path) as server:
        again = {agent: ask(server, agent, question(agent), max_tokens=tokens) for agent in agents}

    assert code == ExitCode.OK
    assert {agent: answer.text for agent, answer in again.items()} == {
        agent: answer.text for agent, answer in answers.items()
    }
    assert {(answer.source, answer.prompt_tokens - answer.reused) for answer in again.values()} == {
        ("disk", 1)
    }


def test_the_next_start_computes_one_token_and_answers_as_if_there_had_been_none(
    left: Left, files: Files, tmp_path: Path, tiny_server: ServerProcess
) -> None:
    told = question("ben"), left.answers["ben"].text, "And what then?"
    with serving(tmp_path) as server:
        [found] = server.lines("memory found on disk")
        same, next_turn = ask(server, "cas", question("cas")), ask(server, "ben", *told)

        assert warnings(server) == []
    ask(tiny_server, "ben", question("ben"))
    assert found["agents"] == len(left.answers)
    assert (same.source, same.reused, same.text) == (
        "disk",
        same.prompt_tokens - 1,
        left.answers["cas"].text,
    )
    assert (next_turn.source, next_turn.reused) == ("disk", left.answers["ben"].remembered)
    assert next_turn.text == ask(tiny_server, "ben", *told).text
    assert files.put_aside == {}


def test_who_said_the_same_as_another_still_has_it_when_that_has_not(
    left: Left, files: Files, tmp_path: Path
) -> None:
    with serving(tmp_path) as server:
        answer = ask(server, "hal", question("twins"), left.answers["hal"].text, "I go on later.")

    assert (answer.source, answer.reused) == ("disk", left.answers["hal"].remembered)


def test_kill_9_loses_at_most_what_was_not_yet_written(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        first = ask(server, "ada", question("ada"))
        server.until_written()
        second = ask(server, "ada", question("ada"), first.text, words("more", 300))
        server.signal(signal.SIGKILL)
        server.exit_code()
    with serving(tmp_path) as server:
        again = ask(server, "ada", question("ada"), first.text, words("more", 300))

        assert server.lines("memory found on disk")[0]["agents"] == 1
        assert warnings(server) == []
        assert server.end() == ExitCode.OK  # one that is killed may leave another file unfinished
    assert again.source == "disk"
    assert first.remembered <= again.reused <= second.prompt_tokens - 1
    assert again.text == second.text
    assert Files(tmp_path / "cache").put_aside == {}
    assert Files(tmp_path / "cache").unfinished == []


def test_the_second_server_of_a_directory_serves_without_it_and_the_third_has_it(
    left: Left, files: Files, tmp_path: Path
) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    with serving(tmp_path / "one", cache=files.root) as one:
        with serving(tmp_path / "two", cache=files.root) as two:
            alone = ask(two, "ada", question("ada"))
            [line] = two.lines(IN_USE)

            assert len(warnings(two)) == 1
            assert two.metric("semantic_disk_accepts_writes") == 0
            assert two.end() == ExitCode.OK
        beside = ask(one, "ada", question("ada"))

        assert warnings(one) == []
        assert one.end() == ExitCode.OK
    with serving(tmp_path / "three", cache=files.root) as three:
        after = ask(three, "ada", question("ada"))

    assert f"pid {one.process.pid}, tiny-random" in line["reason"]
    assert (alone.source, beside.source, after.source) == ("none", "disk", "disk")
    assert {alone.text, beside.text, after.text} == {left.answers["ada"].text}


def another_model(directory: Path) -> Path:
    """As tiny as the tiny one, with its matrices upside down."""
    shutil.copytree(open_catalogue(Settings().data_dir).path("tiny-random"), directory)
    weights = load_file(directory / "model.safetensors")
    save_file(
        {name: np.ascontiguousarray(array[::-1]) for name, array in weights.items()},
        directory / "model.safetensors",
        {"format": "mlx"},
    )
    return directory


def test_another_model_touches_nothing_of_the_first_and_that_finds_it_again(
    left: Left, files: Files, tmp_path: Path
) -> None:
    before = files.everything("memory")
    with serving(
        tmp_path, "--disk-budget-mb", "1", model=str(another_model(tmp_path / "other"))
    ) as server:
        other = [ask(server, agent, question(agent)) for agent in ("ada", "ben", "cas")]

        assert server.end() == ExitCode.OK
    after = files.everything("memory")
    with serving(tmp_path) as server:
        again = ask(server, "ada", question("ada"))

    assert (other[0].reused, other[0].text == left.answers["ada"].text) == (0, False), (
        "it is another model"
    )
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)
    assert (again.source, again.reused, again.text) == (
        "disk",
        again.prompt_tokens - 1,
        left.answers["ada"].text,
    )


def another_template(directory: Path) -> Path:
    """The tiny model with another chat template."""
    shutil.copytree(open_catalogue(Settings().data_dir).path("tiny-random"), directory)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": "Listen.\n" + config["chat_template"]})
    )
    return directory


def test_another_chat_template_of_the_same_weights_reads_conversations_again(
    left: Left, files: Files, tmp_path: Path
) -> None:
    told = question("ben"), left.answers["ben"].text, "And what then?"
    with serving(tmp_path, model=str(another_template(tmp_path / "fixed"))) as server:
        [found] = server.lines("memory found on disk")
        [changed] = server.lines(
            "tokenizer or chat template has changed: these agents' conversations are read again"
        )
        first, second = ask(server, "ben", *told), ask(server, "ben", *told)

    assert found["agents"] == changed["agents"] == len(left.answers)
    assert (first.reused, first.cause) == (0, "template_changed")
    assert (second.reused, second.cause) == (second.prompt_tokens - 1, "")


# ------------------------------------------------------------------------------------ the directory


def test_many_files_are_found_by_their_names_and_none_of_them_is_read(
    left: Left, tmp_path: Path
) -> None:
    layout, chance = ModelPaths(tmp_path / "cache", left.files.fingerprint), random.Random(1)
    for number in range(256):
        layout.path(Item(Kind.BLOCK, bytes([number]) * 32)).parent.mkdir(parents=True)
    paths = [layout.path(Item(Kind.BLOCK, chance.randbytes(32))) for _ in range(MANY)]
    for path in paths:
        path.write_bytes(b"small")
    for path in paths[:1000]:
        # who reads it moves the first of these times, unless the file system counts none
        os.utime(path, (0, 0))
    with serving(tmp_path) as server:
        [found] = server.lines("memory found on disk")
        answer = ask(server, "ada", question("ada"))
        server.until_written()

        assert warnings(server) == []
    read = [path for path in paths[:1000] if path.stat().st_atime]
    shutil.rmtree(layout.home / "blocks")
    assert found["items"] == MANY
    assert read == []
    assert answer.reused == 0


def test_what_was_used_first_goes_first_whatever_the_times_of_files_say(
    left: Left, files: Files, tmp_path: Path
) -> None:
    chance, day = random.Random(1), 86_400
    for file in files.root.rglob("*.safetensors"):
        os.utime(file, (chance.randrange(20 * 365 * day, 21 * 365 * day),) * 2)  # in 1990
    budget = math.ceil(sum(file.stat().st_size for file in files.root.rglob("*.safetensors")) / MIB)
    with serving(tmp_path, "--disk-budget-mb", str(budget)) as server:
        for newcomer in ("new", "newer"):
            ask(server, newcomer, question(newcomer))
            server.until_written()
        found = {agent: ask(server, agent, question(agent)) for agent in ("ben", "fay", "ada")}

        assert server.metric("semantic_disk_eviction_total") > 0
        assert server.metric("semantic_disk_used_bytes") <= budget * MIB
    assert found["ben"].reused < HEAD
    assert found["ben"].text == left.answers["ben"].text
    assert [(found[agent].source, found[agent].reused) for agent in ("fay", "ada")] == [
        ("disk", found[agent].prompt_tokens - 1) for agent in ("fay", "ada")
    ]


def test_a_directory_that_is_open_to_others_is_closed(
    left: Left, files: Files, tmp_path: Path
) -> None:
    for path in (files.root, *files.root.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
    with serving(tmp_path) as server:
        answer = ask(server, "ada", question("ada"))

        assert server.end() == ExitCode.OK
        assert warnings(server) == []
    assert {
        oct(path.stat().st_mode & 0o777)
        for path in (files.root, *files.root.rglob("*"))
        if path.is_dir()
    } == {"0o700"}
    assert (answer.source, answer.text) == ("disk", left.answers["ada"].text)


# ------------------------------------------------------------------------------------------- damage


def write_again(files: Files, path: Path, change: Callable[[Tensor], Tensor]) -> None:
    """As if it had been written so: the checksum is right."""
    name, content = file_format.read(path, Kind.BLOCK, files.fingerprint)
    label = file_format.Label(Kind.BLOCK, name, files.fingerprint, "tiny-random")
    changed: Content = {key: change(tensor) for key, tensor in content.items()}
    file_format.write(path, label, changed)


def longer(tensor: Tensor) -> Tensor:
    rows = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
    return shaped(np.concatenate([rows, rows[:, :, :1]], axis=2))


def shorter(tensor: Tensor) -> Tensor:
    return shaped(np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)[:, :, 1:])


def shaped(rows: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> Tensor:
    return Tensor("F32", rows.shape, memoryview(rows.tobytes()))


def swap(one: Path, other: Path) -> None:
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])


def turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


RECORD, TAIL = None, 2  # which file of an agent: its record, or a block by its number
ALL = 10_000


@attrs.frozen
class Damage:
    """What happens to one file of the agent that is called so."""

    file: int | None
    happens: Callable[[Files, Path], object]
    reason: str  # it is put aside for; empty: it is not there to be put aside
    left: int  # tokens of the prompt that are remembered all the same


DAMAGES = {
    "nothing": Damage(RECORD, lambda files, path: None, "", ALL),
    "block-deleted": Damage(1, lambda files, path: path.unlink(), "", BLOCK),
    "block-cut": Damage(
        1, lambda files, path: os.truncate(path, path.stat().st_size - 1000), "ends after", BLOCK
    ),
    "block-with-another-bit": Damage(1, lambda files, path: turn_a_bit(path), "checksum is", BLOCK),
    "block-of-another": Damage(
        0, lambda files, path: shutil.copyfile(files.blocks("ben")[0], path), "is named", 0
    ),
    "block-of-nothing": Damage(0, lambda files, path: path.write_bytes(b""), "ends after 0", 0),
    "tail-longer": Damage(
        TAIL, lambda files, path: write_again(files, path, longer), "tokens, not", 2 * BLOCK
    ),
    "tail-shorter": Damage(
        TAIL, lambda files, path: write_again(files, path, shorter), "tokens, not", 2 * BLOCK
    ),
    "record-swapped": Damage(
        RECORD,
        lambda files, path: swap(path, files.record("record-swapped-too")),
        "is named",
        2 * BLOCK,
    ),
    "record-swapped-too": Damage(RECORD, lambda files, path: None, "is named", 2 * BLOCK),
    "record-of-nothing": Damage(
        RECORD, lambda files, path: path.write_bytes(b"{}"), "ends after 2", 2 * BLOCK
    ),
}
# Put among the files by somebody else: by their names it is told that they are nobody's business.
FOREIGN = (
    "README",
    "memory/notes.txt",
    "memory/0123/blocks/ab/c.safetensors",
    "quarantine/mine.txt",
)
FOREIGN_AT_HOME = (
    "blocks/.DS_Store",
    "blocks/ab/notes.txt",
    f"blocks/abc/{'abc':0<64}.safetensors",
    f"blocks/ab/{'cd':0<64}.safetensors",
    f"blocks/{'ab':0<64}.safetensors",
    f"marks/ab/{'ab':0<64}.safetensors/x",
    "agents/ada.safetensors",
)


@attrs.frozen
class Spoilt:
    """A server on a directory to which all of it has happened."""

    server: ServerProcess
    files: Files
    damaged: Mapping[str, Path]
    found: int  # blocks that were there at the start
    foreign: list[Path]


@pytest.fixture(scope="module")
def spoilt(left: Left, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spoilt]:
    directory = tmp_path_factory.mktemp("spoilt")
    files = left.files.copied(directory / "cache")
    home = files.layout.home
    damaged = {
        agent: files.record(agent) if damage.file is RECORD else files.blocks(agent)[damage.file]
        for agent, damage in DAMAGES.items()
    }
    for agent, path in damaged.items():
        DAMAGES[agent].happens(files, path)
    found = len(list(home.glob("blocks/*/*")))
    foreign = [*(files.root / name for name in FOREIGN), *(home / name for name in FOREIGN_AT_HOME)]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not ours")
    with serving(directory) as server:
        yield Spoilt(server, files, damaged, found, foreign)


@pytest.mark.parametrize("agent", DAMAGES)
def test_what_is_damaged_is_told_in_one_line_put_aside_and_computed_again(
    left: Left, spoilt: Spoilt, agent: str
) -> None:
    damage, path = DAMAGES[agent], spoilt.damaged[agent]
    answer = ask(spoilt.server, agent, question(agent))
    told = "a part of the memory is gone" if agent == "block-deleted" else path.stem
    lines = [line for line in warnings(spoilt.server) if told in line or f'"{agent}"' in line]
    reasons = [reason for name, reason in spoilt.files.put_aside.items() if path.stem in name]

    assert answer.text == left.answers[agent].text
    assert 0 <= answer.reused - min(damage.left, answer.prompt_tokens - 1) < HEAD
    assert len(lines) == (agent != "nothing")
    assert len(reasons) == bool(damage.reason)
    assert all(damage.reason in reason for reason in reasons)


def test_files_that_are_deleted_from_under_a_server_are_missed_by_it_and_by_nobody_else(
    left: Left, spoilt: Spoilt
) -> None:
    for path in spoilt.files.blocks("fay"):
        path.unlink()
    answer = ask(spoilt.server, "fay", question("fay"))

    assert answer.reused < HEAD
    assert (answer.cause, answer.text) == ("corrupt", left.answers["fay"].text)
    assert ask(spoilt.server, "eve", question("eve")).source == "disk"


def test_files_of_others_are_left_alone(spoilt: Spoilt) -> None:
    [line] = spoilt.server.lines("memory found on disk")

    assert line["items"] == spoilt.found
    assert [path.read_text() for path in spoilt.foreign] == ["not ours"] * len(spoilt.foreign)
    assert spoilt.files.put_aside.pop("mine") == "not ours"
