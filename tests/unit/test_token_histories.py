"""The tokens a conversation was read and generated in are found again, and no others."""

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

from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from semantic_trio.domain.conversation_digests import chain, link
from semantic_trio.domain.prompt import NOTHING_KNOWN, Known
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.token_histories import TokenHistories
from tests.search import examples


def says(role: Role, text: str) -> Message:
    return Message(role, (Text(text),))


HI, YES, MORE = says(Role.USER, "hi"), says(Role.ASSISTANT, "yes"), says(Role.USER, "more")


def named(*messages: Message, salt: Salt = NO_SALT) -> tuple[bytes, ...]:
    return chain(Conversation(messages), salt)


def test_the_next_turn_knows_the_tokens_of_the_last() -> None:
    histories = TokenHistories()
    histories.remember(named(HI), (1, 2), (3, 4), link(named(HI)[-1], YES))

    assert histories.known(named(HI, YES, MORE)) == Known(2, (1, 2, 3, 4))


def test_the_same_prompt_again_is_new() -> None:
    histories = TokenHistories()
    histories.remember(named(HI), (1, 2), (3, 4), link(named(HI)[-1], YES))

    assert histories.known(named(HI)) == NOTHING_KNOWN


def test_an_answer_that_no_client_has_sent_back_serves_as_far_as_it_goes() -> None:
    histories = TokenHistories()
    histories.remember(named(HI), (1, 2), (3, 4), link(named(HI)[-1], YES))
    histories.remember(named(HI, YES, MORE), (1, 2, 3, 4, 5, 6), (7, 8), None)

    assert histories.known(named(HI, YES, MORE, says(Role.ASSISTANT, "part"), HI)) == Known(
        2, (1, 2, 3, 4), draft=(5, 6, 7, 8)
    )
    assert histories.known(named(HI, says(Role.ASSISTANT, "other"), HI)) == Known(
        draft=(1, 2, 3, 4)
    )


def test_other_words_before_are_another_conversation() -> None:
    histories = TokenHistories()
    histories.remember(named(HI), (1, 2), (3, 4), link(named(HI)[-1], YES))

    assert histories.known(named(MORE, YES, MORE)) == NOTHING_KNOWN


def test_what_clients_rewrite_in_an_answer_is_overlooked_and_nothing_else() -> None:
    call = ToolCall(
        "toolu_1",
        "Write",
        '{"path": "a", "text": "x  \\ny\\n\\n", "deep": [{"z": 1.0, "a": "b "}]}',
    )
    told = ToolCall(
        "toolu_1", "Write", json.dumps({"deep": [{"a": "b", "z": 1}], "text": "x\ny", "path": "a"})
    )
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
    assert link(b"", Message(Role.USER, (ToolResult("1", "x"),))) != link(
        b"", Message(Role.USER, (ToolResult("1", "x", is_error=True),))
    )


def test_the_least_recently_used_conversation_goes_first() -> None:
    histories = TokenHistories(budget_bytes=3000)
    talks = [(says(Role.USER, str(number)), YES, MORE) for number in range(9)]
    for number, (question, answer, _) in enumerate(talks):
        histories.remember(
            named(question), (number,) * 100, (1,), link(named(question)[-1], answer)
        )
        assert histories.known(named(*talks[0])).messages == 2, "whoever is used stays"

    assert histories.known(named(*talks[1])) == NOTHING_KNOWN
    assert histories.known(named(*talks[8])).messages == 2
    assert histories.held_bytes <= histories.budget_bytes


# ------------------------------------------------------------------------------------ what it takes


def churned(conversations: int, turns: int, *, owned: bool) -> TokenHistories:
    """Conversations of so many turns, each of an agent of its own."""
    histories, names = (
        TokenHistories(budget_bytes=1 << 40),
        (hashlib.sha256(str(number).encode()).digest() for number in itertools.count()),
    )
    for _ in range(conversations):
        owner = f".auto-{next(names).hex()[:24]}" if owned else ""
        digests: tuple[bytes, ...] = ()
        for turn in range(turns):
            question, answer = next(names), next(names)
            histories.remember(
                (*digests, question), (*(1, 2, 3, 4) * turn, 1, 2, 3), (4,), answer, owner
            )
            digests = (*digests, question, answer)
    return histories


