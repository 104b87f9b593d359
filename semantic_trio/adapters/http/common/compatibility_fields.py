"""Fields of other servers: structured output under other names, and behaviours that this server
does not have.

Knows the fields and their meaning. Other unknown fields are ignored elsewhere, because clients send
new ones every week; a field that changes the answer is honoured or refused by name, for a client
that gets another answer than it asked for would take it for the right one.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated

import attrs
import msgspec

from semantic_trio.domain.errors import InvalidRequestError

ANY_OBJECT = '{"type":"object"}'
NO_OTHER_FORM = (
    "not supported: an answer can be held to JSON of a schema alone, demanded by response_format"
)

# Values that ask for nothing: clients send fields that they do not use with these.
INERT_VALUES: tuple[object, ...] = (None, False, 0, "", [])
# Documented as one of the inert values. Any value is decoded, so that the error can say what to
# send instead.
Refused = Annotated[object, msgspec.Meta(extra_json_schema={"enum": list(INERT_VALUES)})]
# Documented as an object; some clients send it as text.
SchemaParam = Annotated[object, msgspec.Meta(extra_json_schema={"type": ["object", "null"]})]
FormatParam = Annotated[
    object,
    msgspec.Meta(extra_json_schema={"anyOf": [{"enum": [None, "", "json"]}, {"type": "object"}]}),
]


@attrs.frozen
class StructuredOutputs:
    """Structured output, as vLLM has it."""

    json: SchemaParam = None
    json_object: bool | None = None
    choice: Refused = None
    regex: Refused = None
    grammar: Refused = None
    structural_tag: Refused = None


@attrs.frozen(kw_only=True, slots=False)  # to be one base of several
class StructuredOutputFields:
    """Fields of other servers for structured output."""

    guided_json: SchemaParam = None  # vLLM, before `structured_outputs`
    structured_outputs: StructuredOutputs | None = None  # vLLM
    json_schema: SchemaParam = None  # llama.cpp, SGLang
    format: FormatParam = None  # Ollama
    guided_choice: Refused = None
    guided_regex: Refused = None
    guided_grammar: Refused = None
    structural_tag: Refused = None
    grammar: Refused = None
    regex: Refused = None
    ebnf: Refused = None


@attrs.frozen(kw_only=True, slots=False)  # to be one base of several
class UnsupportedFields:
    """Fields of other servers for behaviours that are refused."""

    min_tokens: Refused = None
    ignore_eos: Refused = None
    stop_token_ids: Refused = None
    bad_words: Refused = None
    include_stop_str_in_output: Refused = None
    use_beam_search: Refused = None
    prompt_logprobs: Refused = None
    logits_processors: Refused = None


STRUCTURED_OUTPUT_NAMES = (
    "guided_choice",
    "guided_regex",
    "guided_grammar",
    "structural_tag",
    "grammar",
    "regex",
    "ebnf",
)
# For each refused field of a request: what the error says.
REMEDIES: Mapping[str, str] = {
    **dict.fromkeys(STRUCTURED_OUTPUT_NAMES, NO_OTHER_FORM),
    "min_tokens": "not supported: an answer ends where the model ends it",
    "ignore_eos": "not supported: an answer ends where the model ends it",
    "stop_token_ids": "not supported: use stop, with the text of the tokens",
    "bad_words": "not supported: use logit_bias",
    "include_stop_str_in_output": "not supported: stop strings are no part of an answer",
    "use_beam_search": "not supported: tokens are sampled",
    "prompt_logprobs": "not supported: log-probabilities are those of the answer alone",
    "logits_processors": "not supported: use logit_bias",
    "functions": "not supported any more: use tools",
    "function_call": "not supported any more: use tool_choice",
    "web_search_options": "not supported: this server cannot search the web",
    "audio": "not supported: an answer is text",
    "rank_fields": "not supported: send what is to be ranked as the text of the document",
}


def refuse_unsupported(request: object) -> None:
    """Raise `InvalidRequestError` for the first field of a request that asks for what this server
    cannot do.
    """
    for field, remedy in REMEDIES.items():
        if getattr(request, field, None) not in INERT_VALUES:
            raise InvalidRequestError(remedy, field, quotes=False)


def requested_schema(request: StructuredOutputFields, own: Mapping[str, str | None]) -> str | None:
    """Return the JSON Schema that an answer has to match, or None; `own` are the schemas of the
    protocol's own fields.

    Raises `InvalidRequestError` for other kinds of structured output, and for more than one schema.
    """
    refuse_unsupported(request)
    found = [
        (field, schema)
        for field, schema in (*own.items(), *_schemas(request))
        if schema is not None
    ]
    if len(found) > 1:
        raise InvalidRequestError(
            f"{found[0][0]} demands a form of the answer too: send one of both",
            found[1][0],
            quotes=False,
        )
    return found[0][1] if found else None


def _schemas(request: StructuredOutputFields) -> Iterator[tuple[str, str | None]]:
    yield "guided_json", _schema(request.guided_json, "guided_json")
    yield "json_schema", _schema(_without_name(request.json_schema), "json_schema")
    yield (
        "format",
        ANY_OBJECT if request.format == "json" else _schema(request.format or None, "format"),
    )
    outputs = request.structured_outputs
    if outputs is not None:
        for name in ("choice", "regex", "grammar", "structural_tag"):
            if getattr(outputs, name) not in INERT_VALUES:
                raise InvalidRequestError(NO_OTHER_FORM, f"structured_outputs.{name}", quotes=False)
        yield (
            "structured_outputs",
            _schema(outputs.json, "structured_outputs.json")
            or (ANY_OBJECT if outputs.json_object else None),
        )


def _schema(given: object, field: str) -> str | None:
    """Return a schema as text. Raises `InvalidRequestError` for what is no object."""
    try:
        found = json.loads(given) if isinstance(given, str) else given
    except ValueError as error:
        raise InvalidRequestError("not a JSON Schema", field, quotes=False) from error
    if found is None:
        return None
    if not isinstance(found, dict):
        raise InvalidRequestError("a JSON Schema is an object", field, quotes=False)
    return given if isinstance(given, str) else msgspec.json.encode(found).decode()


def _without_name(given: object) -> object:
    """Return the schema in the named object in which OpenAI's APIs send it."""
    return (
        given["schema"]
        if isinstance(given, dict) and "name" in given and isinstance(given.get("schema"), dict)
        else given
    )
