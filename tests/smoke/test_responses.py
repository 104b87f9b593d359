"""Responses that outlive the process: real servers, ended the hard way, on a real file."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
from openai.types.responses import Response

from semantic_trio.adapters.store import open_store
from semantic_trio.domain.responses import verify
from semantic_trio.entrypoints.exits import ExitCode
from semantic_trio.entrypoints.storing import DEFAULT_FILE
from tests.process import ServerProcess, run_to_end, serving
from tests.talk import ANSWER_TOKENS, words

LONG = 650


@contextmanager
def client_of(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as client:
        yield client


def respond(client: openai.OpenAI, said: str, previous: str | None = None) -> Response:
    return client.responses.create(
        model="default",
        input=said,
        previous_response_id=previous,
        max_output_tokens=ANSWER_TOKENS,
        temperature=0,
    )


def reused(after: Response, before: Response) -> float:
    """How much of what a turn left the next one did not compute again."""
    assert after.usage is not None
    assert before.usage is not None
    return after.usage.input_tokens_details.cached_tokens / (before.usage.total_tokens - 1)


def test_a_chain_goes_on_after_the_process_was_killed(tmp_path: Path) -> None:
    with serving(tmp_path) as server, client_of(server) as client:
        first = respond(client, words("first", LONG))
        second = respond(client, words("second", 20), first.id)
        told = server.get(f"/v1/responses/{second.id}").content
        server.until_written()
        server.signal(signal.SIGKILL)
        server.exit_code()
    with serving(tmp_path) as server, client_of(server) as client:
        assert server.get(f"/v1/responses/{second.id}").content == told
        third = respond(client, words("third", 20), second.id)
        assert server.end() == ExitCode.OK

    assert reused(second, first) >= 0.99
    assert reused(third, second) >= 0.99
    store = open_store("", tmp_path / "cache" / DEFAULT_FILE)
    chain = store.chain(third.id)
    store.close()
    assert [record.id for record in chain] == [first.id, second.id, third.id]
    assert verify(chain) == ()


def test_what_was_being_made_in_the_background_when_the_process_was_killed_has_failed(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server, client_of(server) as client:
        queued = client.responses.create(
            model="default", input=words("long", 20), max_output_tokens=100_000, background=True
        )
        server.signal(signal.SIGKILL)
        server.exit_code()
    with (
        serving(tmp_path, "--shutdown-timeout-seconds", "1") as server,
        client_of(server) as client,
    ):
        found = client.responses.retrieve(queued.id)
        again = client.responses.create(
            model="default", input=words("long", 20), max_output_tokens=100_000, background=True
        )
        assert server.end() == ExitCode.OK
    with serving(tmp_path) as server, client_of(server) as client:
        ended = client.responses.retrieve(again.id)

    assert [response.status for response in (found, ended)] == ["failed", "failed"]
    assert [response.error is not None for response in (found, ended)] == [True, True]


def test_a_database_that_cannot_be_reached_costs_what_is_to_be_stored(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with serving(tmp_path, SEMANTIC_RESPONSES_URL=f"sqlite://{tmp_path}/file/responses") as server:
        body = {"model": "default", "input": "hi", "max_output_tokens": 1}
        kept, unkept = (
            server.post("/v1/responses", json=body | more) for more in ({}, {"store": False})
        )

        assert [
            len(server.lines("responses are not stored")),
            kept.status_code,
            unkept.status_code,
        ] == [1, 503, 200]


def test_a_database_that_nobody_knows_is_one_line_and_a_code(tmp_path: Path) -> None:
    code, output = run_to_end(tmp_path, SEMANTIC_RESPONSES_URL="mysql://localhost/x")

    assert code == ExitCode.USAGE
    assert "responses_url" in output
    assert "Traceback" not in output
