"""One run of the benchmark: rounds of served and bare, one after the other, so that never two
models are in memory.

Ends with every process it started, also on a signal.
"""

import contextlib
import datetime
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import attrs
import trio

from semantic_trio.adapters.catalogue.progress import Progress
from semantic_trio.entrypoints.bench.bare import BareBatch, BareResult, Job, run_bare
from semantic_trio.entrypoints.bench.client import Client
from semantic_trio.entrypoints.bench.machine import machine, versions
from semantic_trio.entrypoints.bench.measures import in_turn, neighbours, throughput
from semantic_trio.entrypoints.bench.prompts import Prompts
from semantic_trio.entrypoints.bench.reference import REFERENCE, reference_rows
from semantic_trio.entrypoints.bench.results import (
    NeighbourGaps,
    Options,
    Report,
    Round,
    Throughput,
    number,
)
from semantic_trio.entrypoints.bench.server import OwnServer
from semantic_trio.entrypoints.bench.summary import summary
from semantic_trio.entrypoints.bench.talks import FIRST, Talks
from semantic_trio.entrypoints.commit import commit
from semantic_trio.entrypoints.printing import counted
from semantic_trio.entrypoints.signals import ending_signals

FORMAT = 1
WARM_UP_TOKENS = 4
NO_NEIGHBOURS = (
    "a stream ended before the long prompt was read: raise --tokens, and --max-batch-size where it "
    "is below five"
)


@attrs.frozen
class Given:
    """A server that is running already.

    It is not restarted, and its memory stays taken, so the bare engine does not run.
    """

    client: Client


@attrs.frozen
class Own:
    """A server that is started for every round, with the settings in force."""

    client: Client  # without a URL
    server: OwnServer
    model_path: Path
    settings: Mapping[str, str]  # to be reported: without secrets


@attrs.define(eq=False)
class Bench:
    """A run: what is measured, of which server, and who is told of the progress."""

    options: Options
    target: Given | Own
    progress: Progress
    _notes: list[str] = attrs.field(init=False, factory=list)
    _device: str = attrs.field(init=False, default="")

    async def run(self) -> Report:
        """Measure all rounds. Raises `InvalidRequestError` where the server does not answer."""
        started_at, started, before = (
            datetime.datetime.now(datetime.UTC),
            time.monotonic(),
            machine(),
        )
        rounds = tuple([await self._round(number) for number in range(1, self.options.rounds + 1)])
        own = self.target if isinstance(self.target, Own) else None
        return Report(
            format=FORMAT,
            started_at=started_at.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 1),
            machine=attrs.evolve(before, device=self._device),
            versions=versions(),
            commit=commit(),
            model=self.target.client.model,
            url=self.target.client.url,
            settings=dict(own.settings) if own else {},
            options=self.options,
            notes=tuple(dict.fromkeys(self._notes)),
            summary=summary(rounds)
            | ({REFERENCE: reference_rows()} if self.options.has_reference else {}),
            rounds=rounds,
        )

    async def _round(self, count: int) -> Round:
        prompts, where = (
            Prompts(f"{self.options.seed} {count}"),
            f"round {count} of {self.options.rounds}",
        )
        with tempfile.TemporaryDirectory(prefix="semantic-trio-bench-") as directory:
            talks = Talks(prompts, self.progress, where)
            async with self._server(Path(directory)) as client:
                served, turns = await self._throughput(client, prompts, where)
                await talks.begin(client, FIRST, self.options.words)
                await talks.begin_contexts(client, self.options.contexts)
                beside = await self._neighbours(client, prompts, where)
            if isinstance(self.target, Own):
                self.progress.step(f"{where}: the conversations after a restart")
                async with self._server(Path(directory)) as client:
                    await talks.restart(client)
        self._notes += talks.notes
        found = dict(talks.turns)
        return Round(
            served, await self._bare(prompts, where), found.pop(FIRST), beside, turns, found
        )

    @contextlib.asynccontextmanager
    async def _server(self, directory: Path) -> AsyncIterator[Client]:
        match self.target:
            case Given(client):
                yield client
            case Own(client, server):
                self.progress.step("starting a server")
                async with server.running(directory) as url:
                    yield attrs.evolve(client, url=url)

    async def _throughput(
        self, client: Client, prompts: Prompts, where: str
    ) -> tuple[dict[int, Throughput], dict[int, Throughput]]:
        """Measure prompts that are sent at once, and next to them the numbers of prompts that are
        to be sent in turn.
        """
        found, turns = {}, {}
        for streams in self.options.streams:
            await throughput(
                client,
                [prompts.story("warm up", streams, place) for place in range(streams)],
                WARM_UP_TOKENS,
            )
            found[streams] = await throughput(
                client, _stories(prompts, streams), self.options.tokens
            )
            if streams in self.options.in_turn:
                turns[streams] = await in_turn(
                    client,
                    [prompts.story("in turn", streams, place) for place in range(streams)],
                    self.options.tokens,
                )
            self.progress.step(
                f"{where}: {counted(streams, 'stream')}, {number(found[streams].rate)} tokens/s"
            )
            if found[streams].tokens < 0.9 * streams * self.options.tokens:
                self._notes.append(
                    "some answers ended early; the tokens that were generated are counted"
                )
        return found, turns

    async def _neighbours(
        self, client: Client, prompts: Prompts, where: str
    ) -> NeighbourGaps | None:
        self.progress.step(f"{where}: streams beside a prompt of {self.options.words:,} words")
        found = await neighbours(client, prompts, self.options.words, self.options.tokens)
        if found is None:
            self._notes.append(NO_NEIGHBOURS)
        return found

    async def _bare(self, prompts: Prompts, where: str) -> dict[int, Throughput]:
        """Run the bare engine on the prompts of this round; nothing where it cannot run."""
        if isinstance(self.target, Given):
            self._notes.append("the bare engine was not run: the server at --url keeps its memory")
            return {}
        wanted = self.options.streams if self.options.has_bare else ()
        if wanted:
            self.progress.step(f"{where}: the bare engine")
        batches = tuple(
            BareBatch(tuple(_stories(prompts, streams)), self.options.tokens) for streams in wanted
        )
        outcome = await run_bare(Job(str(self.target.model_path), batches))
        return self._taken(outcome, wanted)

    def _taken(self, outcome: BareResult, wanted: tuple[int, ...]) -> dict[int, Throughput]:
        self._device = outcome.device or self._device
        if outcome.problem:
            self._notes.append(f"the bare engine does not run this model: {outcome.problem}")
        return dict(zip(wanted, outcome.throughput, strict=False))


def _stories(prompts: Prompts, streams: int) -> list[str]:
    return [prompts.story(streams, place) for place in range(streams)]


def run(bench: Bench) -> Report | signal.Signals:
    """Run a benchmark; its report, or the signal that ended it."""
    return trio.run(_until_signal, bench)


async def _until_signal(bench: Bench) -> Report | signal.Signals:
    found: list[Report | signal.Signals] = []

    async def watch(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*ending_signals()) as received:
            task_status.started()
            async for number in received:
                found.append(signal.Signals(number))
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        found.append(await bench.run())
        nursery.cancel_scope.cancel()
    return found[0]
