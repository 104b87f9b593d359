"""Calls in the formats of several families on the wire: whole and streamed answers of every API say
the same, in many pieces.
"""

import json
from pathlib import Path

import attrs
import pytest
import trio.testing

from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.step import StepPlan, StepResult
from semantic_trio.testing.runner import FakeRunner
from tests.call_templates import TEMPLATES
from tests.http.serving import running, served
from tests.http.test_call_streaming import PROTOCOLS
from tests.vocabulary import END, byte_tokenizer, write_model

FILE = "def f(a):\n\treturn '<b>' if a < 1 else \"</x>\"\n" * 2
# How each format writes calls in a row: what stands around them, and a call of `look` with a text.
WRITTEN = {
    "qwen_xml": (
        "",
        "<tool_call>\n<function=look>\n<parameter=at>\n{}\n</parameter>\n</function>\n</tool_call>",
        "",
    ),
    "glm": (
        "",
        "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>",
        "",
    ),
    "minimax": (
        "<minimax:tool_call>\n",
        '<invoke name="look">\n<parameter name="at">{}</parameter>\n</invoke>\n',
        "</minimax:tool_call>",
    ),
    "mistral heads": ("", '[TOOL_CALLS]look[ARGS]{{"at": {}}}', ""),
    "deepseek v3.1": (
        "<｜tool▁calls▁begin｜>",
        '<｜tool▁call▁begin｜>look<｜tool▁sep｜>{{"at": {}}}<｜tool▁call▁end｜>',
        "<｜tool▁calls▁end｜>",
    ),
}


@attrs.define(eq=False)
class TokenSpeaker(FakeRunner):
    """Says these tokens, whatever it has read."""

    says: tuple[int, ...] = ()

    async def step(self, plan: StepPlan) -> StepResult:
        """See `ModelRunner.step`."""
        return await super().step(
            attrs.evolve(
                plan, open=tuple(attrs.evolve(start, forced=self.says) for start in plan.open)
            )
        )


def answer(name: str, *values: str) -> str:
    start, call, end = WRITTEN[name]
    return (
        start
        + "".join(
            call.format(json.dumps(value) if "[" in call or "{{" in call else value)
            for value in values
        )
        + end
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", WRITTEN)
async def test_calls_of_a_family_stream_and_are_the_whole_calls(
    name: str, protocol: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ask, wants_results, _ = PROTOCOLS[protocol]
    codec = load_codec(
        write_model(tmp_path, tokenizer=byte_tokenizer(), chat_template=TEMPLATES[name])
    )
    says = (*codec.encode_text(f"I look.{answer(name, FILE, 'sky')}"), END)
    async with running(
        served(TokenSpeaker(says=says, seconds_per_step=0.01), codec=codec)
    ) as server:
        whole, told = await ask(server, is_streamed=False), await ask(server, is_streamed=True)

    assert (
        told.calls == whole.calls == [("look", json.dumps({"at": FILE})), ("look", '{"at": "sky"}')]
    )
    assert told.text == whole.text == "I look."
    assert told.reason == whole.reason == wants_results
    assert told.deltas > len(FILE) // 2
