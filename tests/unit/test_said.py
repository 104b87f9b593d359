"""The tokens a conversation was read and said in are found again, and no others."""

import json

import attrs
import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from semantic_trio.domain.conversation import NOTHING_KNOWN, Conversation, Known, Message, Role, Text, Thinking, ToolCall, ToolResult
from semantic_trio.domain.said import Said, chain, link


def says(role: Role, text: str) -> Message:
    return Message(role, (Text(text),))


HI, YES, MORE = says(Role.USER, "hi"), says(Role.ASSISTANT, "yes"), says(Role.USER, "more")


def named(*messages: Message) -> tuple[bytes, ...]:
    return chain(Conversation(messages))


def test_the_next_turn_knows_the_tokens_of_the_last() -> None:
    said = Said()
    said.remember(named(HI), (1, 2), (3, 4), link(named(HI)[-1], YES))

    assert said.known(named(HI, YES, MORE)) == Known(2, (1, 2, 3, 4))


def test_the_same_prompt_again_is_new() -> None:
    said = Said()
    said.remember(named(HI), (1, 2), (3, 4), link(named(HI)[-1], YES))

    assert said.known(named(HI)) == NOTHING_KNOWN


def test_an_answer_nobody_heard_to_its_end_serves_as_far_as_it_goes() -> None:
    said = Said()
    said.remember(named(HI), (1, 2), (3, 4), link(named(HI)[-1], YES))
    said.remember(named(HI, YES, MORE), (1, 2, 3, 4, 5, 6), (7, 8), None)

    assert said.known(named(HI, YES, MORE, says(Role.ASSISTANT, "part"), HI)) == Known(2, (1, 2, 3, 4), draft=(5, 6, 7, 8))
    assert said.known(named(HI, says(Role.ASSISTANT, "other"), HI)) == Known(draft=(1, 2, 3, 4))


def test_other_words_before_are_another_conversation() -> None:
    said = Said()
    said.remember(named(HI), (1, 2), (3, 4), link(named(HI)[-1], YES))

    assert said.known(named(MORE, YES, MORE)) == NOTHING_KNOWN


def test_what_clients_rewrite_in_an_answer_is_overlooked_and_nothing_else() -> None:
    call = ToolCall("toolu_1", "Write", '{"path": "a", "text": "x  \\ny\\n\\n", "deep": [{"z": 1.0, "a": "b "}]}')
    told = ToolCall("toolu_1", "Write", json.dumps({"deep": [{"a": "b", "z": 1}], "text": "x\ny", "path": "a"}))
    answer = Message(Role.ASSISTANT, (Thinking("hm"), Text("I write.\n"), call))
    name = link(b"", answer)

    assert link(b"", Message(Role.ASSISTANT, (Text("I write."), told))) == name
    for other in (
        attrs.evolve(told, id="toolu_2"),
        attrs.evolve(told, name="Edit"),
        attrs.evolve(told, arguments=json.dumps({"path": "b", "text": "x\ny", "deep": []})),
        attrs.evolve(told, arguments="{"),
    ):
        assert link(b"", Message(Role.ASSISTANT, (Text("I write."), other))) != name
    assert link(b"", Message(Role.USER, answer.parts)) != name
    assert link(b"", says(Role.USER, "blank ")) != link(b"", says(Role.USER, "blank"))
    assert link(b"", Message(Role.USER, (ToolResult("1", "x"),))) != link(b"", Message(Role.USER, (ToolResult("1", "x", is_error=True),)))


def test_the_least_recently_used_conversation_goes_first() -> None:
    said = Said(budget_bytes=3000)
    talks = [(says(Role.USER, str(number)), YES, MORE) for number in range(9)]
    for number, (question, answer, _) in enumerate(talks):
        said.remember(named(question), (number,) * 100, (1,), link(named(question)[-1], answer))
        assert said.known(named(*talks[0])).messages == 2, "whoever is used stays"

    assert said.known(named(*talks[1])) == NOTHING_KNOWN
    assert said.known(named(*talks[8])).messages == 2
    assert said.held_bytes <= said.budget_bytes


class SaidMachine(RuleBasedStateMachine):
    """Conversations grow, branch, are asked again and break off; a plain dictionary of every whole answer is the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.said = Said(budget_bytes=6000)
        self.told: dict[bytes, tuple[int, ...]] = {}
        self.talks: list[tuple[Message, ...]] = [()]

    @rule(data=st.data(), question=st.integers(0, 2), answer=st.lists(st.integers(0, 3), max_size=3), heard=st.booleans())
    def turn(self, data: st.DataObject, question: int, answer: list[int], heard: bool) -> None:
        before = data.draw(st.sampled_from(self.talks[-8:]))
        asked = (*before, says(Role.USER, str(question)))
        digests = named(*asked)
        known = self.said.known(digests)
        assert known.tokens == self.told.get(digests[known.messages - 1], ()) if known.messages else not known.tokens
        prompt = (*known.tokens, *known.draft[:1], 90 + question)
        message = says(Role.ASSISTANT, f"{answer}")
        told = link(digests[-1], message) if heard else None
        self.said.remember(digests, prompt, tuple(answer), told)
        if told is not None:
            self.told[told] = (*prompt, *answer)
            self.talks.append((*asked, message))
            assert self.said.known(named(*asked, message, HI)).tokens == self.told[told]

    @invariant()
    def the_books_agree(self) -> None:
        strips = {end.strip for end in self.said._ends.values()}
        assert self.said.held_bytes == sum(strip.size for strip in self.said._strips)
        assert strips <= set(self.said._strips)
        assert all(end.stop <= len(end.strip.packed) for end in self.said._ends.values())
        assert self.said.held_bytes <= self.said.budget_bytes or len(self.said._strips) == 1


TestSaid = SaidMachine.TestCase
TestSaid.settings = settings(max_examples=300, deadline=None)


@given(st.lists(st.text(max_size=3), max_size=5))
def test_each_beginning_has_a_name_of_its_own(texts: list[str]) -> None:
    digests = named(*(says(Role.USER, text) for text in texts))

    assert len(set(digests)) == len(texts)
    assert named(*(says(Role.USER, text) for text in texts[:-1])) == digests[:-1]
