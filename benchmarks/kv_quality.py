"""A gate for few bits of keys and values: the distribution of the next token, and the arguments of
calls, against those with 16 bits.

python benchmarks/kv_quality.py [--model smollm2-135m] [--bits 8 4] [--require 8] [--tokens 512]
[--calls 100] [--text FILE]

The same text is read with 16, 8 and 4 bits (16: as the model computes): the divergence of the
distributions from those of 16 bits (KL, in nats), and how often the likeliest token is the same.
Calls are JSON objects of a fixed form, greedy, made by the engine as the server makes them, in
batches: how many have the arguments that 16 bits have, and how many have those that were asked for.
A base model, which has no chat template, reads the request as plain text. For each number of bits
it says which bounds of `kv_gate.py` are broken; it ends with 1 where a required one breaks any.
"""

import argparse
import functools
import itertools
import json
import tempfile
from pathlib import Path
from typing import cast

import attrs
import trio

from kv_gate import Quality, faults
from serving import MODEL, model_path

from semantic_trio.adapters.mlx.device import Device, last_act
from semantic_trio.adapters.mlx.runner import MlxRunner, load_runner
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.application.engine import Engine
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.generation import GenerationRequest, SamplingParams
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.quantisation import AS_COMPUTED, KV_BITS
from semantic_trio.domain.scheduler import Limits, Scheduler

import mlx.core as mx  # isort: skip
from mlx_lm.models.cache import make_prompt_cache

CHUNK, ROWS = 64, 25
TEXT = Path(__file__).parents[1] / "docs" / "memory.md"
NAMES = ("Ada Lovelace", "Grace Hopper", "Alan Turing", "Edsger Dijkstra", "Barbara Liskov")
CITIES = ("Lisbon", "Oslo", "Nairobi", "Kyoto", "Quito")
FORM = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 24},
            "city": {"type": "string", "maxLength": 16},
            "nights": {"type": "integer", "minimum": 1, "maximum": 99},
        },
        "required": ["name", "city", "nights"],
        "additionalProperties": False,
    }
)
TASK = (
    "Book a hotel. Answer with the JSON object of the booking: the name of the guest, the city, "
    "and the number of nights.\n"
    'Request: Marie Curie stays in Paris for 4 nights.\n{"name": "Marie Curie", "city": "Paris", '
    '"nights": 4}\n'
    'Request: In Rome, Isaac Newton needs a room for 11 nights.\n{"name": "Isaac Newton", "city": '
    '"Rome", "nights": 11}\n'
)
# How a base model is shown a conversation.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
)
REQUESTS = (
    "{name} stays in {city} for {nights} nights.",
    "In {city}, {name} needs a room for {nights} nights.",
)


@attrs.frozen
class Call:
    """Arguments that a request asks for."""

    name: str
    city: str
    nights: int
    wording: str

    @property
    def prompt(self) -> str:
        return (
            f"{TASK}Request: "
            f"{self.wording.format(name=self.name, city=self.city, nights=self.nights)}"
        )

    def is_met(self, answer: str) -> bool:
        return bool(
            _parsed(answer) == {"name": self.name, "city": self.city, "nights": self.nights}
        )


def calls(count: int) -> list[Call]:
    asked = itertools.product(REQUESTS, CITIES, NAMES, (2, 17))
    return [
        Call(name, city, nights, wording)
        for wording, city, name, nights in itertools.islice(asked, count)
    ]


def _parsed(answer: str) -> object:
    try:
        return json.loads(answer)
    except ValueError:
        return None


