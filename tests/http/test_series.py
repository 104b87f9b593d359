"""The series of `/metrics`: their number stays small, and the Grafana dashboard asks for none that
is not there.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import CollectorRegistry

from semantic_trio.testing import FakeRunner
from tests.http.serving import anthropic_body, openai_body, post, running, served

DASHBOARD = Path(__file__).parents[2] / "config" / "grafana" / "semantic-trio.json"
# Series that histograms and counters have beside their name.
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}
AGENTS = 999  # and the first one


def names(families: Iterator[Metric]) -> set[str]:
    """Names that can be asked for, whether or not there is a value yet."""
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def series(registry: CollectorRegistry) -> int:
    return sum(len(family.samples) for family in registry.collect())


async def test_agents_and_odd_names_of_models_make_no_series(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        await post(server.app, "/v1/chat/completions", openai_body())
        await post(server.app, "/v1/chat/completions", openai_body(model="no such model"))
        await post(server.app, "/v1/messages", anthropic_body(model="no such model"))
        await post(server.app, "/v1/agents", {"id": "first"})
        before = series(server.metrics.registry)
        for number in range(AGENTS):
            made = await post(server.app, "/v1/agents", {"id": f"agent-{number}"})
            assert made.status == 201
            if number % 20 == 0:
                await post(
                    server.app,
                    "/v1/chat/completions",
                    openai_body(model=f'odd {number} \u2028 {{}}"'),
                )
                await post(server.app, "/v1/messages", anthropic_body(model=f"../{number}"))
                await post(server.app, f"/v1/nowhere/{number}", {})
        after = series(server.metrics.registry)

    assert after - before <= 4, "only the statuses that were new"
    assert after < 1000


@pytest.mark.skipif(not DASHBOARD.is_file(), reason="needs a checkout")
async def test_the_grafana_dashboard_asks_for_metrics_that_are_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), disk_bytes=1 << 20)) as server:
        await post(server.app, "/v1/chat/completions", openai_body())
        there = names(server.metrics.registry.collect())
    dashboard = json.loads(DASHBOARD.read_text())
    asked = {
        panel["title"]: set(re.findall(r"\bsemantic_\w+", json.dumps(panel["targets"])))
        for panel in dashboard["panels"]
    }

    assert {title: found - there for title, found in asked.items() if found - there} == {}
    assert all(asked.values()), "every panel shows something of this server"
    assert "semantic_build_info" in there, "the list of jobs is made of it"


@pytest.mark.skipif(not DASHBOARD.is_file(), reason="needs a checkout")
def test_the_grafana_dashboard_is_one_that_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}

    assert len({panel["id"] for panel in panels}) == len(places) == len(panels)
    sources = {
        json.dumps(source)
        for panel in panels
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"]))
    }
    assert sources == {'{"type": "prometheus", "uid": "${DS_PROMETHEUS}"}'}
    assert [one["name"] for one in dashboard["__inputs"]] == ["DS_PROMETHEUS"]
