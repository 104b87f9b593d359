"""The benchmark without a model: prompts, the client's reading of streams, what is made of times,
the table, and what is refused before it starts.
"""

import functools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import msgspec
import pytest
import trio
from click.testing import CliRunner

from semantic_trio.adapters.catalogue.progress import Silent
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.families import published_spec
from semantic_trio.entrypoints.bench import command
from semantic_trio.entrypoints.bench.client import Client, Message, TimedAnswer
from semantic_trio.entrypoints.bench.comparison import compared, read_baseline
from semantic_trio.entrypoints.bench.measures import (
    NEIGHBOURS,
    GrowingConversation,
    in_turn,
    neighbours,
    throughput,
)
from semantic_trio.entrypoints.bench.prompts import Prompts
from semantic_trio.entrypoints.bench.reference import MODELS, Reference, reference_rows
from semantic_trio.entrypoints.bench.results import (
    Machine,
    NeighbourGaps,
    Options,
    Report,
    Round,
    Throughput,
    Turns,
    TurnTimes,
)
from semantic_trio.entrypoints.bench.summary import RATIO, summary
from semantic_trio.entrypoints.bench.table import lines
from semantic_trio.entrypoints.bench.talks import FIRST, Talks
from semantic_trio.entrypoints.cli import main
from semantic_trio.entrypoints.exits import ExitCode

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
STREAM = (
    b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
    b'data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}\n\n'
    b'data: {"choices": [{"delta": {"content": "one"}}]}\n\n'
    b": ping\n\n"
    b'data: {"choices": [{"delta": {"content": " two"}}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5, '
    b'"prompt_tokens_details": {"cached_tokens": 4}}}\n\n'
    b"data: [DONE]\n\n"
)