def distributions(runner: MlxRunner, tokens: list[int]) -> list[mx.array]:
    """Log-probabilities of the next token after each of these, read in pieces, (piece, vocabulary)
    float32.
    """
    model, found = runner.batch.layout.model, []
    caches = make_prompt_cache(model)
    for at in range(0, len(tokens), CHUNK):
        logits = model(mx.array([tokens[at : at + CHUNK]]), cache=caches)[0].astype(mx.float32)
        found.append(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        mx.eval(found[-1])
    return found


def compared(exact: list[mx.array], found: list[mx.array]) -> tuple[float, float, float]:
    """Divergence from the distributions of 16 bits, its mean and 99th of 100, and the part of the
    positions with the same likeliest token.
    """
    kl = mx.concatenate(
        [(mx.exp(a) * (a - b)).sum(axis=-1) for a, b in zip(exact, found, strict=True)]
    )
    same = mx.concatenate(
        [a.argmax(axis=-1) == b.argmax(axis=-1) for a, b in zip(exact, found, strict=True)]
    )
    found_here = (kl.mean(), mx.sort(kl)[int(kl.size * 0.99)], same.mean())
    mean, worst, same_tokens = (cast(float, one.item()) for one in found_here)
    return mean, worst, same_tokens


async def answers(runner: MlxRunner, codec: TokenizerCodec, asked: list[Call]) -> list[str]:
    """Texts of the model's answers to each prompt, held to the form."""
    limits = Limits(context_length=2048, max_rows=ROWS, chunk_tokens=512, max_stall_seconds=5.0)
    engine = Engine(
        runner,
        Scheduler(limits, Memory(runner.spec, 1 << 30, limits.chunk_tokens)),
        256,
        300.0,
        0.01,
    )
    found = [""] * len(asked)

    async def one(place: int) -> None:
        conversation = Conversation(
            (Message(Role.USER, (Text(asked[place].prompt),)),), schema=FORM
        )
        tokens, grammar = codec.encode_prompt(conversation).tokens, codec.grammar(conversation, "")
        request = GenerationRequest(
            "",
            tokens,
            64,
            1,
            SamplingParams(),
            stop_tokens=codec.stop_tokens,
            grammar=grammar,
            agent=f"agent-{place}",
        )
        found[place] = (await engine.submit(request, codec.decoder()).result()).text

    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await one(0)  # its prompt's beginning is every other one's
        async with trio.open_nursery() as rows:
            for place in range(1, len(asked)):
                rows.start_soon(one, place)
        nursery.cancel_scope.cancel()
    return found


def with_template(path: Path, folder: Path) -> Path:
    """The directory of a model that has a chat template: its own, or one with links to its files
    and a template for base models.
    """
    config = json.loads((path / "tokenizer_config.json").read_text())
    if "chat_template" in config or (path / "chat_template.jinja").exists():
        return path
    for file in path.iterdir():
        if file.name != "tokenizer_config.json":
            (folder / file.name).symlink_to(file)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": PLAIN_TEMPLATE})
    )
    return folder


async def measure(arguments: argparse.Namespace, path: Path, name: str) -> dict[int, list[str]]:
    """The faults of each number of bits."""
    codec, asked = load_codec(path), calls(arguments.calls)
    tokens = list(codec.encode_text(arguments.text.read_text()))[: arguments.tokens]
    device = Device(last_act)
    exact, said, right_before, broken = list[mx.array](), list[str](), 0, {}
    async with trio.open_nursery() as nursery:
        await nursery.start(device.run)
        for bits in (AS_COMPUTED, *arguments.bits):
            runner, _ = await load_runner(device, path, bits)
            found = await device.call(functools.partial(distributions, runner, tokens))
            exact = exact or found
            kl, worst, same_tokens = await device.call(functools.partial(compared, exact, found))
            made = await answers(runner, codec, asked) if asked else []
            said = said or made
            same = sum(_parsed(a) == _parsed(b) for a, b in zip(made, said, strict=True))
            right = sum(call.is_met(answer) for call, answer in zip(asked, made, strict=True))
            right_before = right if bits == AS_COMPUTED else right_before
            per_token = sum(group.token_bytes for group in runner.spec.groups)
            line = (
                f"KL mean {kl:.5f}, 99 of 100 below {worst:.4f}; likeliest token the same "
                f"{same_tokens:.4f}"
            )
            print(
                f"{name}, {bits} bits, {per_token:,} bytes a token, {len(tokens)} tokens: {line}",
                flush=True,
            )
            print(
                (
                    f"  {len(asked)} calls: {same} with the arguments of 16 bits, {right} with "
                    f"those asked for; {made[:1]}"
                ),
                flush=True,
            )
            broken[bits] = list(
                faults(Quality(kl, same_tokens, len(asked), same, right, right_before))
            )
            print(
                f"  {'fails: ' + '; '.join(broken[bits]) if broken[bits] else 'passes'}", flush=True
            )
        device.stop()
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, help="a built-in name or a directory")
    parser.add_argument(
        "--bits", type=int, nargs="+", default=[bits for bits in KV_BITS if bits != AS_COMPUTED]
    )
    parser.add_argument(
        "--require", type=int, nargs="*", default=[8], help="bits that have to keep all bounds"
    )
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--text", type=Path, default=TEXT)
    arguments = parser.parse_args()
    directory = Path(arguments.model)
    path = directory if directory.is_dir() else model_path(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        broken = trio.run(measure, arguments, with_template(path, Path(folder)), path.name)
    raise SystemExit(any(broken.get(bits) for bits in arguments.require))


if __name__ == "__main__":
    main()
