"""The tiny random model's files: the same everywhere, and a template that keeps the front of a
prompt as it was.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from semantic_trio.adapters.catalogue.progress import Silent
from semantic_trio.adapters.catalogue.tiny_random import TinyRandom, random_weights
from tests.vocabulary import write_model

TOOLS = [
    {
        "type": "function",
        "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
    }
]
CALLS = [{"function": {"name": "look", "arguments": {"at": 1}}}]
HISTORY: list[dict[str, object]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Look."},
    {"role": "assistant", "content": "", "reasoning_content": "I should look.", "tool_calls": CALLS},
    {"role": "tool", "content": "a cat"},
    {"role": "system", "content": "It is late."},
    {"role": "assistant", "content": "A cat.", "thinking": "So it is."},
    {"role": "user", "content": "Thanks."},
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    TinyRandom(lambda progress: write_model(directory / "source")).build(directory, Silent())
    return directory


def rendered(
    tiny: Path, messages: Sequence[Mapping[str, object]], *, prompt: bool = False, **options: object
) -> str:
    tokenizer = AutoTokenizer.from_pretrained(tiny, local_files_only=True)
    text: str = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=prompt, **options
    )
    return text


def test_its_weights_are_the_same_on_every_machine() -> None:
    first, second = random_weights(300), random_weights(300)

    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert first["model.embed_tokens.weight"][0, :3] == pytest.approx(
        [1.690526, -0.465937, 0.032820], abs=1e-6
    )


def test_it_is_built_in_under_a_second_at_its_full_size(tmp_path: Path) -> None:
    """Seconds of the processor, and the least of three: other work of the machine is not
    counted.
    """
    recipe = TinyRandom(lambda progress: write_model(tmp_path / "source", vocab_size=49_152))

    def seconds() -> float:
        started = time.process_time()
        recipe.build(tmp_path, Silent())
        return time.process_time() - started

    assert min(seconds() for _ in range(3)) < 1.0


def test_a_longer_history_begins_with_the_shorter_one(tiny: Path) -> None:
    whole = rendered(tiny, HISTORY, tools=TOOLS)

    for length in range(1, len(HISTORY)):
        assert whole.startswith(rendered(tiny, HISTORY[:length], tools=TOOLS))


def test_system_messages_stay_where_they_stand(tiny: Path) -> None:
    text = rendered(tiny, HISTORY)

    assert (
        text.index("Be brief.")
        < text.index("Look.")
        < text.index("<|im_start|>system\nIt is late.<|im_end|>")
        < text.index("A cat.")
    )


def test_tools_calls_and_answers_are_written_as_hermes_models_read_them(tiny: Path) -> None:
    text = rendered(tiny, HISTORY, tools=TOOLS)

    assert (
        text.index('<tools>\n{"type": "function"')
        < text.index("</tools>")
        < text.index("Be brief.")
    )
    assert '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call><|im_end|>' in text
    assert "<|im_start|>tool\n<tool_response>\na cat\n</tool_response><|im_end|>" in text


def test_thinking_of_earlier_turns_is_kept_under_either_name(tiny: Path) -> None:
    text = rendered(tiny, HISTORY)

    assert "<|im_start|>assistant\n<think>\nI should look.\n</think>\n\n" in text
    assert "<|im_start|>assistant\n<think>\nSo it is.\n</think>\n\nA cat.<|im_end|>" in text


@pytest.mark.parametrize(("enabled", "turn"), [(True, {"reasoning_content": "Hm."}), (False, {})])
def test_the_prompt_with_or_without_thinking_is_how_the_history_will_read(
    tiny: Path, enabled: bool, turn: dict[str, str]
) -> None:
    prompt = rendered(tiny, HISTORY, prompt=True, enable_thinking=enabled)
    later = rendered(tiny, [*HISTORY, {"role": "assistant", "content": "Bye.", **turn}])

    assert prompt.endswith("<think>\n") is enabled
    assert later.startswith(prompt)
