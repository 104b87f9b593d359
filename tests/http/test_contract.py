"""The contract at /openapi.json, checked by those who read it as it stands."""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.embedding import EmbeddingForm
from semantic_trio.testing import FakeRunner
from tests.http import unasked
from tests.http.serving import FakeHost, fake_model, get, listening, served
from tests.search import examples

# Tokens: more than any generated conversation has.
CONTEXT_LENGTH = 1_000_000
# It was made to embed: one that was made to generate ranks no documents.
EMBEDS = EmbeddingForm(is_approximate=False)
# of each operation; the phase of coverage adds two thirds of all requests
EXAMPLES = examples(15, 5)


class AnyModel(AppState):
    """Serves every name: random ones would get no further than a 404."""

    async def resolve(self, name: str, stack: ExitStack) -> ServedModel:
        """Return the one model."""
        return await super().resolve("default", stack)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)  # the whole contract, however busy the machine is
async def test_schemathesis_finds_no_violation(tmp_path: Path) -> None:
    """Generated requests, valid and not: no 5xx, documented statuses and bodies, valid ones
    accepted, invalid ones refused.
    """
    structlog.configure(processors=[_drop])

    def again() -> ServedModel:
        """Return the model as it is loaded after it was unloaded: no generated conversation is too
        long for it either.
        """
        return fake_model(
            "org/tiny", FakeRunner(end_after=3), context_length=CONTEXT_LENGTH, embeds=EMBEDS
        )

    host = FakeHost({"org/tiny": again}, open_seconds=0)
    server = served(
        FakeRunner(end_after=3),
        context_length=CONTEXT_LENGTH,
        kind=AnyModel,
        host=host,
        embeds=EMBEDS,
    )
    server.engine.batch_window_seconds = 0  # ten thousand requests come one after the other
    # it is among what is asked to be changed
    server.runner.before_step = lambda plan: setattr(server.engine, "batch_window_seconds", 0)
    async with listening(server) as port:
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"http://127.0.0.1:{port}/openapi.json",
        ]
        options = ["--max-examples", str(EXAMPLES), "--seed", "1", "--no-color", "--checks", "all"]
        environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": unasked.__name__,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        done = await trio.run_process(
            [*command, *options],
            check=False,
            capture_stdout=True,
            capture_stderr=True,
            cwd=tmp_path,
            env=environment,
        )

    assert done.returncode == 0, done.stdout.decode()[-20_000:]
    assert server.engine.steps > EXAMPLES
    assert server.engine.open_generations == 0
    assert any(agent.conversation.messages for agent in server.engine.memory.agents), (
        "agents that were made are the ones that are asked"
    )
    server.engine.memory.audit()


async def test_every_reference_of_the_contract_resolves() -> None:
    contract: Any = (await get(served(FakeRunner()).app, "/openapi.json")).json
    components = contract["components"]["schemas"]
    references = {
        part.split('"')[0] for part in json.dumps(contract).split("#/components/schemas/")[1:]
    }

    assert references <= set(components)
    assert {"MessagesRequest", "ChatRequest", "MessageAnswer", "ChatAnswer", "ModelList"} <= set(
        components
    )
    assert {
        "CreateAgent",
        "ForkAgent",
        "AgentTurn",
        "AgentView",
        "AgentList",
        "AgentAnswer",
        "Warmed",
        "LastTurn",
    } <= set(components)
    assert (
        "text/event-stream"
        in contract["paths"]["/v1/messages"]["post"]["responses"]["200"]["content"]
    )
    agent = (
        contract["paths"]["/v1/agents/{agent_id}/export"]["get"],
        contract["paths"]["/v1/agents/{agent_id}/import"]["post"],
    )
    assert [
        set(one["content"]) for one in (agent[0]["responses"]["200"], agent[1]["requestBody"])
    ] == [{"application/x-tar"}] * 2


def _drop(*_: object) -> str:
    raise structlog.DropEvent
