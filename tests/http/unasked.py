"""What the contract's checks are not to ask for: which fields go together is beyond JSON Schema, and how long a model's vectors are."""

from typing import Any

import hypothesis.strategies as st
import schemathesis

# They know no archives.
schemathesis.openapi.media_type("application/x-tar", st.binary())


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """Let the model choose where it was to call what there is not; store what is made in the background, and do not stream it."""
    match case.body:
        case {"tool_choice": {"type": "tool" | "function"}, **rest}:
            case.body = rest
        case {"tool_choice": dict() | "required" | "any", **rest} if case.path in {"/v1/responses", "/v1/chat/completions"}:
            case.body = rest
    match case.body, case.path:
        case {"dimensions": _, **rest}, "/v1/embeddings":
            case.body = rest
        case {**rest}, "/v1/completions":
            case.body = {name: value for name, value in rest.items() if name not in {"suffix", "best_of", "echo"}}
    match case.body:
        case {"background": True, **rest}:
            case.body = {**rest, "background": True, "store": True, "stream": False}
