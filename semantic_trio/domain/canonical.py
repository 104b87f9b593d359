"""The rules that keep a prompt's front where it was: what clients change without meaning it changes
nothing here.

Two requests of one conversation are to become prompts of which the second begins with the first.
Clients rewrite what they have sent and been sent in ways that mean nothing and move everything.
Each rule undoes one of them. What needs no rule, for the neutral conversation has no word for it:
cache control, a text spelled as one string or as blocks, request metadata. System messages stay
where they stand, except those of one rule. Thoughts of earlier turns are kept; that is the
template's part.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import takewhile

import attrs

from semantic_trio.domain.canonical_tools import (
    in_json_order,
    neighbouring_results_joined,
    results_in_call_order,
    with_tools_where_they_load,
)
from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Part,
    Role,
    Text,
)
from semantic_trio.domain.eviction import Rank

BILLING_HEADER = "x-anthropic-billing-header:"
# What counts down from turn to turn. Alone on its line, so that a sentence about it stays a
# sentence.
COUNTER = re.compile(r"^[ \t]*<total_tokens>[^<\n]*</total_tokens>[ \t]*$\n?", re.MULTILINE)


SILENCE = Message(Role.USER, ())


@attrs.frozen
class Rewriting:
    """A rewriting that clients do, and the function that undoes it."""

    name: str
    reason: str  # what happens without it
    seen: str  # who does it, or where it was reported
    apply: Callable[[Conversation], Conversation]


def canonical(conversation: Conversation) -> Conversation:
    """The conversation after all rules; applying them again changes nothing.

    Where nothing is left, somebody is silent.
    """
    ordered = reduce(lambda so_far, rule: rule.apply(so_far), RULES, conversation)
    return ordered if ordered.messages else attrs.evolve(ordered, messages=(SILENCE,))


# ---------------------------------------------------------------------------------- system messages


def _without_billing(conversation: Conversation) -> Conversation:
    return _over_texts(
        conversation,
        lambda text: text.partition("\n")[2] if text.startswith(BILLING_HEADER) else text,
    )


def _without_counters(conversation: Conversation) -> Conversation:
    return _over_texts(conversation, lambda text: COUNTER.sub("", text))


def _over_texts(conversation: Conversation, change: Callable[[str], str]) -> Conversation:
    """The conversation with the texts of its system messages changed; those that say nothing, or
    nothing any more, are gone.
    """

    def changed(message: Message) -> Message:
        return attrs.evolve(
            message,
            parts=tuple(
                Text(change(part.text)) if isinstance(part, Text) else part
                for part in message.parts
            ),
        )

    messages = [
        changed(message) if message.role is Role.SYSTEM else message
        for message in conversation.messages
    ]
    return attrs.evolve(
        conversation,
        messages=tuple(one for one in messages if one.role is not Role.SYSTEM or one.text.strip()),
    )


# -------------------------------------------------------------------------------------- empty parts


def _without_silence(conversation: Conversation) -> Conversation:
    messages = (
        attrs.evolve(message, parts=tuple(_said(message))) for message in conversation.messages
    )
    return attrs.evolve(
        conversation,
        messages=tuple(
            message for message in messages if message.parts or message.role is Role.USER
        ),
    )


def _said(message: Message) -> Iterator[Part]:
    for part in message.parts:
        blank = isinstance(part, Text) and not (
            part.text.strip() if message.role is Role.ASSISTANT else part.text
        )
        if not blank:
            yield part


# --------------------------------------------------- system messages behind the first user messages


def _late_systems_before_first_user(conversation: Conversation) -> Conversation:
    """Move system messages that stand directly behind the first user messages, one or several in a
    row, in front of these.
    """
    messages = conversation.messages
    first = next(
        (at for at, message in enumerate(messages) if message.role is Role.USER), len(messages)
    )
    if any(message.is_late for message in messages[:first]):
        return conversation
    said = tuple(takewhile(lambda message: message.role is Role.USER, messages[first:]))
    late = tuple(
        takewhile(lambda message: message.role is Role.SYSTEM, messages[first + len(said) :])
    )
    if not late:
        return conversation
    last = attrs.evolve(said[-1], rank=_highest_rank((said[-1], *late)))
    rest = messages[first + len(said) + len(late) :]
    return attrs.evolve(
        conversation, messages=(*messages[:first], *map(_as_late, late), *said[:-1], last, *rest)
    )


def _as_late(message: Message) -> Message:
    """The message with a breakpoint at its end: other sessions of the project have the same prompt
    up to there.
    """
    return attrs.evolve(
        message, is_late=True, rank=Rank.PLAIN if message.rank is None else message.rank
    )


def _highest_rank(messages: Iterable[Message]) -> Rank | None:
    return max((message.rank for message in messages if message.rank is not None), default=None)


# -------------------------------------------------------------------------------------------- rules

RULES = (
    Rewriting(
        "billing block dropped",
        (
            "the first bytes of the prompt differ between conversations, in older versions between "
            "requests: nothing is shared"
        ),
        (
            "Claude Code up to 2.1.180 with every request, later with every conversation "
            "(claude-code#68900, #40652)"
        ),
        _without_billing,
    ),
    Rewriting(
        "counters dropped",
        "a line that counts down sits in front of everything, or vanishes when the next one comes",
        "Claude Code with some models: <total_tokens>N tokens left</total_tokens>",
        _without_counters,
    ),
    Rewriting(
        "what says nothing dropped",
        "the blank text a model puts before a call is not sent back",
        "Claude Code drops text blocks of blanks; others send empty strings beside calls",
        _without_silence,
    ),
    Rewriting(
        "late system messages before the first user message",
        "the first user message grows until it is answered, so the system message behind it moves "
        "and is read again; "
        "and behind words that only one session says, no other session shares it",
        "Claude Code: environment, agents and skills (2,300 tokens) behind the first prompt, to "
        "which it adds after an interrupt or an empty answer; "
        "after /compact behind the summary and the prompt, which are two user messages",
        _late_systems_before_first_user,
    ),
    Rewriting(
        "JSON in order",
        (
            "keys of arguments come back in another order and with defaults added; definitions of "
            "tools in whatever order a map had"
        ),
        (
            "Claude Code (Edit: replace_all), opencode (compact JSON), servers of tools that keep "
            "theirs in hash maps"
        ),
        in_json_order,
    ),
    Rewriting(
        "deferred tools where they are loaded",
        (
            "a tool that is found by searching is put into the middle of the list, in front of "
            "everything"
        ),
        "Claude Code's ToolSearch (vllm#40190)",
        with_tools_where_they_load,
    ),
    Rewriting(
        "neighbouring results in one message",
        "one client sends the results of one turn in one message, another each in its own",
        "the tool messages of Chat Completions",
        neighbouring_results_joined,
    ),
    Rewriting(
        "results in call order",
        (
            "results of parallel calls come in the order they were finished in, and templates "
            "without ids take them by position"
        ),
        "Claude Code: calls 1, 2, 3, results 3, 1, 2",
        results_in_call_order,
    ),
)
