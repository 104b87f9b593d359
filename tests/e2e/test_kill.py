"""A server that is killed again and again while it writes: what it had written is there, and
nothing it says is ever wrong.

Each round begins with an empty directory. Its agents go on from where the killed server left them,
and get the answers that a server gives which remembers nothing. KILL_SEED gives another run.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import httpx
import pytest

from semantic_trio.entrypoints.exits import ExitCode
from tests.e2e.damage import assert_nothing_is_damaged, unfinished
from tests.process import ServerProcess, serving
from tests.talk import Answer, ask, words

pytestmark = pytest.mark.timeout(1800)

SEED = os.environ.get("KILL_SEED", "1")
ROUNDS, KILLS = 8, 5  # of a round
AGENTS = [f"agent-{number}" for number in range(10)]
# Together more than RAM holds: memory is given up and brought back while they talk.
TURNS, FIRST_WORDS, WORDS, OWN_WORDS = 12, 1000, 40, 6
RAM = ("--cache-budget-mb", "16")
AT_ONCE = 5
LONGEST_STORM_SECONDS = 1.5
# One kill in so many comes in the middle of a shutdown.
ENDS, LONGEST_END_SECONDS = 4, 0.05
# And half of the others wait for a file to be half-written, where one soon is.
LONGEST_WAIT_SECONDS = 0.5
# What was answered longer ago than this is on disk: it is written at once, and a turn is a few
# files.
UNWRITTEN_SECONDS = 5.0


def conversation(agent: str, turn: int) -> list[str]:
    """What was said to and by an agent, up to where it is to answer in a turn.

    The client puts answers into words of its own: those of a random model have many spellings, and
    with the record of a turn goes which one it was.
    """
    users, own = (
        [words((SEED, agent, who, at), count) for at in range(turn + 1)]
        for who, count in (("user", WORDS), ("own", OWN_WORDS))
    )
    users[0] = words((SEED, agent), FIRST_WORDS)
    return [text for pair in zip(users, own, strict=True) for text in pair][:-1]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Sequence[Answer]]:
    """What a server answers in every turn that has to read all of it each time."""
    answers: dict[str, list[Answer]] = {agent: [] for agent in AGENTS}
    with serving(tmp_path_factory.mktemp("script"), "--disk-budget-mb", "0") as server:
        for agent, turns in answers.items():
            for turn in range(TURNS):
                turns.append(ask(server, agent, *conversation(agent, turn)))
                assert turns[-1].reused == 0
                httpx.delete(f"{server.url}/v1/agents/{agent}").raise_for_status()
    return answers


@attrs.define(eq=False)
class Speaker:
    """An agent, and what of its turns has to be on disk."""

    name: str
    script: Sequence[Answer]
    turn: int = 0  # the next one
    safe: int = 0  # tokens
    # turns since, and when each was answered
    unsafe: list[tuple[int, float]] = attrs.field(factory=list)

    @property
    def is_done(self) -> bool:
        return self.turn == TURNS

    def speak(self, server: ServerProcess) -> Answer:
        """Have the next turn; what is answered is what the script says."""
        answer = ask(server, self.name, *conversation(self.name, self.turn))
        assert answer.text == self.script[self.turn].text, (
            f"turn {self.turn} of {self.name}, {answer.reused} tokens reused"
        )
        self.unsafe.append((self.turn, time.monotonic()))
        self.turn += 1
        return answer

    def is_written(self) -> None:
        """Everything it has heard is on disk."""
        self.safe = self.script[self.turn - 1].prompt_tokens if self.turn else 0
        self.unsafe.clear()


@attrs.define
class Tally:
    """What came of it all."""

    kills: int = 0
    in_a_file: int = 0  # of these in the midst of writing one
    turns: int = 0
    safe: int = 0  # turns that were on disk when there was a kill, and all of which was found again
    kept: int = 0  # of the turns nobody had waited for
    lost: int = 0
    oldest_lost_seconds: float = 0.0
    evictions: float = 0

    def count(self, speaker: Speaker, reused: int, killed_at: float) -> None:
        """What is left of the turns of an agent that nobody had waited for."""
        self.safe += bool(speaker.safe)
        for turn, answered_at in speaker.unsafe:
            if speaker.script[turn].prompt_tokens <= reused:
                self.kept += 1
            else:
                self.lost += 1
                self.oldest_lost_seconds = max(self.oldest_lost_seconds, killed_at - answered_at)


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    tally = Tally()
    yield tally
    print(f"\nseed {SEED}: {tally}")


def check(
    server: ServerProcess, speakers: Sequence[Speaker], tally: Tally, killed_at: float
) -> None:
    """One turn of each, alone: it finds at least what had to be there."""
    for speaker in speakers:
        if speaker.is_done:
            continue
        unsafe = list(speaker.unsafe)
        answer = speaker.speak(server)
        speaker.unsafe = unsafe
        assert answer.reused >= speaker.safe, (
            f"turn {speaker.turn - 1} of {speaker.name}: {speaker.safe} tokens were on disk"
        )
        tally.count(speaker, answer.reused, killed_at)
    server.until_written()
    for speaker in speakers:
        speaker.is_written()


def talk(server: ServerProcess, speakers: Iterator[Speaker], stop: threading.Event) -> None:
    """Turn after turn of one agent after the other, until the server is gone."""
    with contextlib.suppress(httpx.TransportError):
        while not stop.is_set() and (speaker := next(speakers, None)) is not None:
            speaker.speak(server)


def storm(
    server: ServerProcess, cache: Path, speakers: Sequence[Speaker], chance: random.Random
) -> float:
    """Several talk at once, and in the midst of it the server is killed; when that was."""
    stop, share = threading.Event(), len(speakers) // AT_ONCE
    with ThreadPoolExecutor(AT_ONCE) as pool:
        order = chance.sample(speakers, len(speakers))
        talks = [
            pool.submit(talk, server, in_turn(order[at : at + share]), stop)
            for at in range(0, len(order), share)
        ]
        time.sleep(chance.uniform(0, LONGEST_STORM_SECONDS))
        if chance.randrange(ENDS) == 0:
            stop.set()
            for one in talks:
                one.result()
            server.signal(signal.SIGTERM)
            time.sleep(chance.uniform(0, LONGEST_END_SECONDS))
        elif chance.randrange(2) == 0:
            deadline = time.monotonic() + LONGEST_WAIT_SECONDS
            while not unfinished(cache) and time.monotonic() < deadline:
                pass
        killed_at = time.monotonic()
        server.signal(signal.SIGKILL)
        for one in talks:
            one.result()
    return killed_at


def in_turn(speakers: Sequence[Speaker]) -> Iterator[Speaker]:
    """One after the other, as long as one has something to say."""
    while any(not speaker.is_done for speaker in speakers):
        yield from (speaker for speaker in speakers if not speaker.is_done)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_server_that_is_killed_while_it_writes_is_as_good_as_one_that_was_not(
    tmp_path: Path, script: Mapping[str, Sequence[Answer]], tally: Tally, number: int
) -> None:
    chance = random.Random(f"{SEED}/{number}")
    speakers, killed_at = [Speaker(agent, script[agent]) for agent in AGENTS], time.monotonic()
    for _ in range(KILLS):
        with serving(tmp_path, *RAM) as server:
            assert_nothing_is_damaged(server, tmp_path / "cache")
            check(server, chance.sample(speakers, len(speakers)), tally, killed_at)
            killed_at = storm(server, tmp_path / "cache", speakers, chance)
            server.exit_code()
            tally.in_a_file += bool(unfinished(tmp_path / "cache"))
            assert '"level": "error"' not in server.said
        tally.kills += 1
    with serving(tmp_path, *RAM) as server:
        assert_nothing_is_damaged(server, tmp_path / "cache")
        check(server, speakers, tally, killed_at)
        for speaker in in_turn(speakers):  # a slow machine has had few turns until now
            if server.metric("semantic_eviction_total"):
                break
            speaker.speak(server)
        tally.evictions += server.metric("semantic_eviction_total")

        assert server.end() == ExitCode.OK
        assert_nothing_is_damaged(server, tmp_path / "cache")
    tally.turns += sum(speaker.turn for speaker in speakers)


def test_turns_are_lost_only_with_the_moment_they_were_answered_in(tally: Tally) -> None:
    """After the rounds: it is told what they have come to."""
    assert tally.kills == ROUNDS * KILLS
    assert tally.in_a_file > 0
    assert tally.kept > 0
    assert tally.oldest_lost_seconds < UNWRITTEN_SECONDS
    assert tally.evictions > 0
