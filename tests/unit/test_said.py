"""The tokens a conversation was read and said in are found again, and no others."""

import gc
import hashlib
import itertools
import json
import tracemalloc

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from semantic_trio.domain.conversation import NOTHING_KNOWN, Conversation, Known, Message, Role, Text, Thinking, ToolCall, ToolResult
from semantic_trio.domain.said import Said, chain, link
from semantic_trio.domain.salt import NO_SALT, Salt


def says(role: Role, text: str) -> Message:
    return Message(role, (Text(text),))


HI, YES, MORE = says(Role.USER, "hi"), says(Role.ASSISTANT, "yes"), says(Role.USER, "more")


def named(*messages: Message, salt: Salt = NO_SALT) -> tuple[bytes, ...]:
    return chain(Conversation(messages), salt)


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


# ----------------------------------------------------------------------------------------------------------------------------- what it takes


def churned(conversations: int, turns: int, *, owned: bool) -> Said:
    """Conversations of so many turns, each said by an agent of its own."""
    said, names = Said(budget_bytes=1 << 40), (hashlib.sha256(str(number).encode()).digest() for number in itertools.count())
    for _ in range(conversations):
        owner = f".auto-{next(names).hex()[:24]}" if owned else ""
        digests: tuple[bytes, ...] = ()
        for turn in range(turns):
            question, answer = next(names), next(names)
            said.remember((*digests, question), (*(1, 2, 3, 4) * turn, 1, 2, 3), (4,), answer, owner)
            digests = (*digests, question, answer)
    return said


@pytest.mark.parametrize("owned", [True, False], ids=["of agents", "of nobody"])
@pytest.mark.parametrize(("conversations", "turns"), [(4000, 1), (1000, 5), (100, 60)])
def test_what_it_counts_is_what_it_takes(conversations: int, turns: int, owned: bool) -> None:
    """Its budget is one of memory: counted too low, it took twice of it."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        said = churned(conversations, turns, owned=owned)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert len(said) == conversations
    assert 0.75 < taken / said.held_bytes < 1.15


def test_an_agent_that_is_gone_leaves_no_trace_of_its_id() -> None:
    said = Said()
    said.remember(named(HI), (1, 2), (3, 4), link(named(HI)[-1], YES), "ada")
    [line], before = said.lines("ada"), said.held_bytes

    said.disown("ada")

    assert said.lines("ada") == ()
    assert said.held_bytes < before
    assert all(strip.owner == "" for strip in said._strips)
    assert said.known(named(HI, YES, MORE)) == Known(2, (1, 2, 3, 4)), "what it has said is found by who says the same"
    said.adopt("eve", [line])
    assert said.lines("eve") == (line,)


def test_tokens_in_which_no_conversation_ends_any_more_are_removed() -> None:
    said = Said()
    for answer in range(100):
        said.remember(named(HI), (1, 2), (3, answer), None)

    assert len(said) == 1


def test_the_lines_of_an_agent_are_those_used_last() -> None:
    said = Said()
    talks = [says(Role.USER, str(number)) for number in range(6)]
    for number, question in enumerate(talks):
        said.remember(named(question), (number,), (9,), link(named(question)[-1], YES), "ada")
    said.known(named(talks[0], YES, MORE))

    assert [line.packed[:1] for line in said.lines("ada")] == [b"\x03", b"\x04", b"\x05", b"\x00"]


def test_another_salt_is_another_conversation() -> None:
    said, salt = Said(), b"s" * 32
    said.remember(named(HI, salt=salt), (1, 2), (3, 4), link(named(HI, salt=salt)[-1], YES), "ada")

    assert said.known(named(HI, YES, MORE)) == NOTHING_KNOWN
    assert said.known(named(HI, YES, MORE, salt=b"t" * 32)) == NOTHING_KNOWN
    assert said.known(named(HI, YES, MORE, salt=salt)) == Known(2, (1, 2, 3, 4))


def test_the_lines_of_an_agent_are_adopted_under_another_salt() -> None:
    said, salt, other = Said(), b"s" * 32, b"t" * 32
    said.remember(named(HI, salt=salt), (1, 2), (3, 4), link(named(HI, salt=salt)[-1], YES), "ada")
    lines = said.lines("ada", salt)

    said.adopt("eve", lines, other)

    assert (said.lines("ada"), said.lines("eve", salt)) == ((), ())
    assert said.lines("eve", other) == lines
    assert said.known(named(HI, YES, MORE, salt=other)) == Known(2, (1, 2, 3, 4))
    assert said.known(named(HI, YES, MORE)) == NOTHING_KNOWN


OWNER = st.sampled_from(["", "ada", "eve"])
SALT = st.sampled_from([NO_SALT, b"s" * 32])


class SaidMachine(RuleBasedStateMachine):
    """Conversations grow, branch, are asked again and break off; a plain dictionary of every whole answer is the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.said = Said(budget_bytes=12_000)
        self.told: dict[bytes, tuple[int, ...]] = {}
        self.talks: list[tuple[Message, ...]] = [()]

    @rule(data=st.data(), question=st.integers(0, 2), answer=st.lists(st.integers(0, 3), max_size=3), heard=st.booleans(), owner=OWNER, salt=SALT)
    def turn(self, data: st.DataObject, question: int, answer: list[int], heard: bool, owner: str, salt: Salt) -> None:
        before = data.draw(st.sampled_from(self.talks[-8:]))
        asked = (*before, says(Role.USER, str(question)))
        digests = named(*asked, salt=salt)
        known = self.said.known(digests)
        assert known.tokens == self.told.get(digests[known.messages - 1], ()) if known.messages else not known.tokens
        prompt = (*known.tokens, *known.draft[:1], 90 + question)
        message = says(Role.ASSISTANT, f"{answer}")
        told = link(digests[-1], message) if heard else None
        self.said.remember(digests, prompt, tuple(answer), told, owner)
        if told is not None:
            self.told[told] = (*prompt, *answer)
            self.talks.append((*asked, message))
            assert self.said.known(named(*asked, message, HI, salt=salt)).tokens == self.told[told]

    @rule(owner=OWNER)
    def its_agent_is_gone(self, owner: str) -> None:
        self.said.disown(owner)
        assert (self.said.lines(owner), self.said.lines(owner, b"s" * 32)) == ((), ())

    @invariant()
    def the_books_agree(self) -> None:
        strips = {end.strip for end in self.said._ends.values()}
        assert self.said.held_bytes == sum(strip.size for strip in self.said._strips)
        assert strips == set(self.said._strips), "a conversation ends in each"
        owned = {(strip, owner) for owner, strips in self.said._owned.items() for strip in strips}
        assert owned == {(strip, strip.owner) for strip in self.said._strips if strip.owner}
        assert all(self.said._owned.values())
        assert all(end.stop <= len(end.strip.packed) for end in self.said._ends.values())
        assert self.said.held_bytes <= self.said.budget_bytes or len(self.said._strips) == 1


TestSaid = pytest.mark.exhaustive(pytest.mark.timeout(1200)(SaidMachine.TestCase))
TestSaid.settings = settings(max_examples=300, deadline=None)


@given(st.lists(st.text(max_size=3), max_size=5))
def test_each_beginning_has_a_name_of_its_own(texts: list[str]) -> None:
    digests = named(*(says(Role.USER, text) for text in texts))

    assert len(set(digests)) == len(texts)
    assert named(*(says(Role.USER, text) for text in texts[:-1])) == digests[:-1]
