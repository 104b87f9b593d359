"""A cache directory belongs to one process, until that ends however it ends."""

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from semantic_trio.adapters.disk import CacheLock
from semantic_trio.domain.errors import CacheInUseError

HOLDS = """
import sys
from pathlib import Path
from semantic_trio.adapters.disk import CacheLock
with CacheLock(Path(sys.argv[1]), "pid 123, tiny-random, http://127.0.0.1:8000"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """It holds the lock until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process


def refusal(directory: Path) -> CacheInUseError:
    with pytest.raises(CacheInUseError) as refused, CacheLock(directory, "me"):
        pass
    return refused.value


def test_who_comes_second_is_told_who_was_first(tmp_path: Path) -> None:
    with another_process(tmp_path):
        refused = refusal(tmp_path)

    assert (
        str(refused)
        == f"the cache in {tmp_path} is in use by pid 123, tiny-random, http://127.0.0.1:8000"
    )


def test_it_is_free_when_its_holder_has_ended(tmp_path: Path) -> None:
    with another_process(tmp_path):
        pass

    with CacheLock(tmp_path, "me"):
        assert (tmp_path / "lock.holder").read_text() == "me"
    assert not (tmp_path / "lock.holder").exists()


def test_it_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        process.kill()
    assert (tmp_path / "lock.holder").read_text().startswith("pid 123"), "nobody has tidied up"

    with CacheLock(tmp_path, "me"):
        assert refusal(tmp_path).holder == "me"


def test_it_can_be_taken_again(tmp_path: Path) -> None:
    lock = CacheLock(tmp_path, "me")
    for _ in range(2):
        with lock:
            assert refusal(tmp_path).holder == "me"


def test_another_thread_may_give_it_back(tmp_path: Path) -> None:
    lock, stack = CacheLock(tmp_path, "me"), contextlib.ExitStack()
    stack.enter_context(lock)

    thread = threading.Thread(target=stack.close)
    thread.start()
    thread.join()

    with CacheLock(tmp_path, "you") as other:
        assert other is not lock


def test_two_directories_have_two_locks(tmp_path: Path) -> None:
    with CacheLock(tmp_path / "a", "me"), CacheLock(tmp_path / "b", "me"):
        pass


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with CacheLock(tmp_path / "deep" / "cache", "me"):
            found = {
                path.name: stat.filemode(path.stat().st_mode)
                for path in (tmp_path / "deep").rglob("*")
            }
    finally:
        os.umask(before)

    assert found == {"cache": "drwx------", "lock": "-rw-------", "lock.holder": "-rw-------"}
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700


@pytest.mark.parametrize("said", [None, b"", b" \n", b"\xff\xfe"])
def test_whoever_holds_it_is_somebody_whatever_they_say(tmp_path: Path, said: bytes | None) -> None:
    with CacheLock(tmp_path, "me"):
        (tmp_path / "lock.holder").unlink()
        if said is not None:
            (tmp_path / "lock.holder").write_bytes(said)

        assert refusal(tmp_path).holder == (
            "another process" if said != b"\xff\xfe" else "\ufffd\ufffd"
        )


def test_what_a_holder_says_is_one_line_that_ends(tmp_path: Path) -> None:
    with CacheLock(tmp_path, "me"):
        (tmp_path / "lock.holder").write_text("pid 1\n" * 10_000)

        holder = refusal(tmp_path).holder

    assert holder.startswith("pid 1 pid 1 ")
    assert len(holder) <= 500


def test_a_full_disk_keeps_nobody_from_working(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is somebody blamed who was killed."""

    def refuse(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "lock.holder").write_text("pid 123")
    monkeypatch.setattr(Path, "write_text", refuse)

    with CacheLock(tmp_path, "me"):
        assert refusal(tmp_path).holder == "another process"


# --------------------------------------------------------------------------------- deleted under it


def delete_all(directory: Path) -> None:
    shutil.rmtree(directory)


def delete_lock(directory: Path) -> None:
    (directory / "lock").unlink()


def replace_lock(directory: Path) -> None:
    delete_lock(directory)
    (directory / "lock").touch()


@pytest.mark.parametrize("delete", [delete_all, delete_lock, replace_lock])
def test_a_directory_that_was_deleted_is_made_again_with_its_lock(
    tmp_path: Path, delete: Callable[[Path], None]
) -> None:
    directory = tmp_path / "cache"
    with CacheLock(directory, "me") as lock:
        lock.claim()
        delete(directory)
        with capture_logs() as lines:
            lock.claim()
            lock.claim()
        assert refusal(directory).holder == "me"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700

    assert [line["event"] for line in lines] == [
        "the cache directory was deleted under the server, and is made again"
    ]
    with CacheLock(directory, "you"):
        pass


def test_who_has_made_it_first_has_it(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    with CacheLock(directory, "me") as lock:
        shutil.rmtree(directory)
        with CacheLock(directory, "you"):
            for _ in range(2):
                with pytest.raises(CacheInUseError):
                    lock.claim()
        lock.claim()
        assert refusal(directory).holder == "me"


def test_what_was_given_back_is_not_claimed(tmp_path: Path) -> None:
    with CacheLock(tmp_path, "me") as lock:
        pass

    lock.claim()

    with CacheLock(tmp_path, "you"):
        pass
