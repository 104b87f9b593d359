"""An answer is read as text, thoughts and calls, and remembered under the name its conversation has
next time.
"""

import itertools

import attrs
import pytest
import trio
from trio.testing import MockClock

from semantic_trio.adapters.text.formats.hermes import HERMES
from semantic_trio.adapters.text.formats.table import QWEN_XML
from semantic_trio.adapters.text.harmony_reader import HarmonyReader
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.application.answer import Answer, Encoded, WholeAnswer
from semantic_trio.application.answer_parts import AnswerEvent
from semantic_trio.domain.canonical import canonical
from semantic_trio.domain.conversation import (
    CallPiece,
    Conversation,
    CutCall,
    Message,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)
from semantic_trio.domain.conversation_digests import chain
from semantic_trio.domain.errors import StepFailedError
from semantic_trio.domain.generation import Failed, Finished, FinishReason
from semantic_trio.domain.prompt import NOTHING_KNOWN
from semantic_trio.domain.step import StepPlan
from semantic_trio.testing import ByteCodec, FakeRunner
from tests.unit.conftest import Bench, StartEngine

CODEC = ByteCodec()
ASKED = Conversation((Message(Role.USER, (Text("hi"),)),), (Tool("look"),))
NEXT = Message(Role.USER, (Text("and now?"),))
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'


@attrs.define(eq=False)
class TaskSteps(trio.abc.Instrument):
    """Counts how often a task is woken."""

    task: trio.lowlevel.Task
    count: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self.task


def answer_to(
    bench: Bench,
    told: str,
    conversation: Conversation = ASKED,
    *,
    keeps_scores: bool = False,
    **more: object,
) -> Answer:
    """An answer whose text is `told`, and the end of the turn."""
    digests = chain(canonical(conversation))
    prompt = CODEC.encode_prompt(conversation, bench.engine.memory.token_histories.known(digests))
    forced = (*told.encode(), 0) if told else ()
    generation = bench.submit(prompt.tokens, 500, forced=forced, **more)
    ids = (f"id{number}" for number in itertools.count(1))
    reader = CODEC.reader(conversation, prompt.opening)
    encoded = Encoded(conversation, digests, prompt, conversation.tools)
    return Answer(
        generation,
        encoded,
        reader,
        bench.engine.memory,
        ids.__next__,
        conversation.choice.is_single,
        keeps_scores,
    )


def goes_on(whole: WholeAnswer) -> Conversation:
    """The next request after an answer."""
    return Conversation((*ASKED.messages, Message(Role.ASSISTANT, whole.parts), NEXT), ASKED.tools)