async def served(nursery: trio.Nursery, *pieces: bytes) -> Client:
    """A client of a server that answers every request with the same bytes."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            for piece in pieces:
                await stream.send_all(piece)

    [listener] = await nursery.start(functools.partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
    return Client(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/v1")


def test_a_seed_and_a_name_make_one_prompt_and_others_begin_otherwise() -> None:
    first, again, other = Prompts("7"), Prompts("7"), Prompts("8")

    assert first.story(4, 1) == again.story(4, 1)
    others = (
        first.story(4, 2),
        first.story(8, 1),
        other.story(4, 1),
        first.opening(40),
        first.question(),
    )
    beginnings = {text[:60] for text in (first.story(4, 1), *others)}
    assert len(beginnings) == 6
    assert len(first.opening(500).split()) == pytest.approx(500, abs=10)


async def test_an_answer_is_read_however_its_bytes_are_cut(nursery: trio.Nursery) -> None:
    client = await served(nursery, HEAD, *(STREAM[i : i + 7] for i in range(0, len(STREAM), 7)))

    answer = await client.chat([{"role": "user", "content": "count"}], 5)

    assert (answer.thoughts, answer.text, len(answer.stamps)) == ("hm", "one two", 3)
    assert (answer.tokens, answer.prompt_tokens, answer.cached_tokens) == (5, 9, 4)
    assert answer.started < answer.stamps[0] <= answer.stamps[-1] <= answer.ended


REFUSAL = b'{"error": {"message": "prompt is too long: 9000 tokens > 8192 maximum"}}'
TORN = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\ndata: "


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(REFUSAL), REFUSAL),
            "says 400: prompt is too long: 9000 tokens",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nOops", "says 502: Oops"),
        (HEAD + b'data: {"error": {"message": "a step failed"}}\n\n', "a step failed"),
        (
            HEAD + b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n',
            "does not count the tokens",
        ),
        (HEAD + b"data: {no JSON\n\n", "no whole answer"),
        (TORN, "no whole answer"),
        (b"", "no whole answer"),
    ],
)
async def test_a_server_that_does_not_answer_is_an_error_that_says_why(
    nursery: trio.Nursery, answer: bytes, said: str
) -> None:
    client = await served(nursery, answer)

    with pytest.raises(InvalidRequestError, match=re.escape(said)):
        await client.chat([], 5)


async def test_the_model_is_the_first_that_is_listed(nursery: trio.Nursery) -> None:
    body = b'{"data": [{"id": "one"}, {"id": "two"}]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"

    assert await (await served(nursery, head % len(body) + body)).model_id() == "one"
    with pytest.raises(InvalidRequestError, match="lists no models"):
        await (await served(nursery, head % 2 + b"{}")).model_id()


@attrs.define(eq=False)
class Scripted(Client):
    """A server whose streams send a piece a second, and one every two seconds while it reads a long
    prompt, from second 20 to 30.
    """

    url: str = ""
    asked: list[Sequence[Message]] = attrs.field(factory=list)
    stream_end: float = 40.0
    is_long_asked: trio.Event = attrs.field(factory=trio.Event)

    async def chat(
        self, messages: Sequence[Message], tokens: int, answer: TimedAnswer | None = None
    ) -> TimedAnswer:
        """See `Client`."""
        answer = answer or TimedAnswer()
        self.asked.append(tuple(messages))
        if answer.lead:
            answer.stamps, answer.tokens = (
                [*map(float, range(1, 21)), 22.0, 24.0, 26.0, 28.0, 30.0, 31.0],
                52,
            )
            answer.is_running.set()
            await self.is_long_asked.wait()
            answer.ended = self.stream_end
        else:
            self.is_long_asked.set()
            (
                answer.started,
                answer.stamps,
                answer.ended,
                answer.tokens,
                answer.prompt_tokens,
                answer.text,
            ) = 20.0, [30.0], 31.0, tokens, 1000, "Yes."
        return answer


async def test_answers_that_run_at_the_same_time_are_counted_together() -> None:
    found = await throughput(Scripted(), ["a", "b", "c"], 10)

    assert found == Throughput(30, 11.0, (10.0, 10.0, 10.0))
    assert found.rate == pytest.approx(30 / 11)


async def test_answers_in_turn_take_the_time_of_all_of_them() -> None:
    client = Scripted()

    found = await in_turn(client, ["a", "b", "c"], 10)

    assert found == Throughput(30, 33.0, (10.0, 10.0, 10.0))
    assert [message["content"] for [message] in client.asked] == ["a", "b", "c"]


@attrs.define(eq=False)
class Small(Scripted):
    """A server of a model whose context is 5,000 tokens: words are tokens, and their number decides
    about the first token.
    """

    async def chat(
        self, messages: Sequence[Message], tokens: int, answer: TimedAnswer | None = None
    ) -> TimedAnswer:
        """See `Client`."""
        self.asked.append(tuple(messages))
        length = sum(len(message["content"].split()) for message in messages)
        if length > 5000:
            raise InvalidRequestError("prompt is too long", "url")
        seconds = length / 100 if len(messages) == 1 else 0.5
        return TimedAnswer(
            stamps=[seconds], ended=seconds, tokens=tokens, prompt_tokens=length, text="Yes."
        )


async def test_conversations_of_many_lengths_go_on_after_a_restart() -> None:
    talks = Talks(Prompts("7"), Silent(), "round 1 of 1")

    await talks.begin(Small(), FIRST, 500)
    await talks.begin_contexts(Small(), (2000, 4000, 8000))
    restarted = Small()
    await talks.restart(restarted)

    assert list(talks.turns) == [FIRST, 2000, 4000]
    assert [turns.cold.prompt_tokens for turns in talks.turns.values()] == pytest.approx(
        [500, 2000, 4000], abs=20
    )
    assert [len(messages) for messages in restarted.asked] == [5, 5, 5]
    assert [
        turns.restarted is not None and turns.restarted.prompt_tokens > turns.next.prompt_tokens
        for turns in talks.turns.values()
    ] == [True] * 3
    assert talks.notes == ["no conversation of 8,000 tokens: url: prompt is too long"]


async def test_a_conversation_sends_what_was_said_in_it() -> None:
    client, conversation = Scripted(), GrowingConversation()

    assert await conversation.turn(client, "first") == TurnTimes(10.0, 1000, 0)
    await conversation.turn(client, "second")

    assert [message["content"] for message in client.asked[1]] == ["first", "Yes.", "second"]


async def test_neighbours_are_measured_before_and_while_a_long_prompt_is_read() -> None:
    found = await neighbours(Scripted(), Prompts("7"), 500, 30)

    assert found is not None
    assert (found.streams, found.prompt_tokens, found.first_seconds) == (NEIGHBOURS, 1000, 10.0)
    assert (found.gap_before, found.gap_meanwhile) == (1.0, 2.0)
    # a piece is two tokens: 26 pieces, 52 tokens
    assert (found.rate_before, found.rate_meanwhile) == (2.0 * NEIGHBOURS, 1.0 * NEIGHBOURS)


async def test_streams_that_end_too_early_are_no_neighbours() -> None:
    assert await neighbours(Scripted(stream_end=19.0), Prompts("7"), 500, 30) is None


def measured(
    served: float, bare: float | None, restarted: float | None = 2.0, beside: float = 12.0
) -> Round:
    def answers(rate: float) -> dict[int, Throughput]:
        return {
            1: Throughput(100, 100 / rate, (0.25,)),
            4: Throughput(400, 100 / rate, (0.25, 0.5)),
        }

    return Round(
        served=answers(served),
        bare={} if bare is None else answers(bare),
        turns=Turns(
            TurnTimes(10.0, 1000, 0),
            TurnTimes(1.0, 1040, 1008),
            None if restarted is None else TurnTimes(restarted, 1080, 1048),
        ),
        neighbours=NeighbourGaps(4, 1000, beside, 40.0, 20.0, 0.1, 0.3),
    )


def report(*rounds: Round, notes: tuple[str, ...] = ()) -> Report:
    return Report(
        format=1,
        started_at="2026-11-30T03:00:00+00:00",
        seconds=10.0,
        machine=Machine("Linux", "a processor", 2, 8 << 30, "3.11", 0.5, "cpu"),
        versions={"semantic-trio": "0.1.0", "mlx": "0.32.4"},
        commit="abc",
        model="tiny",
        url="",
        settings={},
        options=Options((1, 4), 100, 1000, len(rounds), "7", has_bare=True),
        notes=notes,
        summary=summary(rounds),
        rounds=rounds,
    )


def test_the_table_has_medians_ranges_and_ratios_within_rounds() -> None:
    text = list(
        lines(report(measured(10, 20), measured(30, 30), measured(24, 20), notes=("something",)))
    )

    assert text == [
        "tiny, 3 rounds, answers of 100 tokens, 2026-11-30T03:00:00+00:00",
        "Linux, a processor, 2 cores, load before: 0.5",
        "cpu, semantic-trio 0.1.0, mlx 0.32.4",
        "",
        "throughput  served, tokens/s  bare, tokens/s  served / bare      last first token, s",
        "1 stream    24 (10 to 30)     20 (20 to 30)   1 (0.500 to 1.20)  0.250",
        "4 streams   96 (40 to 120)    80 (80 to 120)  1 (0.500 to 1.20)  0.500",
        "",
        "conversation               first token, s  times faster  prompt tokens  of them reused",
        "first turn                 10              1             1,000          0",
        "next turn                  1               10            1,040          1,008",
        "next turn after a restart  2               5             1,080          1,048",
        "",
        (
            "neighbours            tokens/s  longest gap, s  prompt tokens  first token, s  times "
            "as long as alone"
        ),
        "4 streams alone       40        0.100           -              -               -",
        "beside a long prompt  20        0.300           1,000          12              1.20",
        "",
        "note: something",
    ]


def test_prompts_in_turn_and_contexts_have_their_columns_and_rows() -> None:
    one = attrs.evolve(
        measured(20, 20),
        in_turn={4: Throughput(400, 10.0, (0.25,) * 4)},
        contexts={
            4096: Turns(
                TurnTimes(30.0, 4100, 0), TurnTimes(2.0, 4150, 4096), TurnTimes(3.0, 4200, 4096)
            ),
            2048: Turns(TurnTimes(10.0, 2050, 0), TurnTimes(1.0, 2100, 9), None),
        },
    )
    text = list(lines(report(one)))

    assert [line for line in text if line.startswith(("throughput", "4 streams  "))][:2] == [
        (
            "throughput  served, tokens/s  bare, tokens/s  served / bare  last first token, s  at "
            "once / in turn"
        ),
        "4 streams   80                80              1              0.500                2",
    ]
    assert [line for line in text if "about" in line] == [
        (
            "about 4,096 tokens  30              15                       10                       "
            "      4,200          4,096"
        ),
        (
            "about 2,048 tokens  10              10                       -                        "
            "      2,100          9"
        ),
    ]


def test_an_earlier_report_is_compared_figure_by_figure(tmp_path: Path) -> None:
    file = tmp_path / "then.json"
    then = report(measured(10, 20))
    file.write_bytes(
        msgspec.json.encode(
            attrs.evolve(
                then,
                summary={
                    "throughput": {
                        "4 streams": {RATIO: then.summary["throughput"]["4 streams"][RATIO]}
                    }
                },
            )
        )
    )

    assert list(compared(report(measured(15, 20)), read_baseline(file))) == [
        "compared with tiny of 2026-11-30T03:00:00+00:00, abc",
        "figure                                now    then   now / then",
        "throughput: 4 streams: served / bare  0.750  0.500  1.50",
    ]
    assert list(compared(attrs.evolve(then, summary={}), read_baseline(file)))[1:] == [
        "no figure is in both"
    ]


def test_a_file_that_is_no_report_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "then.json"
    file.write_text('{"model": 5}')

    result = CliRunner().invoke(main, ["bench", "--compare", str(file)])

    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.startswith(
        f"semantic-trio: --compare: {file} is no report of `semantic-trio bench --json`"
    )


def test_memory_of_reference_models_follows_their_published_geometry() -> None:
    rows = reference_rows()
    gemma, llama = rows["Gemma 3 12B, 16 bits"], rows["Llama 3.1-8B, 16 bits"]

    # 832 MiB for 8,192 tokens, and 1 GiB: what the published configurations give.
    assert gemma["agents of 8,192 tokens"].median == (14_000_000_000 - 6_620_000_000) // (832 << 20)
    assert llama["agents of 8,192 tokens"].median == (14_000_000_000 - 4_520_000_000) // (1 << 30)
    assert llama["agents of 4,096 tokens"].median == 2 * llama["agents of 8,192 tokens"].median + 1
    assert llama["blocks / padded"].median == 36 / 64
    assert all(
        row["pool, GB"].median + row["weights, GB"].median == pytest.approx(14)
        for row in rows.values()
    )
    assert (
        rows["Llama 3.1-8B, 8 bits"]["agents of 8,192 tokens"].median
        > 1.8 * llama["agents of 8,192 tokens"].median
    )


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_reference_models_are_those_that_were_published(model: Reference) -> None:
    configs = (Path(__file__).parent / "configs").glob("*.json")
    published = [published_spec(json.loads(config.read_text()), "") for config in configs]

    assert model.spec(16) in published


def test_what_was_not_measured_is_not_in_the_table() -> None:
    text = "\n".join(lines(report(attrs.evolve(measured(10, None, None), neighbours=None))))

    assert "bare" not in text
    assert "restart" not in text
    assert "neighbours" not in text


def test_a_report_is_read_back_from_its_file_as_it_was() -> None:
    written = report(measured(10, 20), measured(30, 30))

    assert msgspec.json.decode(msgspec.json.encode(written), type=Report) == written


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_report_is_drawn_on_a_ground_of_its_own(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra bench")
    from semantic_trio.entrypoints.bench.plot import draw

    for name, rounds in {
        "whole": [measured(10, 20), measured(30, 30)],
        "least": [attrs.evolve(measured(10, None, None), neighbours=None)],
    }.items():
        draw(report(*rounds), tmp_path / f"{name}.{kind}")

        assert (
            (tmp_path / f"{name}.{kind}")
            .read_bytes()
            .startswith(b"\x89PNG" if kind == "png" else b"<?xml")
        )
    if kind == "svg":
        assert "fill: #ffffff" in (tmp_path / "whole.svg").read_text()


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    for name in ("plot.svg", "plot.png"):
        result = CliRunner().invoke(main, ["bench", "--plot", str(tmp_path / name)])
        assert result.exit_code == ExitCode.USAGE
        assert result.stderr == (
            "semantic-trio: --plot: needs matplotlib, which is not installed: pip install "
            "'semantic-trio[bench]'\n"
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--streams", "1,x"], "--streams: '1,x' is not a list of numbers from 1 to 1,024"),
        (["--streams", "0,4"], "--streams: '0,4' is not a list of numbers from 1 to 1,024"),
        (
            ["--contexts", "2k"],
            "--contexts: '2k' is not a list of numbers from 1 to 1,048,576",
        ),
        (["--plot", "plot.gif"], "--plot: plot.gif ends neither in .png nor in .svg"),
        (
            ["--json", "/nowhere/at/all.json"],
            "/nowhere/at/all.json: there is no directory /nowhere/at",
        ),
        (["--url", "http://127.0.0.1:1"], "url: no whole answer from http://127.0.0.1:1"),
        (["--url", "nonsense://"], "url: no whole answer from nonsense://"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_code(options: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["bench", *options])

    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.startswith(f"semantic-trio: {said}")
    assert result.stderr.count("\n") == 1


def test_options_that_are_not_given_are_usual_or_quick() -> None:
    usual, quick, full = (
        command.options(None, None, None, None, None, extent, has_bare=True)
        for extent in (command.USUAL, command.QUICK, command.FULL)
    )
    own = command.options("8,1,8", 16, None, 2, "mine", command.QUICK, has_bare=False)

    assert (usual.streams, usual.tokens, usual.words, usual.rounds) == ((1, 4, 8), 96, 1000, 3)
    assert (quick.streams, quick.tokens, quick.words, quick.rounds) == ((1, 4), 32, 400, 1)
    assert (full.streams, full.in_turn, full.contexts) == (
        (1, 3, 5, 7, 10),
        (1, 3, 5),
        (2048, 4096, 8192, 16384),
    )
    assert (usual.has_reference, full.has_reference) == (False, True)
    assert usual.seed != quick.seed
    assert own == Options((1, 8), 16, 400, 2, "mine", has_bare=False)
    assert command.options(
        "1,4,5", None, None, None, None, command.FULL, has_bare=True
    ).in_turn == (1, 5)
    chosen = command.options(
        None, None, None, None, None, command.FULL, has_bare=True, contexts="4096,2048"
    )
    assert chosen.contexts == (2048, 4096)


def test_less_and_more_of_everything_exclude_each_other() -> None:
    result = CliRunner().invoke(main, ["bench", "--quick", "--full"])

    assert (result.exit_code, "--quick is less" in result.stderr) == (ExitCode.USAGE, True)
