"""A server with every optional feature off, and with each of them alone on: it answers, and the
feature does what it is for and nothing else.

The server of `semantic-trio serve` with the tiny random model, in this process and on its one
device thread.
"""

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from tests.device import shared_device  # first: it loads the BLAS

import attrs  # isort: skip
import httpx
import pytest
import trio

from semantic_trio.adapters.mlx.device import Device
from semantic_trio.entrypoints import serve
from semantic_trio.entrypoints.serve import Server
from semantic_trio.entrypoints.settings import Settings
from tests.otlp import Received, collector

# Seconds in which a server on a busy machine starts and answers.
PATIENCE_SECONDS = 240.0
# Every optional feature off.
OFF = {
    "disk_budget_mb": 0,
    "disk_floor_mb": 0,
    "cache_budget_mb": 64,
    "port": 0,
    "context_length": 512,
    "shutdown_timeout_seconds": 60,
}
QUESTION = {"model": "default", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
SINKS = ("event_log", "otlp_traces", "otlp_metrics", "statsd")


@attrs.frozen
class Seen:
    """What a server has left, and what it said of itself while it ran."""

    directory: Path
    metrics: str
    statuses: dict[str, int]  # of requests without a key, by path
    collected: Received

    @property
    def sinks(self) -> set[str]:
        """The sinks that there were."""
        return {name for name in SINKS if f'sink="{name}"' in self.metrics}

    @property
    def files(self) -> set[str]:
        """Kinds of files that there are."""
        return {path.suffix for path in self.directory.rglob("*") if path.is_file()} & {
            ".jsonl",
            ".safetensors",
            ".sqlite",
        }


@attrs.define(eq=False)
class BorrowedDevice(Device):
    """The device of the test process, which goes on when a server has ended: a process can have one
    MLX thread in its life.
    """

    _returned: trio.Event = attrs.field(init=False, factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await self._returned.wait()

    def stop(self) -> None:
        self._returned.set()

    def post(self, call: Callable[[], None]) -> None:
        shared_device().post(call)


@asynccontextmanager
async def serving(settings: Settings, model: Path) -> AsyncIterator[str]:
    """A server, by its URL; it ends as an operator ends it."""
    announced, url = trio.Event(), list[str]()

    def announce(address: str) -> None:
        url.append(address)
        announced.set()

    server = Server(settings, model, announce)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await announced.wait()
            yield url[0]
            async with httpx.AsyncClient(base_url=url[0], timeout=PATIENCE_SECONDS) as client:
                await client.post("/admin/drain", headers={"x-api-key": settings.key or ""})


@contextmanager
def switched_on(feature: str, directory: Path) -> Iterator[tuple[dict[str, object], Received]]:
    """The settings that switch one feature on, and what a collector gets."""
    with ExitStack() as stack:
        received = stack.enter_context(collector())
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        chosen: dict[str, dict[str, object]] = {
            "nothing": {},
            "memory on disk": {"disk_budget_mb": 64},
            "event log": {"event_log": directory / "events.jsonl"},
            "traces": {"otlp_endpoint": received.url},
            "StatsD": {"statsd_address": f"127.0.0.1:{udp.getsockname()[1]}"},
            "responses for ever": {"responses_days": 0},
            "speculation": {"num_draft_tokens": 4},
            "no background": {"background_wait_seconds": 0},
            "a key": {"api_key": "sesame"},
            "prompts in the log": {"log_prompts": True},
        }
        yield chosen[feature], received


async def seen_with(feature: str, model: Path, directory: Path) -> Seen:
    """What a server with one feature on has done for a question, and for a response that is
    stored.
    """
    with switched_on(feature, directory) as (chosen, received):
        settings = Settings(cache_dir=directory, **(OFF | chosen))  # type: ignore[arg-type]
        async with (
            serving(settings, model) as url,
            httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client,
        ):
            statuses = {"/v1/models": (await client.get("/v1/models")).status_code}
            client.headers["x-api-key"] = settings.key or ""
            answer = await client.post("/v1/chat/completions", json=QUESTION)
            assert answer.json()["usage"]["completion_tokens"] > 0
            response = (
                await client.post(
                    "/v1/responses",
                    json={"model": "default", "input": "hi", "max_output_tokens": 4},
                )
            ).json()
            assert (await client.get(f"/v1/responses/{response['id']}")).json()["id"] == response[
                "id"
            ]
            metrics = (await client.get("/metrics")).text
    return Seen(directory, metrics, statuses, received)


# What a feature changes: a claim about what was seen. What it does not change is compared with all
# features off.
CHANGES: dict[str, Callable[[Seen], bool]] = {
    "nothing": lambda seen: not seen.sinks,
    "memory on disk": lambda seen: ".safetensors" in seen.files,
    "event log": lambda seen: (
        {
            json.loads(line)["event"]
            for line in (seen.directory / "events.jsonl").read_text().splitlines()
        }
        >= {"request", "drain"}
    ),
    "traces": lambda seen: {span.name for span in seen.collected.spans} >= {"request", "decode"},
    "StatsD": lambda seen: (
        'semantic_sink_breaker_state{sink="statsd",state="closed"} 1.0' in seen.metrics
    ),
    "responses for ever": lambda seen: ".sqlite" in seen.files,
    "speculation": lambda seen: "semantic_draft_tokens_total" in seen.metrics,
    "no background": lambda seen: (
        'semantic_background_requests{state="waiting"} 0.0' in seen.metrics
    ),
    "a key": lambda seen: seen.statuses["/v1/models"] == 401,
    "prompts in the log": lambda seen: not seen.sinks,
}
OF_FEATURE = {
    "event log": {"event_log"},
    "traces": {"otlp_traces", "otlp_metrics"},
    "StatsD": {"statsd"},
}


@pytest.mark.parametrize("feature", CHANGES)
async def test_a_server_answers_with_this_feature_alone(
    feature: str, tiny_random_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "Device", BorrowedDevice)
    for bound in (
        "adapters.otel.collector.TIMEOUT_SECONDS",
        "application.delivery.DEADLINE_SECONDS",
        "entrypoints.observing.SINK_SECONDS",
    ):
        # a sink may be as slow as the machine that the tests run on
        monkeypatch.setattr(f"semantic_trio.{bound}", PATIENCE_SECONDS)
    seen = await seen_with(feature, tiny_random_path, tmp_path)

    assert CHANGES[feature](seen)
    assert seen.sinks == OF_FEATURE.get(feature, set())
    assert (".safetensors" in seen.files) == (feature == "memory on disk")
    assert (".jsonl" in seen.files) == (feature == "event log")
    assert bool(seen.collected.spans) == (feature == "traces")
    assert (seen.statuses["/v1/models"] == 401) == (feature == "a key")