@pytest.mark.exhaustive
@pytest.mark.parametrize("owned", [True, False], ids=["of agents", "of nobody"])
@pytest.mark.parametrize(("conversations", "turns"), [(4000, 1), (1000, 5), (100, 60)])
def test_what_it_counts_is_what_it_takes(conversations: int, turns: int, owned: bool) -> None:
    """Its budget is one of memory: counted too low, it took twice of it."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        histories = churned(conversations, turns, owned=owned)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert len(histories) == conversations
    assert 0.75 < taken / histories.held_bytes < 1.15


def test_an_agent_that_is_gone_leaves_no_trace_of_its_id() -> None:
    histories = TokenHistories()
    histories.remember(named(HI), (1, 2), (3, 4), link(named(HI)[-1], YES), "ada")
    [line], before = histories.of_agent("ada"), histories.held_bytes

    histories.disown("ada")

    assert histories.of_agent("ada") == ()
    assert histories.held_bytes < before
    assert all(history.owner == "" for history in histories._histories)
    assert histories.known(named(HI, YES, MORE)) == Known(2, (1, 2, 3, 4)), (
        "its history is found by its conversation"
    )
    histories.adopt("eve", [line])
    assert histories.of_agent("eve") == (line,)


def test_tokens_in_which_no_conversation_ends_any_more_are_removed() -> None:
    histories = TokenHistories()
    for answer in range(100):
        histories.remember(named(HI), (1, 2), (3, answer), None)

    assert len(histories) == 1


def test_the_histories_of_an_agent_are_those_used_last() -> None:
    histories = TokenHistories()
    talks = [says(Role.USER, str(number)) for number in range(6)]
    for number, question in enumerate(talks):
        histories.remember(named(question), (number,), (9,), link(named(question)[-1], YES), "ada")
    histories.known(named(talks[0], YES, MORE))

    assert [line.packed[:1] for line in histories.of_agent("ada")] == [
        b"\x03",
        b"\x04",
        b"\x05",
        b"\x00",
    ]


def test_another_salt_is_another_conversation() -> None:
    histories, salt = TokenHistories(), b"s" * 32
    histories.remember(
        named(HI, salt=salt), (1, 2), (3, 4), link(named(HI, salt=salt)[-1], YES), "ada"
    )

    assert histories.known(named(HI, YES, MORE)) == NOTHING_KNOWN
    assert histories.known(named(HI, YES, MORE, salt=b"t" * 32)) == NOTHING_KNOWN
    assert histories.known(named(HI, YES, MORE, salt=salt)) == Known(2, (1, 2, 3, 4))


def test_the_histories_of_an_agent_are_adopted_under_another_salt() -> None:
    histories, salt, other = TokenHistories(), b"s" * 32, b"t" * 32
    histories.remember(
        named(HI, salt=salt), (1, 2), (3, 4), link(named(HI, salt=salt)[-1], YES), "ada"
    )
    lines = histories.of_agent("ada", salt)

    histories.adopt("eve", lines, other)

    assert (histories.of_agent("ada"), histories.of_agent("eve", salt)) == ((), ())
    assert histories.of_agent("eve", other) == lines
    assert histories.known(named(HI, YES, MORE, salt=other)) == Known(2, (1, 2, 3, 4))
    assert histories.known(named(HI, YES, MORE)) == NOTHING_KNOWN


OWNER = st.sampled_from(["", "ada", "eve"])
SALT = st.sampled_from([NO_SALT, b"s" * 32])


class TokenHistoriesMachine(RuleBasedStateMachine):
    """Conversations grow, branch, are asked again and break off; a plain dictionary of every whole
    answer is the truth.
    """

    def __init__(self) -> None:
        super().__init__()
        self.histories = TokenHistories(budget_bytes=12_000)
        self.answers: dict[bytes, tuple[int, ...]] = {}
        self.talks: list[tuple[Message, ...]] = [()]

    @rule(
        data=st.data(),
        question=st.integers(0, 2),
        answer=st.lists(st.integers(0, 3), max_size=3),
        heard=st.booleans(),
        owner=OWNER,
        salt=SALT,
    )
    def turn(
        self,
        data: st.DataObject,
        question: int,
        answer: list[int],
        heard: bool,
        owner: str,
        salt: Salt,
    ) -> None:
        before = data.draw(st.sampled_from(self.talks[-8:]))
        asked = (*before, says(Role.USER, str(question)))
        digests = named(*asked, salt=salt)
        known = self.histories.known(digests)
        assert (
            known.tokens == self.answers.get(digests[known.messages - 1], ())
            if known.messages
            else not known.tokens
        )
        prompt = (*known.tokens, *known.draft[:1], 90 + question)
        message = says(Role.ASSISTANT, f"{answer}")
        told = link(digests[-1], message) if heard else None
        self.histories.remember(digests, prompt, tuple(answer), told, owner)
        if told is not None:
            self.answers[told] = (*prompt, *answer)
            self.talks.append((*asked, message))
            assert (
                self.histories.known(named(*asked, message, HI, salt=salt)).tokens
                == self.answers[told]
            )

    @rule(owner=OWNER)
    def its_agent_is_gone(self, owner: str) -> None:
        self.histories.disown(owner)
        assert (self.histories.of_agent(owner), self.histories.of_agent(owner, b"s" * 32)) == (
            (),
            (),
        )

    @invariant()
    def bytes_and_owners_agree(self) -> None:
        held = {end.history for end in self.histories._ends.values()}
        assert self.histories.held_bytes == sum(
            history.size for history in self.histories._histories
        )
        assert held == set(self.histories._histories), "a conversation ends in each"
        owned = {
            (history, owner) for owner, held in self.histories._owned.items() for history in held
        }
        assert owned == {
            (history, history.owner) for history in self.histories._histories if history.owner
        }
        assert all(self.histories._owned.values())
        assert all(end.stop <= len(end.history.packed) for end in self.histories._ends.values())
        assert (
            self.histories.held_bytes <= self.histories.budget_bytes
            or len(self.histories._histories) == 1
        )


TestTokenHistories = pytest.mark.exhaustive(
    pytest.mark.timeout(1200)(TokenHistoriesMachine.TestCase)
)
TestTokenHistories.settings = settings(max_examples=examples(300), deadline=None)


@given(st.lists(st.text(max_size=3), max_size=5))
def test_each_beginning_has_a_name_of_its_own(texts: list[str]) -> None:
    digests = named(*(says(Role.USER, text) for text in texts))

    assert len(set(digests)) == len(texts)
    assert named(*(says(Role.USER, text) for text in texts[:-1])) == digests[:-1]
