"""Probes, metrics, models, settings that change while the server runs."""

import math

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from semantic_trio.adapters.metrics import Build, Metrics
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.embedding import EmbeddingForm
from semantic_trio.domain.errors import EngineDeadError
from semantic_trio.domain.observation import ModelLoaded, ModelSwapped, ModelUnloaded, RequestEnded
from semantic_trio.domain.prompt import NOTHING_KNOWN, Known, Prompt
from semantic_trio.domain.step import BlockKey, SaveBlock
from semantic_trio.testing import ByteCodec, FakeRunner
from tests.http.serving import Call, Served, anthropic_body, get, openai_body, post, running, served


async def probes(server: Served) -> list[int]:
    """What live, ready and startup say."""
    return [
        (await get(server.app, f"/health/{name}")).status for name in ("live", "ready", "startup")
    ]


def read(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Values by the names of metrics and the sorted values of labels."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


async def test_probes_tell_the_truth_in_every_state(autojump_clock: trio.testing.MockClock) -> None:
    server = served(FakeRunner())
    assert await probes(server) == [200, 503, 503]
    async with running(server):
        assert await probes(server) == [200, 200, 200]
        await server.engine.drain(0)
        assert await probes(server) == [200, 503, 200]
    assert await probes(server) == [503, 503, 200]


async def test_while_the_runner_is_rebuilt_the_server_is_not_ready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class SlowReset(FakeRunner):
        async def reset(self, keep: tuple[SaveBlock, ...] = ()) -> frozenset[BlockKey]:
            await trio.sleep(5)
            return await super().reset(keep)

    def fails(plan: object) -> None:
        runner.before_step = lambda plan: None
        raise RuntimeError("on fire")

    runner = SlowReset(before_step=fails)
    async with running(served(runner)) as server:
        await post(server.app, "/v1/messages", anthropic_body())
        assert await probes(server) == [200, 503, 200]
        await trio.sleep(6)
        assert await probes(server) == [200, 200, 200]


async def test_a_dead_engine_is_not_live(autojump_clock: trio.testing.MockClock) -> None:
    def fails(plan: object) -> None:
        raise RuntimeError("on fire")

    server = served(FakeRunner(before_step=fails))
    with pytest.RaisesGroup(EngineDeadError, flatten_subgroups=True):
        async with running(server):
            for _ in range(3):
                await post(server.app, "/v1/messages", anthropic_body())
            await trio.sleep(1)
    assert await probes(server) == [503, 503, 200]
    assert (await post(server.app, "/v1/messages", anthropic_body())).status == 503


async def test_figures_follow_the_requests(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
        await post(server.app, "/v1/messages", anthropic_body(max_tokens=5))
        await post(server.app, "/v1/chat/completions", openai_body(max_tokens=5, stream=True))
        await post(server.app, "/v1/messages", anthropic_body(model="no such"))
        await get(server.app, "/health/live")
        call = await get(server.app, "/metrics")

    assert call.answer_headers["content-type"].startswith("text/plain")
    samples = read(server.metrics)
    assert samples["semantic_request_total", "200", "anthropic", "org/tiny"] == 1
    assert samples["semantic_request_total", "200", "openai", "org/tiny"] == 1
    assert samples["semantic_request_total", "", "404", "anthropic"] == 1
    assert samples["semantic_request_duration_seconds_count",] == 3
    assert samples["semantic_time_to_first_token_seconds_count", "cold", "interactive"] == 1
    assert samples["semantic_time_to_first_token_seconds_count", "interactive", "ram"] == 1, (
        "the second asked the same"
    )
    assert samples["semantic_inter_token_seconds_count",] == 8
    # the last two of an answer arrive together
    assert samples["semantic_inter_token_seconds_sum",] == pytest.approx(6 * 0.05)
    assert samples["semantic_tokens_generated_total",] == server.engine.tokens_generated >= 10
    assert samples["semantic_request_queue_depth",] == samples["semantic_rows",] == 0


class SlowCodec(ByteCodec):
    """Takes a quarter of a second for each conversation, and for each text."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self.clock = clock

    def encode_prompt(self, conversation: Conversation, known: Known = NOTHING_KNOWN) -> Prompt:
        """See `TextCodec.encode_prompt`."""
        self.clock.jump(0.25)
        return super().encode_prompt(conversation, known)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """See `TextCodec.encode_text`."""
        self.clock.jump(0.25)
        return super().encode_text(text)


async def test_the_time_that_tokens_take_is_observed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), codec=SlowCodec(autojump_clock))) as server:
        await post(server.app, "/v1/messages", anthropic_body())
        await post(server.app, "/v1/chat/completions", openai_body())

    samples = read(server.metrics)
    assert samples["semantic_tokenization_seconds_count",] == 2
    assert samples["semantic_tokenization_seconds_sum",] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("path", "fields", "seconds"),
    [
        ("/v1/completions", {"prompt": ["sea", "sky"], "max_tokens": 1}, 0.5),
        ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 1}, 0),
        ("/v1/embeddings", {"input": ["sea", "sky", "net"]}, 0.75),
        ("/v1/rerank", {"query": "sea", "documents": ["sky", "net"]}, 0.75),
    ],
)
async def test_the_texts_of_a_request_are_one_observation_of_that_time(
    autojump_clock: trio.testing.MockClock, path: str, fields: dict[str, object], seconds: float
) -> None:
    codec, embeds = SlowCodec(autojump_clock), EmbeddingForm(is_approximate=False)
    async with running(served(FakeRunner(), codec=codec, embeds=embeds)) as server:
        assert (await post(server.app, path, {"model": "org/tiny"} | fields)).status == 200

    samples = read(server.metrics)
    assert samples["semantic_tokenization_seconds_count",] == 1
    assert samples["semantic_tokenization_seconds_sum",] == pytest.approx(seconds)


async def test_the_rows_of_every_forward_pass_are_observed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
        async with trio.open_nursery() as nursery:
            for letter in "abc":
                nursery.start_soon(
                    post, server.app, "/v1/messages", anthropic_body(letter * 300, max_tokens=3)
                )
        await post(server.app, "/v1/messages", anthropic_body("d", max_tokens=4))
        samples = read(server.metrics)

    rows = [len(plan.rows) for plan in server.runner.plans if plan.has_work]
    buckets = {
        labels[0]: value
        for (name, *labels), value in samples.items()
        if name == "semantic_batch_size_bucket"
    }
    assert {1, 3} <= set(rows)
    assert (samples["semantic_batch_size_count",], samples["semantic_batch_size_sum",]) == (
        len(rows),
        sum(rows),
    )
    assert buckets == {
        str(bound): sum(n <= bound for n in rows) for bound in (1, 2, 4, 8, 16, 32, 64, 128, 256)
    } | {"+Inf": len(rows)}


def test_every_histogram_of_seconds_has_buckets_from_a_millisecond_to_five_minutes() -> None:
    server = served(FakeRunner())
    metrics = server.metrics
    metrics.observe(
        RequestEnded(request_id="r", protocol="openai", status="200", began_at=1.0, ended_at=1.0005)
    )
    families = [
        one
        for one in metrics.registry.collect()
        if one.type == "histogram" and one.name.endswith("_seconds")
    ]

    bounds = [
        [float(s.labels["le"]) for s in one.samples if s.name.endswith("_bucket")]
        for one in families
        if one.samples
    ]
    assert "semantic_request_duration_seconds" in {one.name for one in families}
    assert {(found[0], found[-2], found[-1]) for found in bounds} == {(0.001, 300.0, math.inf)}


def test_the_build_and_the_time_to_load_a_model_are_told() -> None:
    metrics = Metrics(build=Build("1.2.3", "abc-dirty"))
    metrics.observe(ModelLoaded(model="m", seconds=2.5))

    samples = read(metrics)
    assert samples["semantic_build_info", "1.2.3", "abc-dirty"] == 1
    assert (
        samples["semantic_model_load_seconds_count",],
        samples["semantic_model_load_seconds_sum",],
    ) == (1, 2.5)


def test_swaps_and_unloaded_models_are_counted() -> None:
    metrics = Metrics()
    metrics.observe(ModelUnloaded(model="m", cause="swap", size_bytes=1, seconds=1.0))
    metrics.observe(ModelSwapped(model="n", previous="m", seconds=9.0, is_done=True))
    metrics.observe(ModelSwapped(model="o", previous="n", seconds=3.0, is_done=False))

    samples = read(metrics)
    assert (
        samples["semantic_model_swap_duration_seconds_count",],
        samples["semantic_model_swap_duration_seconds_sum",],
    ) == (1, 9.0)
    assert samples["semantic_model_swap_failure_total",] == 1
    assert samples["semantic_model_eviction_total", "swap"] == 1


async def test_a_client_that_left_is_counted_as_such(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=0.05))) as server,
        trio.open_nursery() as nursery,
    ):
        call = Call(
            server.app,
            "POST",
            "/v1/messages",
            b'{"model":"tiny","max_tokens":100,"messages":[{"role":"user","content":"x"}],"stream":true}',
        )
        nursery.start_soon(call.run)
        await trio.sleep(1)
        call.gone.set()
    assert b'status="client_gone"' in server.metrics.exposition()


async def test_the_batch_window_changes_while_running() -> None:
    server = served(FakeRunner())
    before = await get(server.app, "/admin/batch-window")
    changed = await Call(server.app, "PUT", "/admin/batch-window", b'{"batch_window_ms": 50}').run()

    assert before.json == {"batch_window_ms": 10}
    assert changed.json == {"batch_window_ms": 50}
    assert server.engine.batch_window_seconds == 0.05


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"batch_window_ms": 0}',
        b'{"batch_window_ms": 1001}',
        b'{"batch_window_ms": "x"}',
        b"",
    ],
)
async def test_a_batch_window_out_of_range_changes_nothing(body: bytes) -> None:
    server = served(FakeRunner())
    assert (await Call(server.app, "PUT", "/admin/batch-window", body).run()).status == 400
    assert server.engine.batch_window_seconds == 0.01


async def test_an_unknown_model_is_told_in_the_words_of_who_asks() -> None:
    app = served(FakeRunner()).app
    openai = await get(app, "/v1/models/nope")
    anthropic = await get(app, "/v1/models/nope", **{"anthropic-version": "2023-06-01"})

    assert (openai.status, anthropic.status) == (404, 404)
    assert "code" in openai.json["error"]  # type: ignore[operator]
    assert anthropic.json["error"] == {
        "type": "not_found_error",
        "message": "model: nope (served here: org/tiny)",
    }


async def test_the_root_answers_head_and_get() -> None:
    app = served(FakeRunner()).app
    assert (await Call(app, "HEAD", "/").run()).status == 200
    answer = (await get(app, "/")).json
    assert (answer["name"], answer["version"], answer["page"]) == (
        "semantic-trio",
        "0.0.0",
        "/dashboard",
    )
    assert "/openapi.json" in str(answer["api"])
    assert b"\n" not in (await get(app, "/")).content
