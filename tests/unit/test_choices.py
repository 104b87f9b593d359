"""Several answers are read as they come, and nothing of them is lost, whoever stops waiting
when.
"""

from collections.abc import Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from semantic_trio.application.choices import Choices, Chosen
from semantic_trio.domain.conversation import Text
from semantic_trio.domain.errors import GrammarError
from semantic_trio.domain.generation import Failed, Finished, FinishReason

END = Finished(FinishReason.END_OF_TURN, "", None, prompt_tokens=5, completion_tokens=2)
FAULT = Failed(GrammarError("lost"))


@attrs.define(eq=False)
class Told:
    """An answer that tells what it is given."""

    send: trio.MemorySendChannel[object]
    _receive: trio.MemoryReceiveChannel[object]

    async def receive(self) -> list[object]:
        return [await self._receive.receive()]


def choices(count: int) -> tuple[Choices, list[Told]]:
    told = [Told(*trio.open_memory_channel[object](10)) for _ in range(count)]
    return Choices(told), told  # type: ignore[arg-type]


async def read(of: Choices, until: int) -> list[object]:
    found: list[object] = []
    while len(found) < until:
        found += await of.receive()
    return found


@pytest.mark.parametrize("ticks", range(6))
async def test_to_be_cancelled_loses_nothing(ticks: int) -> None:
    of, told = choices(3)
    for answer in told:
        answer.send.send_nowait(Text("a"))
        answer.send.send_nowait(END)
    found: list[object] = []
    for _ in range(50):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def give_up(scope: trio.CancelScope = scope) -> None:
                    for _ in range(ticks):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(give_up)
                found += await of.receive()
                nursery.cancel_scope.cancel()
        if found and isinstance(found[-1], Finished):
            break
    else:
        found += await read(of, 7 - len(found))

    assert sorted(
        (one.index, str(one.event)) for one in found[:-1] if isinstance(one, Chosen)
    ) == sorted((index, str(event)) for index in range(3) for event in (Text("a"), END))
    assert found[-1] == attrs.evolve(END, completion_tokens=6)


async def test_the_first_failure_is_the_last_that_is_told(autojump_clock: MockClock) -> None:
    of, told = choices(3)

    async def speak(at: int, what: Sequence[object]) -> None:
        for one in what:
            told[at].send.send_nowait(one)

    async with trio.open_nursery() as nursery:
        heard: list[object] = []

        async def listen() -> None:
            heard.extend(await of.receive())

        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        for at, what in enumerate(([FAULT], [Text("a")], [FAULT])):
            nursery.start_soon(speak, at, what)

    assert heard[-1] == FAULT
    assert heard.count(FAULT) == 1
    assert [one for one in heard[:-1] if not isinstance(one, Chosen)] == []
