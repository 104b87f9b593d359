"""What an answer has to look like, where its caller demands that: a call of certain tools, JSON of a certain form.

Knows how a model marks thoughts and calls, and puts that into words of llguidance's Lark. Knows nothing of templates.
"""

import json
import re
from collections.abc import Iterator, Sequence

import attrs
import structlog

from semantic_trio.adapters.text.calls import CallManner, CallShape
from semantic_trio.adapters.text.guidance import CompiledGrammar, Guidance
from semantic_trio.adapters.text.schema import ANY_OBJECT, expressible
from semantic_trio.adapters.text.thinking import ThinkMarks
from semantic_trio.domain.conversation import Calling, Conversation, Tool
from semantic_trio.domain.errors import InvalidRequestError

log = structlog.get_logger(__name__)

ANY_TEXT = "TEXT: /(.|\\n)*/"
# Between a thought and what is said then.
GAP = "GAP: /\\s{0,4}/"


@attrs.define(eq=False)
class AnswerForm:
    """One demanded form on its way into Lark."""

    _guidance: Guidance
    _marks: ThinkMarks | None  # None: the model does not think
    _calls: CallManner
    _conversation: Conversation
    _opening: str  # the beginning of the answer, which is in the prompt
    _rules: dict[str, str] = attrs.field(init=False, factory=dict)
    _terminals: list[str] = attrs.field(init=False, factory=list)

    def compile(self) -> CompiledGrammar:
        """The grammar of all that may come. Raises `InvalidRequestError` for a schema that nothing satisfies, `GrammarError`."""
        return self._guidance.compile(self.lark())

    def lark(self) -> str:
        """The same as text."""
        start = f"{self._thought()} {self._body()}"
        rules = "".join(f"{name}: {body}\n" for name, body in self._rules.items())
        terminals = "".join(f"{one}\n" for one in sorted({ANY_TEXT, GAP, *self._terminals}))
        return f"%llguidance {{}}\nstart: {start}\n{rules}{terminals}"

    # ------------------------------------------------------------------------------------------------------------------- thoughts

    def _thought(self) -> str:
        """The thought that was begun, or one that may come first."""
        if self._marks is None or self._opening.startswith(self._calls.head):
            return ""
        rest = f"{self._up_to(self._marks.end, 'thought')} GAP"
        if self._opening:
            return rest
        return "" if self._conversation.thinks is False else f"({self._literal(self._marks.start)} {rest})?"

    # ---------------------------------------------------------------------------------------------------------------------- bodies

    def _body(self) -> str:
        conversation = self._conversation
        may_call = conversation.tools and conversation.choice.calling is not Calling.NONE
        if may_call and conversation.choice.calling is Calling.REQUIRED:
            return self._demanded()
        if conversation.schema is not None:
            schema = self._json(conversation.schema, "response_format")
            return f"({schema} | {self._literal(self._calls.syntax.start)} {self._rest()})" if may_call else schema
        return f"({self._up_to(self._calls.syntax.start, 'spoken')} {self._rest()})* TEXT"

    def _demanded(self) -> str:
        """A call, whose beginning is in the prompt; where several may be made, those."""
        choice, shape = self._conversation.choice, self._calls.shape
        assert shape is not None, "calls are demanded in a form that is known"
        if choice.name is None:
            return self._named(shape)
        tool = next((tool for tool in self._tools if tool.name == choice.name), Tool(choice.name))
        return f"{self._arguments(tool)} {self._literal(shape.close)}"

    def _rest(self) -> str:
        """Calls after the first start mark; anything, where they are not written as JSON."""
        calls = self._calls
        if calls.shape is None:
            log.warning("calls cannot be held to their tools: this model does not write them as JSON")
            return "TEXT"
        return f"{self._literal(calls.head.removeprefix(calls.syntax.start))} {self._named(calls.shape)}"

    def _named(self, shape: CallShape) -> str:
        """Calls from the first name on, of any tools that may be called."""
        if "calls" not in self._rules:
            middle = self._calls.middle
            calls = [f"{_text(self._calls.spelled(name))} {self._literal(middle)} {arguments}" for name, arguments in self._callable()]
            again = "" if self._conversation.choice.is_single else f"({self._literal(shape.again)} call)*"
            self._rules |= {"call": " | ".join(calls), "calls": f"call {again} {self._literal(shape.close)}"}
        return "calls"

    def _callable(self) -> Sequence[tuple[str, str]]:
        """Names of the tools that can be called, each with the rule of its arguments. Tools whose schema cannot be used are left out.

        Raises `InvalidRequestError`, which names the first of these, where no tool is left.
        """
        rules: list[tuple[str, str]] = []
        errors: list[InvalidRequestError] = []
        for tool in self._tools:
            try:
                rules.append((tool.name, self._arguments(tool)))
            except InvalidRequestError as error:
                log.warning("tool left out: the answer may not call it", reason=error.reason)
                errors.append(error)
        if not rules:
            raise errors[0] if errors else InvalidRequestError("none of the allowed tools can be called", "tool_choice", quotes=False)
        return rules

    @property
    def _tools(self) -> Sequence[Tool]:
        allowed = self._conversation.choice.allowed
        tools = self._conversation.tools
        return [tool for tool in tools if tool.name in allowed] if allowed is not None else tools

    def _arguments(self, tool: Tool) -> str:
        """The rule of a tool's arguments: its schema where that is demanded, else any object. Raises `InvalidRequestError` that names the tool."""
        is_held = tool.is_strict or self._conversation.choice.calling is Calling.REQUIRED
        try:
            return self._json(_of_object(tool.parameters) if is_held else ANY_OBJECT, "tools")
        except InvalidRequestError as error:
            raise attrs.evolve(error, reason=f"{tool.name!r} cannot be called: {error.reason}") from error

    # ----------------------------------------------------------------------------------------------------------------------- words

    def _json(self, schema: str, field: str) -> str:
        """JSON of a form."""
        text, missing = expressible(schema, lambda told: self._guidance.complaint(f"%llguidance {{}}\nstart: %json {told}\n"), field)
        if missing:
            log.warning("schema is not expressed in full", missing=missing, field=field)
        name = f"json_{len(self._rules)}"
        self._rules[name] = f"%json {text}"
        return name

    def _literal(self, text: str) -> str:
        """Exactly this text, as it is written with special tokens."""
        return " ".join(self._pieces(text))

    def _pieces(self, text: str) -> Iterator[str]:
        specials = self._guidance.specials
        found = [special for special in specials if special and special in text]
        marks = "|".join(re.escape(special) for special in sorted(found, key=len, reverse=True))
        for piece in re.split(f"({marks})", text) if marks else [text]:
            if piece:
                yield f"<[{specials[piece]}]>" if piece in specials else _text(piece)

    def _up_to(self, mark: str, name: str) -> str:
        """Any text, and then a mark."""
        if mark in self._guidance.specials:
            return f"TEXT {self._literal(mark)}"
        self._rules[f"{name}[lazy]"] = f"TEXT {json.dumps(mark)}"
        return name


def _text(text: str) -> str:
    """Exactly this text, whatever it looks like."""
    return json.dumps(text, ensure_ascii=False)


def _of_object(parameters: str) -> str:
    """The schema of a tool's arguments, which are an object whatever it says. Raises `InvalidRequestError` for one that is nested too deeply."""
    try:
        schema = json.loads(parameters or "{}")
    except ValueError:
        return ANY_OBJECT
    except RecursionError as error:
        raise InvalidRequestError("the schema is too large: it is nested too deeply", "tools") from error
    return json.dumps({**schema, "type": "object"} if isinstance(schema, dict) else {"type": "object"})
