"""Memory on a disk that is full, or that refuses to be written to: servers go on, and write again
once the disk takes it.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semantic_trio.adapters.disk.publishing import TEMPORARY
from semantic_trio.entrypoints.exits import ExitCode
from tests.process import PROMPT_SECONDS, ServerProcess, serving
from tests.small_disk import SmallDisk, small_disk
from tests.smoke.remembering import question, warnings
from tests.talk import Answer, ask

NOT_WRITTEN, WRITTEN_AGAIN = "memory is not written to disk", "memory is written to disk again"
NOT_KEPT = "memory is not kept on disk"
BUDGETS = ("--cache-budget-mb", "16", "--disk-budget-mb", "4", "--disk-floor-mb", "0")
CROWD = [f"one-of-{number}" for number in range(26)]  # more than RAM holds


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 6) as disk:
        yield disk


def serving_on(disk: SmallDisk, tmp_path: Path) -> contextlib.AbstractContextManager[ServerProcess]:
    return serving(tmp_path, *BUDGETS, cache=disk.path / "cache", within=disk.within)


def assert_writing_resumes(server: ServerProcess, disk: SmallDisk) -> None:
    """All that was not written is, and two lines have told of it."""
    server.until("semantic_disk_accepts_writes", 1)
    server.until_written()

    assert [len(server.lines(event)) for event in (NOT_WRITTEN, WRITTEN_AGAIN)] == [1, 1]
    assert len(warnings(server)) == 1
    assert disk.files(f"{TEMPORARY}*") == []
    assert server.end() == ExitCode.OK


def assert_finds_it_again(disk: SmallDisk, tmp_path: Path, agent: str, before: Answer) -> None:
    with serving_on(disk, tmp_path) as server:
        answer = ask(server, agent, question(agent))

        assert "damaged" not in server.said
    assert (answer.source, answer.reused, answer.text) == (
        "disk",
        answer.prompt_tokens - 1,
        before.text,
    )


def test_a_disk_that_is_full_at_the_start_is_written_to_when_it_has_room(
    tmp_path: Path, disk: SmallDisk
) -> None:
    disk.fill()
    with serving_on(disk, tmp_path) as server:
        before = ask(server, "ada", question("ada"))
        server.until("semantic_disk_accepts_writes", 0)
        again = ask(server, "ada", question("ada"))
        disk.empty()

        assert_writing_resumes(server, disk)
    assert (again.source, again.text) == ("ram", before.text)
    assert_finds_it_again(disk, tmp_path, "ada", before)


def test_a_disk_that_is_full_while_ram_spills_costs_memory_and_no_answer(
    tmp_path: Path, disk: SmallDisk
) -> None:
    with serving_on(disk, tmp_path) as server:
        first = ask(server, "ada", question("ada"))
        server.until_written()
        disk.fill()
        answers = {agent: ask(server, agent, question(agent)) for agent in CROWD}
        server.until("semantic_disk_accepts_writes", 0)
        again = {
            agent: ask(server, agent, question(agent)) for agent in ("ada", CROWD[0], CROWD[-1])
        }
        disk.empty()

        assert_writing_resumes(server, disk)
    assert {agent: answer.text for agent, answer in again.items()} == {
        agent: answer.text for agent, answer in (answers | {"ada": first}).items() if agent in again
    }
    assert [answer.source for answer in again.values()] == ["disk", "ram", "ram"]
    assert [answer.cause for answer in again.values()] == ["", "evicted", ""]
    assert_finds_it_again(disk, tmp_path, CROWD[-1], answers[CROWD[-1]])


@pytest.mark.parametrize(
    ("refuse", "permit"),
    [
        pytest.param(SmallDisk.forbid_writing, SmallDisk.allow_writing, id="read-only"),
        pytest.param(SmallDisk.fill_with_files, SmallDisk.empty, id="out of inodes"),
    ],
)
def test_a_disk_that_refuses_all_of_a_sudden_is_read_from_and_written_to_when_it_takes_it(
    tmp_path: Path,
    disk: SmallDisk,
    refuse: Callable[[SmallDisk], None],
    permit: Callable[[SmallDisk], None],
) -> None:
    with serving_on(disk, tmp_path) as server:
        first = ask(server, "ada", question("ada"))
        server.until_written()
        server.post("/v1/agents/ada/close").raise_for_status()
        refuse(disk)
        second = ask(server, "ben", question("ben"))
        server.until("semantic_disk_accepts_writes", 0)
        again = ask(server, "ada", question("ada"))
        permit(disk)

        assert_writing_resumes(server, disk)
    assert (again.source, again.text) == ("disk", first.text)
    assert_finds_it_again(disk, tmp_path, "ben", second)


def test_a_disk_that_is_read_only_at_the_start_is_told_once_and_keeps_nobody_from_ending(
    tmp_path: Path, disk: SmallDisk
) -> None:
    disk.forbid_writing()
    with serving_on(disk, tmp_path) as server:
        first, again = ask(server, "ada", question("ada")), ask(server, "ada", question("ada"))

        assert server.metric("semantic_disk_accepts_writes") == 0
        assert [len(server.lines(NOT_KEPT)), len(warnings(server))] == [1, 1]
        assert server.end() == ExitCode.OK
    assert (again.source, again.text) == ("ram", first.text)


def test_a_disk_that_takes_nothing_does_not_hold_the_end(tmp_path: Path, disk: SmallDisk) -> None:
    disk.fill()
    with serving_on(disk, tmp_path) as server:
        ask(server, "ada", question("ada"))
        server.until("semantic_disk_accepts_writes", 0)

        server.signal(signal.SIGTERM)
        assert server.exit_code(PROMPT_SECONDS) == ExitCode.OK
        assert [line["not_written"] for line in server.lines("memory is on disk in part")] != [0]
    assert disk.files(f"{TEMPORARY}*") == []