async def test_pieces_are_joined_and_calls_have_ids(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()

    whole = await answer_to(bench, f"<think>\nhm\n</think>\n\nI look.{CALL}{CALL}").result()

    calls = [part for part in whole.parts if isinstance(part, ToolCall)]
    assert [(call.id, call.name, call.arguments) for call in calls] == [
        ("id1", "look", '{"at": 1}'),
        ("id2", "look", '{"at": 1}'),
    ]
    assert [type(part) for part in whole.parts] == [Thinking, Text, ToolCall, ToolCall]
    assert whole.text == "I look."


async def test_of_calls_that_come_at_the_end_one_is_told_where_one_is_allowed(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    """Calls whose arguments are not escaped are certain only when the answer is over."""
    bench = await start_engine()
    single = attrs.evolve(ASKED, choice=ToolChoice(is_single=True))
    call = "<tool_call>\n<function=look>\n</function>\n</tool_call>"
    answer = answer_to(bench, f"I look.\n{call}\n{call}", single)
    answer._reader = DelimiterReader(ThoughtDelimiters(), (QWEN_XML,), ASKED.tools)

    whole = await answer.result()

    assert whole.parts == (Text("I look.\n"), ToolCall("id1", "look", "{}"))


async def test_tokens_are_told_of_the_text_and_counted_of_thoughts(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()

    whole = await answer_to(
        bench, f"<think>\nhm\n</think>\n\nI look.{CALL}So.", keeps_scores=True
    ).result()
    silent = await answer_to(bench, "So.").result()

    assert bytes(event.token for event in whole.scores).decode() == "I look.So."
    assert whole.thought_tokens == len("<think>\nhm\n</think>\n\n")
    assert (silent.scores, silent.thought_tokens) == ((), 0)


@pytest.mark.parametrize("delimiters", [("<think>", "</think>"), ("[THINK]", "[/THINK]")])
@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("gap", ["", "\n\n"])
async def test_thought_delimiters_never_count_as_text(
    start_engine: StartEngine,
    autojump_clock: MockClock,
    delimiters: tuple[str, str],
    is_open: bool,
    gap: str,
) -> None:
    bench, (start, end) = await start_engine(), delimiters
    thought = f"{'' if is_open else start}\nhm\n{end}{gap}"
    answer = answer_to(bench, f"{thought}I look.{CALL}\n\nSo.", keeps_scores=True)
    answer._reader = DelimiterReader(
        ThoughtDelimiters(start, end), (HERMES,), ASKED.tools, start if is_open else ""
    )
    whole = await answer.result()

    assert bytes(event.token for event in whole.scores).decode() == "I look.So."
    assert whole.thought_tokens == len(thought)


async def test_an_answer_that_ends_in_words_of_its_model_is_over(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    """Harmony's end of a message is a token that ends no turn: thoughts end with it too."""
    bench = await start_engine()
    said = bench.engine.memory.token_histories
    answer = answer_to(
        bench,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>So.<|end|>and so on",
    )
    answer._reader = HarmonyReader(may_call=True)

    whole = await answer.result()

    written = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>So.<|end|>"
    assert whole.parts == (Thinking("Hm."), Text("So."))
    assert (whole.finished.reason, whole.finished.completion_tokens) == (
        FinishReason.END_OF_TURN,
        len(written),
    )
    known = said.known(chain(goes_on(whole)))
    assert bytes(known.tokens).decode().endswith(written[:-1]), "without the token that ends it"


async def test_the_next_turn_goes_on_with_the_very_tokens(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    said = bench.engine.memory.token_histories
    first = answer_to(bench, f"I look.{CALL}")
    whole = await first.result()
    retold = Message(Role.ASSISTANT, (Text(" I look. "), ToolCall("id1", "look", '{"at":1}')))
    longer = Conversation((*ASKED.messages, retold, NEXT), ASKED.tools)

    known = said.known(chain(longer))
    second = await answer_to(bench, "yes", longer).result()

    prompt = first.generation.request.prompt
    assert (known.messages, known.tokens) == (2, (*prompt, *f"I look.{CALL}".encode()))
    assert whole.parts[-1] == ToolCall("id1", "look", '{"at": 1}')
    assert second.finished.reuse.tokens == len(known.tokens)


async def test_an_argument_that_is_the_default_may_come_back_without_it(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    said = bench.engine.memory.token_histories
    tools = (
        Tool("look", "", '{"properties": {"at": {"default": 1}}}', is_deferred=True),
        Tool("other"),
    )
    asked = Conversation(ASKED.messages, tools)
    whole = await answer_to(bench, CALL, asked).result()

    retold = Message(
        Role.ASSISTANT,
        tuple(
            attrs.evolve(part, arguments="{}") for part in whole.parts if isinstance(part, ToolCall)
        ),
    )

    assert (
        said.known(chain(canonical(Conversation((*asked.messages, retold, NEXT), tools)))).messages
        == 2
    )


async def test_an_answer_that_is_given_up_is_a_draft(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1))
    said = bench.engine.memory.token_histories
    answer = answer_to(bench, "a long story")
    told = ""
    with trio.move_on_after(6.5):
        while True:
            told += "".join(part.text for part in await answer.receive() if isinstance(part, Text))

    answer.close()
    answer.close()

    assert 3 <= len(told) < len("a long story")
    longer = Conversation(
        (*ASKED.messages, Message(Role.ASSISTANT, (Text(told),)), NEXT), ASKED.tools
    )
    known = said.known(chain(longer))
    assert (known.messages, bytes(known.draft).decode().endswith(told)) == (0, True)
    assert CODEC.encode_prompt(longer, known).tokens[: len(known.draft)] == known.draft


async def test_what_a_stop_string_cut_is_not_told_as_it_was_drawn(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    said = bench.engine.memory.token_histories

    cut = await answer_to(bench, "one STOP two", stop_strings=("STOP",)).result()

    assert (cut.text, said.known(chain(goes_on(cut))).messages) == ("one ", 0)


async def test_where_one_call_may_be_made_the_answer_ends_with_it(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1))
    said = bench.engine.memory.token_histories
    asked = attrs.evolve(ASKED, choice=ToolChoice(is_single=True))
    quoted = CALL.replace('{"at": 1}', '["</tool_call>"]')

    whole = await answer_to(
        bench, f"<think>\n</tool_call>?\n</think>\n\nx{quoted}{CALL} more", asked
    ).result()
    await trio.sleep(5)

    assert [type(part) for part in whole.parts] == [Thinking, Text, ToolCall]
    assert (whole.finished.reason, whole.finished.prompt_tokens) == (
        FinishReason.END_OF_TURN,
        whole.finished.reuse.prompt_tokens,
    )
    assert said.known(chain(goes_on(whole))).messages == 2
    assert bench.runner.rows == {}


async def test_a_failed_answer_raises_and_is_nobodys_memory(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    def fail(plan: StepPlan) -> None:
        if plan.decode:
            raise ValueError("broken")

    bench = await start_engine(FakeRunner(before_step=fail))
    said = bench.engine.memory.token_histories
    answer = answer_to(bench, "x" * 50)

    with pytest.raises(StepFailedError):
        await answer.result()
    answer.close()

    assert said.held_bytes == 0


async def test_an_answer_that_is_wanted_whole_is_read_now_and_then_and_ends_at_once(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    """Reading each token as it comes would wake a task per token for nobody."""
    bench = await start_engine(FakeRunner(seconds_per_step=0.001))
    answer = answer_to(bench, "a long story " * 20)
    steps = TaskSteps(trio.lowlevel.current_task())
    trio.lowlevel.add_instrument(steps)
    whole = await answer.result()
    trio.lowlevel.remove_instrument(steps)

    assert whole.text == "a long story " * 20
    assert trio.current_time() == answer.generation.stamps[-1], "its end waits for no look"
    assert steps.count <= len(answer.generation.stamps) / 10


async def test_the_last_event_tells_the_end(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    said = bench.engine.memory.token_histories
    answer = answer_to(bench, "hello")
    events: list[AnswerEvent] = []
    while not (events and isinstance(events[-1], Finished | Failed)):
        events += await answer.receive()

    assert "".join(event.text for event in events[:-1] if isinstance(event, Text)) == "hello"
    assert isinstance(events[-1], Finished)
    assert said.known(chain(ASKED)) == NOTHING_KNOWN


@pytest.mark.parametrize("rest", ["", " or 2}}\n</tool_call> more text"])
async def test_a_call_that_is_announced_and_broken_ends_the_answer_and_is_in_no_history(
    rest: str, start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1))
    said = bench.engine.memory.token_histories
    begun = CALL.partition("}")[0]
    answer = answer_to(bench, f"x{begun}{rest}")
    events: list[AnswerEvent] = []
    while not (events and isinstance(events[-1], Finished | Failed)):
        events += await answer.receive()
    await trio.sleep(5)

    pieces = [event for event in events if isinstance(event, CallPiece)]
    [cut] = [event for event in events if isinstance(event, CutCall)]
    assert {*(piece.id for piece in pieces), cut.id} == {"id1"}
    assert "".join(piece.arguments for piece in pieces) == cut.arguments
    assert events[-2] == cut, "nothing is told after it"
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is FinishReason.BROKEN_CALL
    assert answer.parts == (Text("x"),)
    assert answer.parts_with_cut == (Text("x" + cut.written),)
    assert (
        said.known(
            chain(
                Conversation(
                    (*ASKED.messages, Message(Role.ASSISTANT, answer.parts), NEXT), ASKED.tools
                )
            )
        ).messages
        == 0
    )
    assert bench.runner.rows == {}


async def test_pieces_of_a_call_that_come_together_are_one_event(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    answer = answer_to(bench, f"x{CALL}{CALL}y")
    await trio.sleep(5)

    assert await answer.receive() == [
        Text("x"),
        CallPiece("id1", "look", '{"at": 1'),
        ToolCall("id1", "look", '{"at": 1}'),
        CallPiece("id2", "look", '{"at": 1'),
        ToolCall("id2", "look", '{"at": 1}'),
        Text("y"),
        *([answer.generation.cut_short(len(f"x{CALL}{CALL}y") + 1)]),
    ]
