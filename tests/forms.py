"""Answers of real models to which a form was given, many at once."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import jsonschema
import trio
from hypothesis import Phase, given, settings

from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.loading import LoadedModel
from semantic_trio.adapters.mlx.runner import DeviceRows, MlxRunner
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.application.engine import Engine
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.generation import (
    FinishReason,
    GenerationRequest,
    GenerationResult,
    SamplingParams,
)
from tests.device import on_device, shared_device
from tests.engines import UNBOUND_LIMITS, new_engine, running
from tests.schemas import Schema, bounded

ROWS, LONGEST = 8, 250
ASKED = (Message(Role.USER, (Text("Tell me about the sea, as JSON."),)),)
WARM = SamplingParams(temperature=1.0)


def some_schemas(count: int) -> list[Schema]:
    """The same ones each time, simple ones first."""
    found: list[Schema] = []

    @settings(max_examples=count, derandomize=True, database=None, phases=[Phase.generate])
    @given(bounded)
    def collect(schema: Schema) -> None:
        found.append(schema)

    collect()
    return found[:count]


@attrs.define(eq=False)
class Forms:
    """A model, and an engine to ask it."""

    engine: Engine
    codec: TokenizerCodec

    async def ask(
        self, schema: Schema | None, seed: int, max_tokens: int = LONGEST
    ) -> GenerationResult:
        """An answer of a form, or of none."""
        conversation = Conversation(ASKED, schema=None if schema is None else json.dumps(schema))
        prompt = self.codec.encode_prompt(conversation)
        grammar = self.codec.grammar(conversation, prompt.opening)
        request = GenerationRequest(
            "r",
            prompt.tokens,
            max_tokens,
            seed,
            WARM,
            stop_tokens=self.codec.stop_tokens,
            grammar=grammar,
        )
        return await self.engine.submit(request, self.codec.decoder()).result()

    async def ask_all(
        self, schemas: Sequence[Schema | None], max_tokens: int = LONGEST
    ) -> list[GenerationResult]:
        """The answers to all of them, as many at once as there are rows; each has its place for a
        seed.
        """
        results: dict[int, GenerationResult] = {}

        async def one(place: int) -> None:
            results[place] = await self.ask(schemas[place], place, max_tokens)

        async with trio.open_nursery() as nursery:
            for place in range(len(schemas)):
                nursery.start_soon(one, place)
        return [results[place] for place in range(len(schemas))]


@asynccontextmanager
async def forms(loaded: LoadedModel, codec: TokenizerCodec) -> AsyncIterator[Forms]:
    """An engine of its own for a model."""
    runner = MlxRunner(
        shared_device(),
        DeviceRows(on_device(lambda: choose_layout(loaded.model))),
        on_device(lambda: measure_spec(loaded.model, loaded.fingerprint)),
    )
    async with running(
        new_engine(runner, attrs.evolve(UNBOUND_LIMITS, max_rows=ROWS), queue_limit=1000)
    ) as engine:
        yield Forms(engine, codec)


def verdicts(schemas: Sequence[Schema], results: Sequence[GenerationResult]) -> Counter[str]:
    """What became of answers: `valid`, `invalid`, or `cut off` at the limit."""
    return Counter(
        _verdict(schema, result) for schema, result in zip(schemas, results, strict=True)
    )


def _verdict(schema: Schema, result: GenerationResult) -> str:
    if result.finished.reason is not FinishReason.END_OF_TURN:
        return "cut off"
    try:
        jsonschema.validate(json.loads(result.text), schema)
    except (ValueError, jsonschema.ValidationError):
        return "invalid"
    return "valid"
