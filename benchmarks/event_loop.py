"""Cost of the server per token, with a device that takes a fixed time per step and no model.

python benchmarks/event_loop.py [--streams 1 8 32 64] [--protocols chat messages responses]
[--step-ms 12] [--held-ms 0] [--tokens 256]
  [--rounds 3]

The runner sleeps `--step-ms` in the device thread with the interpreter's lock released, after
`--held-ms` of Python that needs the lock; its tokens come from a fixed text. The server runs in a
process of its own, the client reads raw sockets in this one. Per protocol and number of streams:
tokens per second, milliseconds of the main thread per token (`time.thread_time`), p50 and p99 of
the passes of the event loop (how long what becomes ready may have to wait), p50 of the interval
between two steps, and tokens per event.
"""

import argparse
import contextlib
import functools
import json
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import trio

from semantic_trio.adapters.mlx.device import Device
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.domain.step import SampledToken, Inventory, StepPlan, StepResult
from semantic_trio.entrypoints.clock import RunningClock
from semantic_trio.entrypoints.serve import SWITCH_SECONDS, Server
from semantic_trio.entrypoints.settings import LogFormat, LogLevel, Settings
from semantic_trio.adapters.scripted.runner import ScriptedRunner, scripted_spec

TEXT = " The river runs past the garden and the old bridge, and nobody minds the rain."
PROMPT = "Tell a long story about rivers. " * 8
FIGURES = ("tok/s", "main ms/token", "pass p50 ms", "pass p99 ms", "step p50 ms", "tokens/event")


