"""The feed of the dashboard: who may look on, how often frames come, and that nobody who looks on
costs others anything.
"""

import itertools

import pytest
import trio
from trio.testing import MockClock

from semantic_trio.adapters.http.dashboard.feed import (
    FRAME_SECONDS,
    HEARTBEAT_SECONDS,
    KEY_PREFIX,
    LONGEST_FRAME_SECONDS,
    MOST_VIEWERS,
    POLICY_VIOLATION,
    SUBPROTOCOL,
    TRY_AGAIN_LATER,
    WRONG_KEY,
)
from semantic_trio.adapters.http.serving.app_state import AppState, HttpSettings
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.testing import FakeRunner
from tests.http.serving import Served, anthropic_body, post, running, served
from tests.http.viewers import Viewer, key_subprotocol

KEYED = HttpSettings(api_key="k?ey/+~")


async def look_on(server: Served, seconds: float, viewer: Viewer) -> Viewer:
    """Look on for a while, and leave."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(viewer.run)
        await trio.sleep(seconds)
        viewer.leave()
    return viewer


async def test_while_nothing_changes_a_frame_comes_with_every_heartbeat(
    autojump_clock: MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        viewer = await look_on(server, 2.5 * HEARTBEAT_SECONDS, Viewer(server.app))

    assert viewer.kinds == ["accept", "send", "send", "send"]
    assert [at for at, _ in viewer.frames] == pytest.approx(
        [0, HEARTBEAT_SECONDS, 2 * HEARTBEAT_SECONDS], abs=FRAME_SECONDS
    )
    assert viewer.sent[0][1]["subprotocol"] == SUBPROTOCOL


async def test_changes_come_five_times_a_second_at_most_and_each_frame_is_of_its_moment(
    autojump_clock: MockClock,
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=0.01))) as server,
        trio.open_nursery() as nursery,
    ):
        viewer = Viewer(server.app)
        nursery.start_soon(viewer.run)
        await post(server.app, "/v1/messages", anthropic_body(max_tokens=300))
        await trio.sleep(FRAME_SECONDS)
        viewer.leave()

    times = [at for at, _ in viewer.frames]
    tokens = [message["frame"]["models"][0]["tokens_generated"] for _, message in viewer.frames]
    assert (
        min(later - earlier for earlier, later in itertools.pairwise(times)) >= FRAME_SECONDS - 1e-9
    )
    assert [message["at"] for _, message in viewer.frames] == pytest.approx(times, abs=0.001)
    assert tokens == sorted(tokens)
    assert len(tokens) > 10
    assert tokens[-1] == server.engine.tokens_generated >= 300


async def test_a_slow_viewer_gets_the_newest_frame_and_costs_others_nothing(
    autojump_clock: MockClock,
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=0.01))) as server,
        trio.open_nursery() as nursery,
    ):
        quick, slow = Viewer(server.app), Viewer(server.app, seconds_per_frame=1.0)
        for viewer in (quick, slow):
            nursery.start_soon(viewer.run)
        await post(server.app, "/v1/messages", anthropic_body(max_tokens=400))
        for viewer in (quick, slow):
            viewer.leave()

    times = [at for at, _ in quick.frames]
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) == pytest.approx(
        FRAME_SECONDS
    )
    assert 3 <= len(slow.frames) <= 5
    for at, message in slow.frames:
        assert at - message["at"] <= FRAME_SECONDS + 0.001, "nothing was waiting for it to read"


async def test_viewers_are_bounded_and_one_that_leaves_makes_room(
    autojump_clock: MockClock,
) -> None:
    async with running(served(FakeRunner())) as server, trio.open_nursery() as nursery:
        viewers = [Viewer(server.app) for _ in range(MOST_VIEWERS)]
        for viewer in viewers:
            nursery.start_soon(viewer.run)
        await trio.sleep(1)
        refused = await Viewer(server.app).run()
        viewers[0].leave()
        await trio.sleep(1)
        admitted = await look_on(server, 1, Viewer(server.app))
        for viewer in viewers[1:]:
            viewer.leave()

    assert (refused.close_code, refused.frames) == (TRY_AGAIN_LATER, [])
    assert len(admitted.frames) == 1


@pytest.mark.parametrize(
    ("headers", "offered"),
    [
        ({}, (key_subprotocol("k?ey/+~"),)),
        ({"x-api-key": "k?ey/+~"}, ()),
        ({"authorization": "Bearer k?ey/+~"}, ()),
    ],
    ids=["browser", "x-api-key", "bearer"],
)
async def test_the_key_opens_as_a_subprotocol_or_in_a_header(
    headers: dict[str, str], offered: tuple[str, ...], autojump_clock: MockClock
) -> None:
    async with running(served(FakeRunner(), KEYED)) as server:
        viewer = await look_on(
            server, 1, Viewer(server.app, headers=headers, subprotocols=(SUBPROTOCOL, *offered))
        )

    assert len(viewer.frames) == 1
    assert viewer.close_code is None
    assert viewer.sent[0][1]["subprotocol"] == SUBPROTOCOL, "the one with the key is not repeated"


@pytest.mark.parametrize(
    "offered",
    [
        (),
        (key_subprotocol("wrong"),),
        (KEY_PREFIX,),
        (f"{KEY_PREFIX}%%%",),
        (f"{KEY_PREFIX}w6Q",),
        (f"{KEY_PREFIX}A",),
    ],
)
async def test_without_the_key_no_frame_is_sent_and_the_page_is_told(
    offered: tuple[str, ...], autojump_clock: MockClock
) -> None:
    async with running(served(FakeRunner(), KEYED)) as server:
        viewer = await Viewer(server.app, subprotocols=(SUBPROTOCOL, *offered)).run()

    assert viewer.kinds == ["accept", "close"]
    assert viewer.close_code == WRONG_KEY


FOREIGN = {
    "origin": {"headers": {"origin": "https://evil.example"}},
    "origin of a sandbox": {"headers": {"origin": "null"}},
    "host": {"headers": {"host": "evil.example"}},
    "path": {"path": "/v1/agents"},
    "page": {"path": "/dashboard"},
    "HTTP/2": {"http_version": "2"},
    "no subprotocol": {"subprotocols": ()},
}


@pytest.mark.parametrize("wrong", FOREIGN.values(), ids=FOREIGN)
async def test_foreign_websockets_are_not_accepted(
    wrong: dict[str, object], autojump_clock: MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        viewer = await Viewer(server.app, **wrong).run()  # type: ignore[arg-type]

    assert viewer.kinds == ["close"]


async def test_a_page_of_this_machine_may_look_on(autojump_clock: MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        viewer = await look_on(
            server, 1, Viewer(server.app, headers={"origin": "http://localhost:8000"})
        )

    assert len(viewer.frames) == 1


async def test_a_viewer_that_sends_anything_is_sent_away(autojump_clock: MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        viewer = Viewer(server.app)
        viewer.says.send_nowait({"type": "websocket.receive", "text": "hello", "bytes": None})
        await viewer.run()

    assert viewer.close_code == POLICY_VIOLATION


@pytest.mark.parametrize(
    ("cost", "gap"), [(0.001, FRAME_SECONDS), (0.005, 0.5), (1.0, LONGEST_FRAME_SECONDS)]
)
async def test_frames_that_take_long_to_make_come_less_often(
    cost: float, gap: float, autojump_clock: MockClock
) -> None:
    """All frames together take a hundredth of the event loop."""

    class Costly(AppState):
        @property
        def models(self) -> tuple[ServedModel, ...]:
            """The models, after a while in which nothing else runs."""
            autojump_clock.jump(cost)
            made.append(trio.current_time())
            return super().models

    made: list[float] = []
    async with running(served(FakeRunner(), kind=Costly)) as server:
        await look_on(server, 10, Viewer(server.app))

    assert [later - earlier for earlier, later in itertools.pairwise(made)] == pytest.approx(
        [gap] * (len(made) - 1)
    )
