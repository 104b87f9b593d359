"""What the contract's checks are not to ask for: that a demanded tool has to be among those offered is beyond JSON Schema."""

from typing import Any

import hypothesis.strategies as st
import schemathesis

# They know no archives.
schemathesis.openapi.media_type("application/x-tar", st.binary())


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """Let the model choose where it was to call what there is not."""
    match case.body:
        case {"tool_choice": {"type": "tool", "name": str(name)} as choice, **rest} if name not in _offered(rest.get("tools")):
            case.body = {**rest, "tool_choice": {**choice, "type": "auto"}}


def _offered(tools: object) -> list[object]:
    return [tool.get("name") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
