"""Every log line on one request has the ids of the request and of its agent.

The engine and the device are tasks and threads of their own, which no request has bound its ids in:
their lines have to be given them. Lines of a request's own task and of its threads have them bound
(`tests/http/test_tracing.py`).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import attrs
from trio.testing import MockClock

import semantic_trio
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.observation import TraceContext
from semantic_trio.testing import FakeRunner
from tests.unit.conftest import StartEngine, prompt

PACKAGE = Path(semantic_trio.__file__).parent
# What runs outside of requests' tasks.
OUTSIDE = ("application", "adapters/mlx", "adapters/scripted")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
# Lines that are not on one request, by module: on a model, the device, the disk or a sink.
ON_NO_REQUEST = {
    "adapters/mlx/choosing.py": {"layout cannot be used", "passes warmed up"},
    "adapters/mlx/runner.py": {"loading weights", "loaded.notice", "model loaded"},
    "application/adapters.py": {"adapter loaded", "adapter unloaded"},
    "application/adoption.py": {
        "memory found on disk",
        "no memory on disk yet",
        "a part of the memory is gone and will be computed again",
        "tokenizer or chat template has changed: these agents' conversations are read again",
        "an agent on disk is not known again",
    },
    "application/delivery.py": {
        "not all events are delivered",
        "a sink is tried again",
        "a sink is written to again",
        "a sink cannot be written to",
    },
    "application/engine.py": {
        "memory and device differ",
        "step failed",  # of several requests, each of which has a line of its own
    },
    "application/model_swaps.py": {"the main model has changed"},
    "application/open_models.py": {
        "a model cannot be opened",
        "a model is open",
        "opening a model has failed",
        "a model is closed",
    },
    "application/persistence.py": {
        "not all memory is on disk",
        "memory on disk does not come",
        "memory cannot be deleted from disk",
        "memory is not written to disk",
        "memory is written to disk again",
    },
    "application/reading.py": {  # of blocks that several requests share
        "a damaged file could not be put aside",
        "memory could not be brought back",
        "event",
    },
}


@attrs.frozen
class LogCall:
    """A call that logs a line, as the source has it."""

    module: str
    event: str  # the text, or the expression where it is none
    has_ids: bool


def log_calls(source: str, module: str) -> Iterator[LogCall]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[event, *_]
            ) if level in LEVELS:
                text = event.value if isinstance(event, ast.Constant) else ast.unparse(event)
                unpacked = [ast.unparse(one.value) for one in node.keywords if one.arg is None]
                yield LogCall(module, str(text), any("log_ids" in one for one in unpacked))


def calls_outside() -> list[LogCall]:
    return [
        call
        for directory in OUTSIDE
        for path in sorted((PACKAGE / directory).rglob("*.py"))
        for call in log_calls(path.read_text(), str(path.relative_to(PACKAGE)))
    ]


def test_every_line_of_engine_and_device_on_a_request_has_its_ids() -> None:
    lacking = {
        (call.module, call.event)
        for call in calls_outside()
        if not call.has_ids and call.event not in ON_NO_REQUEST.get(call.module, ())
    }

    assert lacking == set()


def test_the_lines_on_no_request_are_those_that_there_are() -> None:
    found = {(call.module, call.event) for call in calls_outside() if not call.has_ids}

    assert {(module, event) for module, events in ON_NO_REQUEST.items() for event in events} == (
        found
    )


def test_a_line_without_ids_is_found() -> None:
    source = 'log.warning("grammar failed", row=1)\nlog.info("row lost", **start.log_ids, row=1)'

    assert list(log_calls(source, "row.py")) == [
        LogCall("row.py", "grammar failed", has_ids=False),
        LogCall("row.py", "row lost", has_ids=True),
    ]


async def test_a_row_is_opened_with_the_ids_of_its_request_and_of_the_agent_that_it_continues(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner())
    first = bench.submit(prompt(300), 5)
    answer = await first.result()
    await bench.submit((*prompt(300), *answer.tokens, 1), 5).result()

    assert first.agent is not None
    opened = [start for plan in bench.runner.plans for start in plan.open]
    assert [start.log_ids["agent"] for start in opened] == [first.agent.id] * 2
    assert all(start.log_ids["request_id"] for start in opened)


def test_the_ids_are_those_of_request_agent_and_trace() -> None:
    request = GenerationRequest("r", (1,), 1, seed=1, agent="ada")
    trace = TraceContext("a" * 32, "b" * 16)

    assert request.log_ids() == {"request_id": "r", "agent": "ada"}
    assert request.log_ids("bob")["agent"] == "bob"
    assert attrs.evolve(request, agent=None, trace=trace).log_ids() == {
        "request_id": "r",
        "agent": "",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
    }
