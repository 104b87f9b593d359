"""Server processes for benchmarks, and two figures of the whole server: latency under load and
start-up.

python benchmarks/serving.py [latency] [startup] [--rounds 3] [--json OUT]

Runs on this machine's loopback with smollm2-135m, greedy. Throughput, first tokens, neighbours and
restarts: `semantic-trio bench`.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from client import Stream, chat, get, run, talk

MODEL = "smollm2-135m"
TOPICS = [
    "the sea",
    "a mountain",
    "an old clock",
    "bread",
    "the moon",
    "a train",
    "winter",
    "a library",
]
LONG_WORDS = 2560  # a prompt of about 2,700 tokens


def prompts(count: int) -> list[str]:
    return [
        f"Write a very long story about {topic}. Do not stop early." for topic in TOPICS[:count]
    ]


def long_prompt(salt: str) -> str:
    words = "river stone light garden paper window cloud field bridge song".split()
    return f"{salt}: summarise these words. " + " ".join(
        words[(i * i) % 10] for i in range(LONG_WORDS)
    )


class Served:
    """A server process on a free port."""

    def __init__(self, command: list[str], ready: Callable[[str], int | None], model: str) -> None:
        self.model = model  # what it calls the one it was started with
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log", delete=False)  # noqa: SIM115 - lives as long as the server
        begun = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        self.port = self._wait(ready)
        self.startup_seconds = time.perf_counter() - begun

    def _wait(self, ready: Callable[[str], int | None]) -> int:
        for _ in range(2400):
            port = ready(Path(self.log.name).read_text())
            if port:
                return port
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(Path(self.log.name).read_text()[-3000:])

    def chat(self, prompt: str, max_tokens: int) -> Stream:
        return chat(prompt, max_tokens, self.model)

    def talk(self, messages: list[dict[str, str]], max_tokens: int) -> Stream:
        return talk(messages, max_tokens, self.model)

    def run(
        self, streams: list[Stream], at: Callable[[float], list[Stream]] | None = None
    ) -> float:
        return run(self.port, streams, at)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def ours(model: str = MODEL, *arguments: str) -> Iterator[Served]:
    command = [
        sys.executable,
        "-m",
        "semantic_trio",
        "serve",
        "--model",
        model,
        "--port",
        "0",
        "--log-format",
        "console",
        *arguments,
    ]
    server = Served(
        command,
        lambda text: int(m[1]) if (m := re.search(r"http://127\.0\.0\.1:(\d+)", text)) else None,
        model,
    )
    try:
        yield server
    finally:
        code = server.stop()
        if code:
            print(f"  (the server ended with {code})")


@contextlib.contextmanager
def rival(step_size: int | None = None, model: str = MODEL) -> Iterator[Served]:
    """mlx-lm's server on the float32 twin of the model."""
    port = free_port()
    more = ["--prefill-step-size", str(step_size)] if step_size else []
    arguments = ["server", "--model", str(float32_model(model)), "--port", str(port), *more]
    program = (
        f"{PRELOAD}; import runpy, sys; sys.argv = {arguments!r}; "
        "runpy.run_module('mlx_lm.server', run_name='__main__')"
    )

    def ready(text: str) -> int | None:
        with contextlib.suppress(OSError):
            return port if get(port, "/health")[0] == 200 else None
        return None

    server = Served([sys.executable, "-c", program], ready, "default_model")
    try:
        server.run([server.chat("hello", 2)])
        yield server
    finally:
        server.process.kill()
        server.process.wait()


PRELOAD = "from semantic_trio.adapters.mlx import blas; blas.load_openblas()"


def model_path(model: str = MODEL) -> Path:
    answer = subprocess.run(
        [sys.executable, "-m", "semantic_trio", "models", "path", model],
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(answer.stdout.strip())


def float32_model(model: str = MODEL) -> Path:
    """The model with float32 weights, as the server has them in memory: made once beside the
    original's cache.
    """
    target = Path(tempfile.gettempdir()) / f"{model}-float32"
    if not (target / "config.json").exists():
        source, made = str(model_path(model)), str(target)
        code = (
            f"{PRELOAD}\nfrom mlx_lm.convert import convert\nconvert({source!r}, mlx_path={made!r}"
            ", dequantize=True, dtype='float32')"
        )
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return target


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def latency(rounds: int) -> dict[str, object]:
    """The health endpoint under load, and how fast a cancelled row is gone."""
    health: list[float] = []
    cancels: list[float] = []
    with ours() as server:
        for i in range(rounds):
            streams = [server.chat(text, 300) for text in prompts(4)]
            begun = time.perf_counter()
            long_sent = [False]

            def at(seconds: float, i: int = i, long_sent: list[bool] = long_sent) -> list[Stream]:
                status, _, took = get(server.port, "/health/live")
                assert status == 200
                health.append(took)
                if seconds > 12:
                    return [server.chat(f"end {i}", 1)]
                return []

            server.run([*streams, server.chat(long_prompt(f"h{i}"), 2)], at=at)
            _ = begun
        for _ in range(10):
            cancels.append(cancel_once(server))
    health.sort()
    p99 = health[int(len(health) * 0.99)]
    print(
        f"  /health/live under load: p50 {statistics.median(health) * 1e3:.1f} ms, p99 "
        f"{p99 * 1e3:.1f} ms, n = {len(health)}"
    )
    print(
        f"  cancel to row gone: median {statistics.median(cancels) * 1e3:.0f} ms, longest "
        f"{max(cancels) * 1e3:.0f} ms, n = {len(cancels)}"
    )
    return {"health_seconds": health, "cancel_seconds": cancels}


def cancel_once(server: Served) -> float:
    """Hang up in mid-stream and wait until the metrics show an empty batch."""
    import socket

    body = json.dumps(server.chat(prompts(1)[0], 400).body).encode()
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.sendall(
        (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
            f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        + body
    )
    received = b""
    while received.count(b"data: ") < 6:
        received += sock.recv(4096)
    sock.close()
    begun = time.perf_counter()
    while rows_in_batch(server.port):
        if time.perf_counter() - begun > 30:
            raise TimeoutError("the row stayed")
    return time.perf_counter() - begun


def rows_in_batch(port: int) -> float:
    _, body, _ = get(port, "/metrics")
    match = re.search(rb"^semantic_rows(?:\{[^}]*\})? ([0-9.e+]+)$", body, re.MULTILINE)
    assert match, "the metric is there"
    return float(match[1])


def startup(rounds: int) -> dict[str, object]:
    """From exec to the first connection, with a converted model."""
    seconds = []
    for _ in range(rounds):
        with ours() as server:
            seconds.append(server.startup_seconds)
    print(f"  start-up: {', '.join(f'{s:.2f}' for s in seconds)} s")
    return {"startup_seconds": seconds}


FIGURES = {"latency": latency, "startup": startup}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, []], help="which; all without")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "trio", "hypercorn", "quart-trio")
    )
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{packages}"
    )
    results: dict[str, object] = {}
    for name in arguments.figures or FIGURES:
        print(f"{name}: {(FIGURES[name].__doc__ or '').strip()}")
        results |= FIGURES[name](arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
