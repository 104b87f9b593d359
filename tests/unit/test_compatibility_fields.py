"""Forms and behaviours that clients demand in words of other servers: honoured, or refused by name,
and never dropped.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from semantic_trio.adapters.http.agents import request as agents
from semantic_trio.adapters.http.anthropic import request as anthropic
from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.openai.chat import request as openai
from semantic_trio.adapters.http.openai.completions import request as completions
from semantic_trio.adapters.http.openai.responses import request as responses
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.generation import API_SAMPLING

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def field_of(error: BaseException) -> str | None:
    """The field that an error names."""
    assert isinstance(error, Fault | InvalidRequestError)
    return error.field


def by_messages(**fields: Any) -> GenerationParams:
    """The meaning of a Messages request."""
    return anthropic.generation_params(
        decode(json.dumps({**HELLO, "max_tokens": 5, **fields}).encode(), anthropic.MessagesRequest)
    )


def by_chat(**fields: Any) -> GenerationParams:
    """The meaning of a Chat Completions request."""
    return openai.generation_params(
        decode(json.dumps({**HELLO, **fields}).encode(), openai.ChatRequest)
    )


def by_responses(**fields: Any) -> GenerationParams:
    """The meaning of a Responses request."""
    return responses.generation_params(
        decode(json.dumps({"model": "m", **fields}).encode(), responses.ResponseRequest), ()
    )


def by_completions(**fields: Any) -> GenerationParams:
    """The meaning of a Completions request."""
    return completions.generation_params(
        decode(
            json.dumps({"model": "m", "prompt": "hi", **fields}).encode(),
            completions.CompletionRequest,
        )
    )


def by_agents(**fields: Any) -> GenerationParams:
    """The meaning of a turn with an agent."""
    return agents.generation_params(
        decode(json.dumps({"message": "hi", **fields}).encode(), agents.AgentTurn), "m", "ada"
    )


Meaning = Callable[..., GenerationParams]
every_api = pytest.mark.parametrize("meaning", [by_messages, by_chat, by_responses, by_agents])
every_route = pytest.mark.parametrize(
    "meaning", [by_messages, by_chat, by_responses, by_agents, by_completions]
)

STRUCTURED_OUTPUT_NAMES: list[tuple[str, Any]] = [
    ("response_format", {"type": "json_object", "schema": SCHEMA}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}),
    ("response_format", {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}),
    ("guided_json", SCHEMA),
    ("guided_json", json.dumps(SCHEMA)),
    ("structured_outputs", {"json": SCHEMA}),
    ("structured_outputs", {"json": json.dumps(SCHEMA)}),
    ("json_schema", SCHEMA),
    ("json_schema", {"name": "n", "schema": SCHEMA}),
    ("format", SCHEMA),
]


@every_api
@pytest.mark.parametrize(("field", "form"), STRUCTURED_OUTPUT_NAMES)
def test_a_schema_is_honoured_in_the_words_of_every_server(
    meaning: Meaning, field: str, form: Any
) -> None:
    assert json.loads(meaning(**{field: form}).conversation.schema or "null") == SCHEMA


def test_a_schema_is_honoured_in_the_older_words_of_messages() -> None:
    assert (
        json.loads(
            by_messages(output_format={"type": "json_schema", "schema": SCHEMA}).conversation.schema
            or "null"
        )
        == SCHEMA
    )


def test_a_schema_beside_json_object_is_honoured_by_responses() -> None:
    assert (
        json.loads(
            by_responses(
                text={"format": {"type": "json_object", "schema": SCHEMA}}
            ).conversation.schema
            or "null"
        )
        == SCHEMA
    )


@every_api
@pytest.mark.parametrize(
    ("field", "form"),
    [
        ("format", "json"),
        ("structured_outputs", {"json_object": True}),
        ("response_format", {"type": "json_object"}),
    ],
)
def test_any_json_object_is_honoured(meaning: Meaning, field: str, form: Any) -> None:
    assert json.loads(meaning(**{field: form}).conversation.schema or "null") == {"type": "object"}


@every_api
@pytest.mark.parametrize(
    ("field", "form"),
    [
        ("format", ""),
        ("format", None),
        ("guided_json", None),
        ("structured_outputs", {}),
        ("guided_choice", []),
    ],
)
def test_no_form_is_none(meaning: Meaning, field: str, form: Any) -> None:
    assert meaning(**{field: form}).conversation.schema is None


@every_api
def test_two_forms_are_refused(meaning: Meaning) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        meaning(response_format={"type": "json_object"}, guided_json=SCHEMA)

    assert caught.value.field == "guided_json"


REFUSED_FORMS: list[tuple[dict[str, Any], str]] = [
    ({"guided_choice": ["a", "b"]}, "guided_choice"),
    ({"guided_regex": "a+"}, "guided_regex"),
    ({"guided_grammar": "root ::= x"}, "guided_grammar"),
    ({"grammar": "root ::= x"}, "grammar"),
    ({"regex": "a+"}, "regex"),
    ({"ebnf": "root ::= x"}, "ebnf"),
    ({"structural_tag": "{}"}, "structural_tag"),
    ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex"),
    ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
    ({"guided_json": "no JSON"}, "guided_json"),
    ({"guided_json": "3"}, "guided_json"),
    ({"json_schema": 3}, "json_schema"),
    ({"format": "yaml"}, "format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "grammar", "grammar": "x"}}, "response_format.type"),
]


@every_api
@pytest.mark.parametrize(("fields", "field"), REFUSED_FORMS)
def test_a_form_that_answers_cannot_be_held_to_is_refused_by_name(
    meaning: Meaning, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises((InvalidRequestError, Fault)) as caught:
        meaning(**fields)

    assert field_of(caught.value) == field


@pytest.mark.parametrize(
    ("field", "form"),
    [*STRUCTURED_OUTPUT_NAMES, ("format", "json"), ("guided_choice", ["a"]), ("grammar", "x")],
)
def test_completions_refuses_forms_by_name(field: str, form: Any) -> None:
    with pytest.raises((InvalidRequestError, Fault)) as caught:
        by_completions(**{field: form})

    assert (field_of(caught.value) or "").startswith(field)


BEHAVIOURS: list[tuple[str, Any, Any]] = [
    ("min_tokens", 5, 0),
    ("ignore_eos", True, False),
    ("stop_token_ids", [3], []),
    ("bad_words", ["x"], []),
    ("include_stop_str_in_output", True, False),
    ("use_beam_search", True, False),
    ("prompt_logprobs", 1, None),
    ("logits_processors", ["x"], None),
]


@every_route
@pytest.mark.parametrize(("field", "demanded", "harmless"), BEHAVIOURS)
def test_a_behaviour_that_cannot_be_had_is_refused_by_name(
    meaning: Meaning, field: str, demanded: Any, harmless: Any
) -> None:
    assert meaning(**{field: harmless}) == meaning()
    with pytest.raises(InvalidRequestError) as caught:
        meaning(**{field: demanded})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "demanded"),
    [("functions", [{"name": "f"}]), ("function_call", {"name": "f"}), ("audio", {"voice": "x"})],
)
def test_chat_refuses_what_it_has_not(field: str, demanded: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        by_chat(**{field: demanded})
    assert caught.value.field == field


@every_route
def test_fields_that_demand_nothing_of_the_answer_are_ignored(meaning: Meaning) -> None:
    assert meaning(metadata=None, guided_decoding_backend="x", something_new={"a": 1}) == meaning()


LIMITS: list[tuple[Meaning, str]] = [
    (by_messages, "max_tokens"),
    (by_chat, "max_tokens"),
    (by_chat, "max_completion_tokens"),
    (by_responses, "max_output_tokens"),
    (by_agents, "max_tokens"),
]


@pytest.mark.parametrize(("meaning", "field"), LIMITS)
def test_a_limit_of_minus_one_is_none(meaning: Meaning, field: str) -> None:
    assert meaning(**{field: -1}).max_tokens is None
    assert meaning(**{field: 7}).max_tokens == 7
    for wrong in (0, -2):
        with pytest.raises((InvalidRequestError, Fault)) as caught:
            meaning(**{field: wrong})
        assert field_of(caught.value) == field


def test_completions_has_no_limit_at_minus_one_and_reads_alone_at_zero() -> None:
    assert [by_completions(max_tokens=limit).max_tokens for limit in (-1, 0, 7)] == [None, 0, 7]


@every_route
def test_every_token_may_be_sampled_at_a_top_k_of_minus_one(meaning: Meaning) -> None:
    assert meaning(top_k=-1).sampling.params(API_SAMPLING).top_k == 0