@attrs.define(eq=False)
class SleepingRunner(ScriptedRunner):
    """A runner without a model: a step takes its time in the device thread, one step ahead as the
    real one.
    """

    device: Device = attrs.field(kw_only=True)
    step_seconds: float = attrs.field(kw_only=True)
    held_seconds: float = attrs.field(kw_only=True)
    # when each step began that decodes, and with how many rows
    begun: list[float] = attrs.field(init=False, factory=list)
    _numbers: set[int] = attrs.field(init=False, factory=set)
    _block_keys: set[bytes] = attrs.field(init=False, factory=set)
    _before: StepResult = attrs.field(init=False, factory=StepResult)
    _tokens: tuple[int, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tokens = tuple(self.encode(TEXT * 8))

    async def step(self, plan: StepPlan) -> StepResult:
        return await self.device.call(functools.partial(self._step, plan))

    async def inventory(self) -> Inventory:
        await trio.lowlevel.checkpoint()
        return Inventory(frozenset(self._numbers), frozenset(self._block_keys), frozenset())

    def _step(self, plan: StepPlan) -> StepResult:
        self._numbers |= {start.row for start in plan.open}
        self._numbers -= {closing.row for closing in plan.close}
        self._block_keys |= {block.key for closing in plan.close for block in closing.blocks}
        self._block_keys -= set(plan.drop_blocks)
        if plan.decode:
            self.begun.append(time.monotonic())
        _hold(self.held_seconds if plan.has_work else 0)
        time.sleep(self.step_seconds if plan.has_work else 0)
        before, self._before = self._before, self._drawn_by(plan)
        return attrs.evolve(before, in_flight=plan.has_work)

    def _drawn_by(self, plan: StepPlan) -> StepResult:
        if not plan.has_work:
            return StepResult()
        draws = [(decode.row, decode.draws) for decode in plan.decode]
        draws += [(chunk.row, chunk.draws) for chunk in plan.prefill if chunk.draws is not None]
        drawn = tuple(
            SampledToken(row, index, self._tokens[index % len(self._tokens)], -0.5)
            for row, index in draws
        )
        return StepResult(drawn, plan.timing(self.step_seconds))


def _hold(seconds: float) -> None:
    """Compute in Python, as a model's code does between two calls of its library."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@attrs.define(eq=False)
class Passes(trio.abc.Instrument):
    """Seconds that each pass of the event loop takes."""

    seconds: list[float] = attrs.field(factory=list)
    _since: float = attrs.field(init=False, default=0.0)

    def after_io_wait(self, timeout: float) -> None:
        self._since = time.monotonic()

    def before_io_wait(self, timeout: float) -> None:
        if self._since:
            self.seconds.append(time.monotonic() - self._since)


@attrs.define(eq=False)
class Measured(Server):
    """A server with such a runner, which tells its figures for each line on its standard input."""

    step_seconds: float = attrs.field(kw_only=True)
    held_seconds: float = attrs.field(kw_only=True)

    def _scripted(self, codec: TokenizerCodec, fingerprint: str) -> ScriptedRunner:
        device = Device(lambda: None)
        runner = SleepingRunner(
            script=(),
            encode=codec.encode_text,
            decode=codec.decode,
            spec=scripted_spec(fingerprint),
            device=device,
            step_seconds=self.step_seconds,
            held_seconds=self.held_seconds,
        )
        passes = Passes()
        trio.lowlevel.add_instrument(passes)
        trio.lowlevel.spawn_system_task(device.run)
        trio.lowlevel.spawn_system_task(_tell, runner, passes)
        return runner


async def _tell(runner: SleepingRunner, passes: Passes) -> None:
    while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        steps = [b - a for a, b in zip(runner.begun, runner.begun[1:], strict=False)]
        told = {"main": time.thread_time(), "passes": passes.seconds[:], "steps": steps}
        passes.seconds.clear()
        runner.begun.clear()
        print(json.dumps(told), flush=True)


def serve(step_ms: float, held_ms: float, directory: Path) -> None:
    """The server process."""
    settings = Settings(
        port=0,
        model_id="tiny-random",
        cache_dir=directory,
        disk_budget_mb=0,
        max_batch_size=64,
        prefill_step_size=16_384,
        queue_limit=256,
        log_format=LogFormat.JSON,
        log_level=LogLevel.ERROR,
    )
    model = Path(
        subprocess.check_output(
            [sys.executable, "-m", "semantic_trio", "models", "path", "tiny-random"], text=True
        ).strip()
    )
    server = Measured(
        settings,
        model,
        lambda url: print(url, flush=True),
        step_seconds=step_ms / 1000,
        held_seconds=held_ms / 1000,
    )
    sys.setswitchinterval(SWITCH_SECONDS)
    trio.run(server.run, clock=RunningClock())


MESSAGES = [{"role": "user", "content": PROMPT}]
# path, body, what each delta has, what the end has
PROTOCOLS: dict[str, tuple[str, dict[str, object], bytes, bytes]] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": MESSAGES},
        b'"delta":{"content":',
        b"data: [DONE]",
    ),
    "messages": (
        "/v1/messages",
        {"messages": MESSAGES},
        b"event: content_block_delta",
        b"event: message_stop",
    ),
    "responses": (
        "/v1/responses",
        {"input": PROMPT, "store": False},
        b"event: response.output_text.delta",
        b"event: response.completed",
    ),
}


@attrs.define(eq=False)
class Reader:
    """One stream of a client: counts events, parses nothing."""

    delta: bytes
    ends: tuple[bytes, ...]
    events: int = 0
    _rest: bytes = b""

    def feed(self, data: bytes) -> bool:
        """True at the end."""
        data = self._rest + data
        whole, cut, self._rest = data.rpartition(b"\n\n")
        self.events += (whole + cut).count(self.delta)
        return any(end in data for end in self.ends)


def load(port: int, protocol: str, streams: int, tokens: int) -> tuple[float, int]:
    """Run streams at once; seconds and events."""
    path, fields, delta, end = PROTOCOLS[protocol]
    limit = "max_output_tokens" if protocol == "responses" else "max_tokens"
    body = json.dumps(
        {"model": "tiny-random", "stream": True, "temperature": 0, limit: tokens, **fields}
    ).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: "
        f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    selector, readers, begun = selectors.DefaultSelector(), [], time.perf_counter()
    for _ in range(streams):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(head + body)
        sock.setblocking(False)
        readers.append(Reader(delta, (end, b"event: response.incomplete")))
        selector.register(sock, selectors.EVENT_READ, readers[-1])
    while selector.get_map():
        for key, _ in selector.select(10):
            received = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
            if not received or key.data.feed(received):
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
    return time.perf_counter() - begun, sum(reader.events for reader in readers)


@contextlib.contextmanager
def server(arguments: argparse.Namespace) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable,
            __file__,
            "--serve",
            directory,
            "--step-ms",
            str(arguments.step_ms),
            "--held-ms",
            str(arguments.held_ms),
        ]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            yield process, int(_line(process, "http://").rpartition(":")[2])
        finally:
            process.terminate()
            process.wait(30)


def _line(process: subprocess.Popen[str], beginning: str) -> str:
    """The next line that the server tells, past what it logs."""
    assert process.stdout
    while not (line := process.stdout.readline()).startswith(beginning):
        if not line:
            raise RuntimeError("the server has ended")
    return line.strip()


def ask(process: subprocess.Popen[str]) -> dict[str, list[float] | float]:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    told: dict[str, list[float] | float] = json.loads(_line(process, '{"main"'))
    return told


def measure(
    process: subprocess.Popen[str], port: int, protocol: str, streams: int, tokens: int
) -> tuple[float, ...]:
    before = ask(process)
    seconds, events = load(port, protocol, streams, tokens)
    after, drawn = ask(process), streams * tokens
    passes, steps = after["passes"], after["steps"]
    assert isinstance(passes, list)
    assert isinstance(steps, list)
    passes.sort()
    main = (after["main"] - before["main"]) / drawn  # type: ignore[operator]
    p50, p99 = (passes[int(len(passes) * share)] for share in (0.5, 0.99))
    return (
        drawn / seconds,
        main * 1e3,
        p50 * 1e3,
        p99 * 1e3,
        statistics.median(steps) * 1e3,
        drawn / max(events, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--step-ms", type=float, default=12.0)
    parser.add_argument("--held-ms", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.step_ms, arguments.held_ms, arguments.serve)
        return
    print(f"{'protocol':10} {'streams':>7} " + " ".join(f"{name:>13}" for name in FIGURES))
    with server(arguments) as (process, port):
        load(port, "chat", 8, 16)
        for protocol in arguments.protocols:
            for streams in arguments.streams:
                rounds = [
                    measure(process, port, protocol, streams, arguments.tokens)
                    for _ in range(arguments.rounds)
                ]
                medians = [statistics.median(values) for values in zip(*rounds, strict=True)]
                print(
                    f"{protocol:10} {streams:7} " + " ".join(f"{value:13.3f}" for value in medians),
                    flush=True,
                )


if __name__ == "__main__":
    main()
