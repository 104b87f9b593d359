"""Given answers: which one, when, and as which tokens."""

from pathlib import Path

import pytest
import trio
import trio.testing

from semantic_trio.adapters.scripted.rules import UNANSWERED, Call, Rule, read_script
from semantic_trio.adapters.scripted.rules import answer as answer_of
from semantic_trio.adapters.scripted.runner import END, ScriptedRunner
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.step import (
    Chunk,
    Decode,
    Piece,
    Restore,
    RowClose,
    RowStart,
    SaveBlock,
    StepPlan,
)
from tests.contract.script import GREEDY, Script, tokens


def runner(*rules: Rule) -> ScriptedRunner:
    """One token per character."""
    return ScriptedRunner(
        script=rules,
        encode=lambda text: [*map(ord, text)],
        decode=lambda ids: "".join(map(chr, ids)),
    )


def chat(*turns: str, opening: str = "") -> str:
    """A prompt; each turn is a role and what it says."""
    said = [turn.partition(" ") for turn in turns]
    return (
        "".join(f"<|im_start|>{role}\n{text}{END}\n" for role, _, text in said)
        + f"<|im_start|>assistant\n{opening}"
    )


def answer(prompt: str, *rules: Rule) -> str:
    return answer_of(rules, prompt)[0]


def test_the_first_rule_that_fits_answers() -> None:
    rules = (
        Rule(when="red", unless="dark", text="R"),
        Rule(when="r.d", text="D"),
        Rule(text="else"),
    )

    assert [answer(chat(f"user {word}"), *rules) for word in ("red", "dark red", "blue")] == [
        "R",
        "D",
        "else",
    ]
    assert answer(chat("user blue"), rules[0]) == UNANSWERED


def test_only_what_came_after_the_last_answer_is_new() -> None:
    prompt = chat("system code", "user code", "assistant code", "tool two", "system three")

    assert (
        answer(
            prompt,
            Rule(when="code", text="no"),
            Rule(when="(?s)two.*three", seen="code", text="yes"),
        )
        == "yes"
    )


def test_instructions_at_the_front_are_not_new() -> None:
    assert (
        answer(chat("system call", "user hi"), Rule(when="call", text="no"), Rule(text="yes"))
        == "yes"
    )


def test_rules_count_the_answers_before_and_are_spent_when_they_are_to_be() -> None:
    rules = (Rule(once=True, text="first"), Rule(turn=1, text="second"), Rule(text="later"))
    prompts = [
        chat("user a"),
        chat("user a", "assistant first", "user b"),
        chat("user a", "assistant first", "user b", "assistant x", "user c"),
    ]

    assert [answer(prompt, *rules) for prompt in prompts] == ["first", "second", "later"]


def test_an_answer_is_thought_text_and_calls_in_the_words_of_the_template() -> None:
    rule = Rule(thinking="Hm.", text="So.", calls=(Call("Read", {"path": "a"}), Call("Bash")))

    assert answer(chat("user a"), rule) == (
        "<think>\nHm.\n</think>\n\nSo.\n"
        '<tool_call>\n{"name": "Read", "arguments": {"path": '
        '"a"}}\n</tool_call>\n<tool_call>\n{"name": "Bash", "arguments": {}}\n</tool_call>'
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(thinking="Hm.", text="So."), "Hm.\n</think>\n\nSo."),
        (Rule(text="So."), "\n</think>\n\nSo."),
        (Rule(), "\n</think>\n\n"),
    ],
)
def test_a_thought_that_the_prompt_begins_is_ended(rule: Rule, said: str) -> None:
    assert answer(chat("user a", opening="<think>\n"), rule) == said


def test_a_call_that_the_prompt_begins_is_gone_on_with() -> None:
    rule = Rule(calls=(Call("Read", {"path": "a"}),))

    assert (
        answer(chat("user a", opening='<tool_call>\n{"name": "Read'), rule)
        == '", "arguments": {"path": "a"}}\n</tool_call>'
    )


async def test_the_tokens_are_drawn_one_by_one_and_end_the_turn() -> None:
    drawn = await Script(runner(Rule(text="ok"))).generate(0, tuple(map(ord, chat("user a"))), 14)

    assert "".join(map(chr, tokens(drawn))) == f"ok{END}>>"


async def test_a_row_that_was_taken_away_goes_on_where_it_was() -> None:
    prompt, script = tuple(map(ord, chat("user a"))), Script(runner(Rule(text="abcdef")))
    begun = tokens(await script.generate(0, prompt, 3))
    await script.step(
        StepPlan(open=(RowStart(1, 0, GREEDY),), prefill=(Chunk(1, (*prompt, *begun), 0, 3),))
    )
    await script.step(StepPlan(decode=(Decode(1, 4),)))
    await script.land()

    assert "".join(map(chr, begun + tokens(script.drawn[1]))) == "abcde"


async def test_memory_of_another_conversation_gets_another_answer() -> None:
    """The answer is that of what the row has in memory, whatever was asked."""
    said, other = (tuple(map(ord, chat(f"user {word}"))) for word in ("red", "tan"))
    scripted = runner(Rule(when="red", text="R"), Rule(when="tan", text="T"))
    script = Script(scripted)
    await script.step(StepPlan(open=(RowStart(0, 0, GREEDY),), prefill=(Chunk(0, said[:-1], 0),)))
    await script.step(StepPlan(close=(RowClose(0, (SaveBlock(b"key", 0, 0, len(said) - 1),)),)))
    scripted.blocks[b"key"] = other[:-1]
    restored = RowStart(
        1, 0, GREEDY, restore=Restore(len(said) - 1, (Piece(0, len(said) - 1, b"key"),))
    )
    await script.step(StepPlan(open=(restored,), prefill=(Chunk(1, said[-1:], len(said) - 1, 0),)))
    await script.land()

    assert chr(script.drawn[1][0].token) == "T"


async def test_a_slow_rule_holds_its_steps_up(autojump_clock: trio.testing.MockClock) -> None:
    begun = trio.current_time()
    await Script(runner(Rule(text="slow", pace_seconds=0.5))).generate(
        0, tuple(map(ord, chat("user a"))), 5
    )

    assert trio.current_time() - begun == pytest.approx(2.0)


@pytest.mark.parametrize(
    "content", ["{}", "[{", '[{"wen": "a"}]', '[{"when": "("}]', '[{"pace_seconds": -1}]', None]
)
def test_a_script_that_is_none_is_refused_with_its_name(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "script.json"
    if content is not None:
        file.write_text(content)

    with pytest.raises(InvalidRequestError, match=r"script\.json"):
        read_script(file)


def test_a_script_is_read(tmp_path: Path) -> None:
    file = tmp_path / "script.json"
    file.write_text('[{"when": "a", "calls": [{"name": "Bash", "input": {"command": "true"}}]}]')

    assert read_script(file) == (Rule(when="a", calls=(Call("Bash", {"command": "true"}),)),)
