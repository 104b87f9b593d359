"""Grammar of an answer that has to have a form: a call of certain tools, JSON of a certain schema.

Knows the delimiters of a model's thoughts and calls, and expresses them in llguidance's Lark. Knows
nothing of templates.
"""

import json
from collections.abc import Sequence

import attrs
import structlog

from semantic_trio.adapters.text.argument_rules import ArgumentRules
from semantic_trio.adapters.text.calls import CallFormat
from semantic_trio.adapters.text.guidance import CompiledGrammar, Guidance
from semantic_trio.adapters.text.lark import Lark, exactly
from semantic_trio.adapters.text.schema import ANY_OBJECT
from semantic_trio.adapters.text.shape import CallShape, MessageShape
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.domain.conversation import Calling, Conversation, Tool
from semantic_trio.domain.errors import InvalidRequestError

log = structlog.get_logger(__name__)


@attrs.define(eq=False)
class AnswerForm:
    """One demanded form on its way into Lark."""

    _guidance: Guidance
    _delimiters: ThoughtDelimiters | None  # None: the model does not think
    _calls: CallFormat
    _conversation: Conversation
    _opening: str  # the beginning of the answer, which is in the prompt
    _lark: Lark = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._lark = Lark(self._guidance)

    def compile(self) -> CompiledGrammar:
        """The grammar of all that may come.

        Raises `InvalidRequestError` for a schema that nothing satisfies, `GrammarError`.
        """
        return self._guidance.compile(self._lark.grammar(f"{self._thought()} {self._body()}"))

    # ------------------------------------------------------------------------------------- thoughts

    def _thought(self) -> str:
        """The thought that was begun, or one that may come first."""
        if self._delimiters is None or self._opening.startswith(self._calls.head):
            return ""
        rest = f"{self._lark.up_to(self._delimiters.end)} GAP"
        if self._opening:
            return rest
        return (
            ""
            if self._conversation.thinks is False
            else f"({self._lark.literal(self._delimiters.start)} {rest})?"
        )

    # --------------------------------------------------------------------------------------- bodies

    def _body(self) -> str:
        conversation = self._conversation
        may_call = conversation.tools and conversation.choice.calling is not Calling.NONE
        if may_call and conversation.choice.calling is Calling.REQUIRED:
            return self._demanded()
        if self._calls.messages is not None and may_call:
            return self._messages(self._calls.messages)
        if conversation.schema is not None:
            schema = self._lark.json(conversation.schema, "response_format")
            return (
                f"({schema} | {self._lark.literal(self._calls.syntax.start)} {self._rest()})"
                if may_call
                else schema
            )
        called = f"{self._lark.up_to(self._calls.syntax.start)} {self._rest()}"
        shape = self._calls.shape
        if shape is None or shape.arguments is None:
            return f"({called})* TEXT"
        # The end of an argument behind the calls would say that they ended too early.
        return (
            f"(TEXT | {called} "
            f"{self._lark.without((*shape.arguments.barred, self._calls.syntax.start))})"
        )

    def _demanded(self) -> str:
        """A call, whose beginning is in the prompt; where several may be made, those."""
        choice, shape = self._conversation.choice, self._calls.shape
        assert shape is not None, "calls are demanded in a form that is known"
        if choice.name is None:
            return self._named(shape)
        tool = next((tool for tool in self._tools if tool.name == choice.name), Tool(choice.name))
        return f"{self._arguments(tool, shape)} {self._lark.literal(shape.close, has_numbers=True)}"

    def _messages(self, shape: MessageShape) -> str:
        """Asides, and then what is said or one call."""
        asides = " | ".join(
            f"{self._lark.literal(start)} TEXT {self._lark.literal(shape.aside_end)}"
            for start in shape.asides
        )
        said = (
            "TEXT"
            if self._conversation.schema is None
            else self._lark.json(self._conversation.schema, "response_format")
        )
        assert self._calls.shape is not None, "such calls have JSON"
        tools = self._callable(self._calls.shape)
        heads = [
            (self._lark.literal(before), self._lark.literal(after)) for before, after in shape.calls
        ]
        calls = [
            f"{before} {exactly(self._calls.spelled(name))} {after} {arguments}"
            for name, arguments in tools
            for before, after in heads
        ]
        return f"({asides})* ({' | '.join([f'{self._lark.literal(shape.answer)} {said}', *calls])})"

    def _rest(self) -> str:
        """Calls after the first start delimiter; anything, where their format cannot be told in a
        grammar.
        """
        calls = self._calls
        if calls.shape is None or not all(calls.can_say(tool) for tool in self._tools):
            log.warning(
                "calls cannot be held to their tools: a grammar cannot tell the format of this "
                "model's calls"
            )
            return "TEXT"
        return (
            f"{self._lark.literal(calls.head.removeprefix(calls.syntax.start))} "
            f"{self._named(calls.shape)}"
        )

    def _named(self, shape: CallShape) -> str:
        """Calls from the first name on, of any tools that may be called."""
        middle = self._lark.literal(self._calls.middle, has_numbers=True)
        calls = [
            f"{exactly(self._calls.spelled(name))} {middle} {arguments}"
            for name, arguments in self._callable(shape)
        ]
        call = self._lark.rule(" | ".join(calls))
        again, close = (
            self._lark.literal(text, has_numbers=True) for text in (shape.again, shape.close)
        )
        more = "" if self._conversation.choice.is_single else f"({again} {call})*"
        return self._lark.rule(f"{call} {more} {close}")

    def _callable(self, shape: CallShape) -> Sequence[tuple[str, str]]:
        """Names of the tools that can be called, each with the rule of its arguments.

        Tools whose schema cannot be used are left out.

        Raises `InvalidRequestError`, which names the first of these, where no tool is left.
        """
        rules: list[tuple[str, str]] = []
        errors: list[InvalidRequestError] = []
        for tool in self._tools:
            try:
                rules.append((tool.name, self._arguments(tool, shape)))
            except InvalidRequestError as error:
                log.warning("tool left out: the answer may not call it", reason=error.reason)
                errors.append(error)
        if not rules:
            raise (
                errors[0]
                if errors
                else InvalidRequestError(
                    "none of the allowed tools can be called", "tool_choice", quotes=False
                )
            )
        return rules

    @property
    def _tools(self) -> Sequence[Tool]:
        allowed = self._conversation.choice.allowed
        tools = self._conversation.tools
        return [tool for tool in tools if tool.name in allowed] if allowed is not None else tools

    def _arguments(self, tool: Tool, shape: CallShape) -> str:
        """The rule of a tool's arguments: its schema where that is demanded, else any arguments.

        Raises `InvalidRequestError` that names the tool.
        """
        is_held = tool.is_strict or self._conversation.choice.calling is Calling.REQUIRED
        try:
            schema = _of_object(tool.parameters) if is_held else ANY_OBJECT
            if shape.arguments is None:
                return self._lark.json(schema, "tools")
            rules = ArgumentRules(self._lark, shape.arguments)
            return (
                f"{self._lark.literal(shape.arguments.lead.removeprefix(self._calls.middle))} "
                f"{rules.held(tool) if is_held else rules.free()}"
            )
        except InvalidRequestError as error:
            raise attrs.evolve(
                error, reason=f"{tool.name!r} cannot be called: {error.reason}"
            ) from error


def _of_object(parameters: str) -> str:
    """The schema of a tool's arguments, which are an object whatever it says.

    Raises `InvalidRequestError` for one that is nested too deeply.
    """
    try:
        schema = json.loads(parameters or "{}")
    except ValueError:
        return ANY_OBJECT
    except RecursionError as error:
        raise InvalidRequestError(
            "the schema is too large: it is nested too deeply", "tools"
        ) from error
    return json.dumps(
        {**schema, "type": "object"} if isinstance(schema, dict) else {"type": "object"}
    )
