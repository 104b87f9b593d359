"""What the checks of the contract are not to ask for: fields that do not go together, too many
answers, lengths of vectors, tokens nobody writes.
"""

import itertools
from typing import Any
from urllib.parse import unquote

import httpx
import hypothesis.strategies as st
import schemathesis

# Answers to all prompts of a request together.
MOST_CHOICES = 32
# Among tools none of which could be offered to a model there is one that can.
A_FUNCTION = {"type": "function", "function": {"name": "look"}}

# Turns of agents after which one begins anew: the checks ask one agent for 1,500, and each would
# read the conversation of all before it.
TURNS = 50

# Where a choice of tools is one of the tools that are offered.
CHOOSING = frozenset({"/v1/responses", "/v1/chat/completions", "/v1/agents/{agent_id}/generate"})

# They know no archives.
schemathesis.openapi.media_type("application/x-tar", st.binary())


# Several of these demand several forms; the last two belong together, and to a last message of the
# assistant.
TOGETHER = frozenset(
    {
        "guided_json",
        "structured_outputs",
        "json_schema",
        "format",
        "output_format",
        "continue_final_message",
        "add_generation_prompt",
    }
)


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """Let the model choose where it was to call what there is not; store what is made in the
    background, and do not stream it.
    """
    match case.body:
        case {"tool_choice": {"type": "tool" | "function"}, **rest}:
            case.body = rest
        case {"tool_choice": dict() | "required" | "any", **rest} if case.path in CHOOSING:
            case.body = rest
    if (alone := _alone(_with_function(case.body, case.path))) != case.body:
        case.body = alone
    match case.body, case.path:
        case {"input": list(given), **rest}, "/v1/embeddings":
            case.body = {name: value for name, value in rest.items() if name != "dimensions"} | {
                "input": _spelt(given)
            }
        case {"dimensions": _, **rest}, "/v1/embeddings":
            case.body = rest
        case {**rest}, "/v1/completions":
            case.body = {
                name: value
                for name, value in rest.items()
                if name not in {"suffix", "best_of", "echo"}
            }
    match case.body, case.path:
        case {"prompt": list(), "n": int() | float() as n, **rest}, "/v1/completions" if (
            1 < n <= MOST_CHOICES
        ):
            case.body = {**rest, "prompt": case.body["prompt"], "n": 1}
    match case.body:
        case {"background": True, **rest}:
            case.body = {**rest, "background": True, "store": True, "stream": False}


_turns = itertools.count(1)


@schemathesis.hook
def after_call(context: schemathesis.HookContext, case: Any, response: Any) -> None:
    """Replace an agent that has had many turns by an empty one of the same id."""
    if (
        case.path == "/v1/agents/{agent_id}/generate"
        and response.status_code == 200
        and next(_turns) % TURNS == 0
    ):
        agent = response.request.url.removesuffix("/generate")
        agents, _, name = agent.rpartition("/")
        httpx.delete(agent).raise_for_status()
        httpx.post(agents, json={"id": unquote(name)}).raise_for_status()


def _with_function(body: Any, path: str) -> Any:
    """A body with a tool that can be offered among its tools.

    Messages answers requests without one.
    """
    match body:
        case {"tools": [*tools], **rest} if tools and path != "/v1/messages":
            return {**rest, "tools": [*tools, A_FUNCTION]}
    return body


def _alone(body: Any) -> Any:
    """A body that demands one form at most, and no form that is announced and missing."""
    match body:
        case {"response_format": {"type": "json_schema"}, **rest} | {
            "response_format": _,
            "output_config": _,
            **rest,
        }:
            return _alone(rest)
        case {"response_format": _, "text": _, **rest} | {
            "messages": [*_, {"role": "assistant"}],
            "output_config": _,
            **rest,
        }:
            return _alone(
                {**rest, **({"messages": body["messages"]} if "messages" in body else {})}
            )
        case {**rest}:
            return {name: value for name, value in rest.items() if name not in TOGETHER}
    return body


def _spelt(given: list[Any]) -> list[Any]:
    """The same with tokens as the fake codec writes them, a byte of ASCII each; what is no token
    stays as it is.
    """
    return [
        _spelt(item) if isinstance(item, list) else int(item) % 128 if _is_token(item) else item
        for item in given
    ]


def _is_token(item: object) -> bool:
    """As JSON Schema has it: 7.0 is an integer."""
    return type(item) in {int, float} and 0 <= item < 2**31 and item % 1 == 0  # type: ignore[operator]
