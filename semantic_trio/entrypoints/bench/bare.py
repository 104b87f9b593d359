"""mlx-lm's bare engine in a process of its own: its memory is free again when it ends, and what it
does to MLX concerns nobody else.

Run as a program it reads a job on standard input and writes the outcome on standard output, both in
JSON.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import msgspec
import trio

from semantic_trio.entrypoints.bench.results import Throughput

# Tokens generated once for each number of streams before anything is measured: kernels are compiled
# then.
WARM_UP_TOKENS = 4


@attrs.frozen
class BareBatch:
    """Prompts to be answered at the same time."""

    prompts: tuple[str, ...]
    tokens: int  # of each answer, at most


@attrs.frozen
class Job:
    """Work of the bare engine: batch after batch, each once for warming up and once measured.

    Without batches nothing is loaded.
    """

    model_path: str
    batches: tuple[BareBatch, ...] = ()


@attrs.frozen
class BareResult:
    """Results of the work."""

    device: str = ""
    throughput: tuple[Throughput, ...] = ()
    problem: str = ""  # why there are no figures


async def run_bare(job: Job) -> BareResult:
    """Run a job in a process of its own, which is ended when this is cancelled."""
    command = [sys.executable, "-m", __name__]
    done = await trio.run_process(
        command,
        stdin=msgspec.json.encode(job),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    try:
        return msgspec.json.decode(done.stdout.strip().rpartition(b"\n")[2], type=BareResult)
    except msgspec.DecodeError:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return BareResult(problem=last or f"it ended with {done.returncode}")


def main() -> None:
    """Do the job on standard input."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    from semantic_trio.adapters.mlx.device import describe_device  # imports MLX

    outcome = BareResult(describe_device(), tuple(_measure(job)) if job.batches else ())
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(outcome) + b"\n")


def _measure(job: Job) -> list[Throughput]:
    from semantic_trio.adapters.mlx.bare import generate
    from semantic_trio.adapters.mlx.chat_template import chat_program
    from semantic_trio.adapters.mlx.loading import load
    from semantic_trio.adapters.mlx.tool_syntax import tool_syntax
    from semantic_trio.adapters.text.loading import load_codec
    from semantic_trio.domain.canonical import canonical
    from semantic_trio.domain.conversation import Conversation, Message, Role, Text

    path = Path(job.model_path)
    model, codec = load(path).model, load_codec(path, tool_syntax, chat_program)

    def tokens_of(text: str) -> Sequence[int]:
        return codec.encode_prompt(
            canonical(Conversation((Message(Role.USER, (Text(text),)),)))
        ).tokens

    def once(prompts: list[Sequence[int]], tokens: int) -> Throughput:
        started, first, count = time.perf_counter(), dict[int, float](), 0
        for count, place in enumerate(generate(model, prompts, tokens, codec.stop_tokens), 1):  # noqa: B007 - the last one counts
            first.setdefault(place, time.perf_counter() - started)
        return Throughput(count, time.perf_counter() - started, tuple(first.values()))

    figures = []
    for batch in job.batches:
        prompts = [tokens_of(text) for text in batch.prompts]
        once(prompts, WARM_UP_TOKENS)
        figures.append(once(prompts, batch.tokens))
    return figures


if __name__ == "__main__":
    main()
