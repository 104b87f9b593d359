"""The answer to a request that only a tool of the provider could serve, such as web searches of
Claude Code.

Knows tools and choices on the wire. A local model that is asked to search the web invents results;
a refusal would make clients send the request again, with other fields. So the request is answered
with a text that is not the model's.
"""

from collections.abc import Mapping, Sequence

import attrs
import trio

from semantic_trio.adapters.http.anthropic.tools import (
    AnyTool,
    NoChoice,
    ServerTool,
    ToolChoiceParam,
    demanded_name,
)
from semantic_trio.application.answer import WholeAnswer
from semantic_trio.application.answer_parts import AnswerEvent
from semantic_trio.domain.conversation import Text
from semantic_trio.domain.generation import Finished, FinishReason

# Action of a tool, by the beginning of its type; the rest of a type is a date.
SERVER_TOOL_ACTIONS: Mapping[str, str] = {
    "web_search": "search the web",
    "web_fetch": "fetch pages from the web",
    "code_execution": "run code",
}


@attrs.frozen
class FixedAnswer:
    """An answer without a generation: a fixed text that takes no tokens."""

    text: str

    async def receive(self) -> list[AnswerEvent]:
        """See `EventSource.receive`."""
        await trio.lowlevel.checkpoint()
        return [Text(self.text), self._finished]

    @property
    def whole(self) -> WholeAnswer:
        """Return the whole answer."""
        return WholeAnswer((Text(self.text),), self._finished)

    @property
    def _finished(self) -> Finished:
        return Finished(FinishReason.END_OF_TURN, "", None, prompt_tokens=0, completion_tokens=0)


def fixed_answer(tools: Sequence[AnyTool], choice: ToolChoiceParam | None) -> FixedAnswer | None:
    """Return the answer to a request that offers only tools of the provider, or demands one of
    them; None for all other requests.
    """
    actions = " or ".join(_action(tool.type) for tool in _required_server_tools(tools, choice))
    return (
        FixedAnswer(
            f"This server cannot {actions}. Nothing was done, and this text is not the model's."
        )
        if actions
        else None
    )


def _required_server_tools(
    tools: Sequence[AnyTool], choice: ToolChoiceParam | None
) -> list[ServerTool]:
    """Return the tools without which the request cannot be served as it is meant."""
    if choice == "none" or isinstance(choice, NoChoice):
        return []
    of_provider = [tool for tool in tools if isinstance(tool, ServerTool)]
    name = demanded_name(choice)
    return (
        of_provider
        if len(of_provider) == len(tools)
        else [tool for tool in of_provider if name is not None and tool.name == name]
    )


def _action(kind: str) -> str:
    action = next(
        (action for prefix, action in SERVER_TOOL_ACTIONS.items() if kind.startswith(prefix)),
        "offer its model this tool",
    )
    return f"{action} ({kind})"
