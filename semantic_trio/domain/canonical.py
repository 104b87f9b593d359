"""The rules that keep a prompt's front where it was: what clients change without meaning it changes
nothing here.

Two requests of one conversation are to become prompts of which the second begins with the first.
Clients rewrite what they have sent and been sent in ways that mean nothing and move everything.
Each rule undoes one of them. What needs no rule, for the neutral conversation has no word for it:
cache control, a text spelled as one string or as blocks, request metadata. System messages stay
where they stand, except those of one rule. Thoughts of earlier turns are kept; that is the
template's part.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from itertools import takewhile

import attrs

from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
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


def canonical_json(text: str) -> str:
    """JSON with its keys in order and its blanks in place; what is no JSON, or has a number that no
    float holds, stays as it is.
    """
    try:
        return json.dumps(_read_json(text), sort_keys=True, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _read_json(text: str) -> object:
    """The value of a JSON text.

    Raises `ValueError` where Python would write it otherwise than it was meant: 1e999 as Infinity.
    """
    return json.loads(text, parse_float=_finite, parse_constant=_finite)


def _finite(written: str) -> float:
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"no float holds {written}")
    return value


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


# -------------------------------------------------------------------------------------------- tools


def _in_json_order(conversation: Conversation) -> Conversation:
    tools = tuple(
        attrs.evolve(tool, parameters=canonical_json(tool.parameters))
        for tool in conversation.tools
    )
    defaults = {tool.name: _defaults(tool) for tool in tools}

    def ordered(part: Part) -> Part:
        if not isinstance(part, ToolCall):
            return part
        return attrs.evolve(
            part, arguments=_without_defaults(part.arguments, defaults.get(part.name, {}))
        )

    return attrs.evolve(_over_parts(conversation, ordered), tools=tools)


def _defaults(tool: Tool) -> Mapping[str, object]:
    try:
        schema = _read_json(tool.parameters)
    except (ValueError, RecursionError):
        return {}
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return {}
    return {
        name: one["default"]
        for name, one in properties.items()
        if isinstance(one, dict) and "default" in one
    }


def _without_defaults(arguments: str, defaults: Mapping[str, object]) -> str:
    try:
        given = _read_json(arguments)
    except (ValueError, RecursionError):
        return arguments
    if isinstance(given, dict):
        given = {
            name: value
            for name, value in given.items()
            if not (name in defaults and _same(value, defaults[name]))
        }
    return json.dumps(given, sort_keys=True, ensure_ascii=False)


def _same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _with_tools_where_they_load(conversation: Conversation) -> Conversation:
    by_name = {tool.name: tool for tool in conversation.tools}

    def loaded(part: Part) -> Part:
        if not isinstance(part, ToolResult) or not part.loads:
            return part
        told = [_definition(by_name[name]) if name in by_name else name for name in part.loads]
        return attrs.evolve(
            part, text="\n".join([part.text, *told] if part.text else told), loads=()
        )

    head = tuple(tool for tool in conversation.tools if not tool.is_deferred)
    return attrs.evolve(_over_parts(conversation, loaded), tools=head)


def _definition(tool: Tool) -> str:
    """A tool as models are told of it outside the head of a prompt."""
    return (
        f'{{"name": {json.dumps(tool.name)}, "description": '
        f'{json.dumps(tool.description, ensure_ascii=False)}, "parameters": {tool.parameters}}}'
    )


def _results_in_call_order(conversation: Conversation) -> Conversation:
    messages: list[Message] = []
    calls: dict[str, int] = {}
    for message in conversation.messages:
        if message.role is Role.ASSISTANT:
            calls = {call.id: place for place, call in enumerate(message.calls)}
        messages.append(
            _with_results_first(message, calls) if message.role is Role.USER else message
        )
    return attrs.evolve(conversation, messages=tuple(messages))


def _with_results_first(message: Message, calls: Mapping[str, int]) -> Message:
    results = sorted(message.results, key=lambda result: calls.get(result.call_id, len(calls)))
    return attrs.evolve(
        message,
        parts=(*results, *(part for part in message.parts if not isinstance(part, ToolResult))),
    )


def _neighbouring_results_joined(conversation: Conversation) -> Conversation:
    messages: list[Message] = []
    for message in conversation.messages:
        if (
            messages
            and _answers_calls(messages[-1])
            and message.role is Role.USER
            and message.results
        ):
            before = messages.pop()
            messages.append(attrs.evolve(message, parts=(*before.parts, *message.parts)))
        else:
            messages.append(message)
    return attrs.evolve(conversation, messages=tuple(messages))


def _answers_calls(message: Message) -> bool:
    return (
        message.role is Role.USER
        and bool(message.results)
        and len(message.results) == len(message.parts)
    )


def _over_parts(conversation: Conversation, change: Callable[[Part], Part]) -> Conversation:
    return attrs.evolve(conversation, messages=tuple(_changed(conversation.messages, change)))


def _changed(messages: Iterable[Message], change: Callable[[Part], Part]) -> Iterator[Message]:
    for message in messages:
        yield attrs.evolve(message, parts=tuple(change(part) for part in message.parts))


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
        _in_json_order,
    ),
    Rewriting(
        "deferred tools where they are loaded",
        (
            "a tool that is found by searching is put into the middle of the list, in front of "
            "everything"
        ),
        "Claude Code's ToolSearch (vllm#40190)",
        _with_tools_where_they_load,
    ),
    Rewriting(
        "neighbouring results in one message",
        "one client sends the results of one turn in one message, another each in its own",
        "the tool messages of Chat Completions",
        _neighbouring_results_joined,
    ),
    Rewriting(
        "results in call order",
        (
            "results of parallel calls come in the order they were finished in, and templates "
            "without ids take them by position"
        ),
        "Claude Code: calls 1, 2, 3, results 3, 1, 2",
        _results_in_call_order,
    ),
)
