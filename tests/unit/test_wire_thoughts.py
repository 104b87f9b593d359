"""Whether and how much to think, in every protocol's words."""

import json
from typing import Any

import pytest

from semantic_trio.adapters.http.agents import request as agents
from semantic_trio.adapters.http.anthropic.request import MessagesRequest, conversation
from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.openai.chat import request as chat
from semantic_trio.adapters.http.openai.responses import request as responses
from semantic_trio.domain.conversation import Conversation

SAID = [{"role": "user", "content": "hi"}]
UNTOLD, OFF, ON = (None, None, None), (False, None, None), (True, None, None)


def choice(generation_params: Conversation) -> tuple[bool | None, str | None, int | None]:
    return generation_params.thinks, generation_params.effort, generation_params.thought_budget


def of_messages(**fields: Any) -> tuple[bool | None, str | None, int | None]:
    body = {"model": "m", "max_tokens": 9, "messages": SAID, **fields}
    return choice(conversation(decode(json.dumps(body).encode(), MessagesRequest)))


def of_chat(**fields: Any) -> tuple[bool | None, str | None, int | None]:
    return choice(
        chat.generation_params(
            decode(
                json.dumps({"model": "m", "messages": SAID, **fields}).encode(), chat.ChatRequest
            )
        ).conversation
    )


def of_responses(**fields: Any) -> tuple[bool | None, str | None, int | None]:
    return choice(
        responses.generation_params(
            decode(
                json.dumps({"model": "m", "input": "hi", **fields}).encode(),
                responses.ResponseRequest,
            ),
            (),
        ).conversation
    )


def of_agents(**fields: Any) -> tuple[bool | None, str | None, int | None]:
    return choice(
        agents.generation_params(
            decode(json.dumps({"message": "hi", **fields}).encode(), agents.AgentTurn), "m", "ada"
        ).conversation
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, OFF),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": {"type": "adaptive"}}, ON),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, (True, None, 2048)),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            (True, "low", None),
        ),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, OFF),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "a word of next year"}},
            ON,
        ),
    ],
)
def test_messages(fields: dict[str, Any], expected: object) -> None:
    assert of_messages(**fields) == expected


SHARED = [
    ({}, UNTOLD),
    ({"reasoning": {"effort": "none"}}, OFF),
    ({"reasoning": {"effort": "high"}}, (True, "high", None)),
    ({"reasoning": {"effort": None, "summary": "auto"}}, UNTOLD),
    ({"reasoning": {"enabled": False}}, OFF),
    ({"reasoning": {"max_tokens": 500}}, (True, None, 500)),
    ({"reasoning_effort": "minimal"}, (True, "minimal", None)),
    ({"reasoning_effort": "none", "enable_thinking": True}, OFF),
    ({"thinking": {"type": "enabled", "budget_tokens": 64}}, (True, None, 64)),
    ({"thinking": {"type": "disabled"}}, OFF),
    ({"think": True}, ON),
    ({"think": False}, OFF),
    ({"think": "medium"}, (True, "medium", None)),
    ({"enable_thinking": True, "thinking_budget": 100}, (True, None, 100)),
    ({"thinking_budget": 0}, OFF),
    ({"thinking_budget": -1}, ON),
    ({"chat_template_kwargs": {"enable_thinking": False}}, OFF),
    ({"chat_template_kwargs": {"enable_thinking": True}}, ON),
    ({"chat_template_kwargs": {"thinking": True, "documents": []}}, ON),
    ({"chat_template_kwargs": {"reasoning_effort": "low"}}, (True, "low", None)),
    ({"chat_template_kwargs": {"thinking_budget": 512}}, (True, None, 512)),
    (
        {"reasoning_effort": "high", "chat_template_kwargs": {"reasoning_effort": "low"}},
        (True, "high", None),
    ),
    ({"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}, OFF),
    ({"chat_template_kwargs": {}}, UNTOLD),
]


@pytest.mark.parametrize(("fields", "expected"), SHARED)
def test_chat(fields: dict[str, Any], expected: object) -> None:
    assert of_chat(**fields) == expected


@pytest.mark.parametrize(("fields", "expected"), SHARED)
def test_responses(fields: dict[str, Any], expected: object) -> None:
    assert of_responses(**fields) == expected


@pytest.mark.parametrize(("fields", "expected"), SHARED)
def test_agents(fields: dict[str, Any], expected: object) -> None:
    assert of_agents(**fields) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {"enable_thinking": "no"}},
        {"think": "a lot"},
        {"thinking_budget": -5},
    ],
)
def test_what_cannot_be_meant_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(Fault, match=next(iter(fields))):
        of_chat(**fields)
