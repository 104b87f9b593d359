"""The search for the formats in which a template writes tools, calls and results, by rendering
probes.

A format counts if all of them appear in order, keep their place while the conversation grows, and
can be read back.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence

import attrs

from semantic_trio.adapters.text.argument_shape import argument_shape, common_front
from semantic_trio.adapters.text.calls import TOOL, CallFormat, without_empty_thoughts
from semantic_trio.adapters.text.generic import definition
from semantic_trio.adapters.text.layout import SlotKind, Slots, SlotSpan
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.shape import CallShape, between, json_shape
from semantic_trio.adapters.text.syntax import ToolSyntax
from semantic_trio.adapters.text.tally import CallTally
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.adapters.text.turns import REFUSALS, RESULT_ROLE, Render, Turn, turn
from semantic_trio.domain.conversation import Role, ToolCall

# Some templates want nine letters or digits, some write the number as the call's name. Clients' ids
# are never shown: they differ each time.
NUMBERINGS = ("{number:09}", "functions.{name}:{number}")


# Characters that arguments may begin with.
CALL_BEGUN = re.compile(r"(?:<\|?|[\[{\"])+\Z")


@attrs.frozen
class Script:
    """Turns of a probe with calls, in one of the shapes that templates take."""

    takes_text: bool
    numbering: str
    slots: Slots = attrs.field(factory=Slots)

    def say(self, role: str, word: str) -> Turn:
        """Return a turn whose text is a placeholder."""
        return turn(role, self.slots.hold(word))

    def calling(self, content: str, *numbers: int, arguments: str = '{"key": "value"}') -> Turn:
        """Return an assistant's turn with calls; the last argument of each is a placeholder."""
        return {
            **turn(Role.ASSISTANT, content),
            "tool_calls": [self._call(number, arguments) for number in numbers],
        }

    def result(self, number: int) -> Turn:
        """Return the turn with the result of a call."""
        name = TOOL.name
        return {
            **self.say(RESULT_ROLE, f"result{number}"),
            "tool_call_id": self.numbering.format(number=number, name=name),
            "name": name,
        }

    def _call(self, number: int, arguments: str) -> dict[str, object]:
        name = self.slots.hold(TOOL.name, number, SlotKind.NAME)
        given: object = self.slots.hold(arguments, number, SlotKind.ARGUMENTS)
        if not self.takes_text:
            given = {
                key: self.slots.hold(value, number, SlotKind.ARGUMENTS) if key == "key" else value
                for key, value in json.loads(arguments).items()
            }
        called = self.numbering.format(number=number, name=name)
        return {"id": called, "type": "function", "function": {"name": name, "arguments": given}}


def native(
    render: Render, delimiters: ThoughtDelimiters, syntaxes: Sequence[ToolSyntax]
) -> Iterator[CallFormat]:
    """Formats in which the template writes tools, calls and results so that all can be read back.

    Formats without tools, or with tools in another place each turn, come last: tools then get a
    wording of our own, with a sample.
    """
    for renders_tools, syntax, takes_text, numbering in itertools.product(
        (True, False), syntaxes, (True, False), NUMBERINGS
    ):
        try:
            found = _Trial(
                render, delimiters, syntax, renders_tools, takes_text, numbering
            ).call_format()
        except REFUSALS:
            continue
        if found is not None:
            yield found


def takes_system(render: Render) -> bool:
    """True if the template writes a system message first and keeps it there while the conversation
    grows.
    """
    return all(
        appear(render, roles)
        for roles in ((Role.SYSTEM, Role.USER), (Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER))
    )


def appear(render: Render, roles: Sequence[Role]) -> bool:
    """True if turns of these roles all appear, in their order."""
    words = [f"probe-{number}-{role.value}" for number, role in enumerate(roles)]
    try:
        text = render([turn(role, word) for role, word in zip(roles, words, strict=True)])
    except REFUSALS:
        return False
    places = [text.find(word) for word in words]
    return places == sorted(places) and places[0] >= 0


@attrs.frozen
class _Trial:
    """One way to render calls, tried."""

    render: Render
    delimiters: ThoughtDelimiters
    syntax: ToolSyntax
    renders_tools: bool
    takes_text: bool
    numbering: str

    def call_format(self) -> CallFormat | None:
        """Return the format that was found; None if a part is missing, misplaced, moves later, or
        cannot be read back.
        """
        script = Script(self.takes_text, self.numbering)
        user, calling, last = (
            script.say("user", "said1"),
            script.calling(script.slots.hold("said2"), 1, 2),
            script.say("user", "said4"),
        )
        # Where the template writes no tools, they stand in a system message, if it takes one: this
        # message has to stay, whatever the last role is.
        leading = (
            [script.say("system", "said0")]
            if not self.renders_tools and takes_system(self.render)
            else []
        )
        answered = [*leading, user, calling, script.result(1), script.result(2)]
        turns = [*answered, script.say("assistant", "said3"), last]
        text, spans = self._rendered(script, turns)
        lengths = [len(leading) + length for length in (1, 4, 5, 6)]
        if not self._is_whole(text, spans) or not self._is_stable(script, turns, lengths):
            return None
        head, middle, trailer = self._around()
        sample = self._sample(text, spans, head, trailer)
        if not self._is_read_back(sample):
            return None
        return CallFormat(
            is_native=True,
            renders_tools=self.renders_tools,
            syntax=self.syntax,
            head=head,
            middle=middle,
            trailer=trailer,
            sample=sample,
            glue=self._glue(text, spans, head),
            takes_text=self.takes_text,
            numbering=self.numbering,
            takes_user_after_results=self._takes(script, [*answered, last]),
            shape=self._shape(sample, head, middle),
        )

    def _rendered(
        self, script: Script, turns: Sequence[Turn], *, speak: bool = True
    ) -> tuple[str, list[SlotSpan]]:
        skeleton = self.render(turns, [definition(TOOL)] if self.renders_tools else [], speak=speak)
        return script.slots.fill(
            without_empty_thoughts(skeleton, self.delimiters, self.syntax.start)
        )

    def _is_whole(self, text: str, spans: Sequence[SlotSpan]) -> bool:
        texts = [
            span.slot.text
            for span in spans
            if span.slot.kind is not SlotKind.NAME and span.slot.text != "said2"
        ]
        value = '{"key": "value"}' if self.takes_text else "value"
        front = text[: spans[0].start] if spans else ""
        has_tools = not self.renders_tools or (TOOL.name in front and TOOL.description in front)
        leading = ["said0"] if not self.renders_tools and takes_system(self.render) else []
        return (
            texts == [*leading, "said1", value, value, "result1", "result2", "said3", "said4"]
            and has_tools
        )

    def _is_stable(self, script: Script, turns: Sequence[Turn], lengths: Sequence[int]) -> bool:
        texts = [self._rendered(script, turns[:length], speak=False)[0] for length in lengths]
        return all(long.startswith(short) for short, long in itertools.pairwise(texts))

    def _takes(self, script: Script, turns: Sequence[Turn]) -> bool:
        try:
            _, spans = self._rendered(script, turns)
            return (
                bool(spans)
                and spans[-1].slot.text == "said4"
                and self._is_stable(script, turns, (len(turns) - 1, len(turns)))
            )
        except REFUSALS:
            return False

    def _around(self) -> tuple[str, str, re.Pattern[str]]:
        """Return the text before the name, after it, and after the last argument."""
        script = Script(self.takes_text, self.numbering)
        user = script.say("user", "said1")
        text, spans = self._rendered(script, [user, script.calling("", 0)], speak=False)
        name = _of(SlotKind.NAME, spans)[0]
        start = text.index(self.syntax.start, spans[0].end, name.start + len(self.syntax.start))
        trailer = text[spans[-1].end :].removesuffix(self._end_of_turn(script, user))
        others = (
            self._after_name(script, user, arguments)
            for arguments in ("{}", '{"key": "value"}', '{"other": 1}')
        )
        middle = CALL_BEGUN.sub("", common_front(list(others)))
        number = re.escape(self.numbering.format(number=0, name=TOOL.name))
        return (
            text[start : name.start],
            middle,
            re.compile(re.escape(trailer).replace(number, r"[^\"]*")),
        )

    def _end_of_turn(self, script: Script, user: Turn) -> str:
        """Return the text that the template writes behind an assistant's text."""
        text, spans = self._rendered(script, [user, script.say("assistant", "said2")], speak=False)
        return text[spans[-1].end :]

    def _after_name(self, script: Script, user: Turn, arguments: str) -> str:
        text, spans = self._rendered(
            script, [user, script.calling("", 0, arguments=arguments)], speak=False
        )
        return text[_of(SlotKind.NAME, spans)[0].end :]

    def _sample(
        self, text: str, spans: Sequence[SlotSpan], head: str, trailer: re.Pattern[str]
    ) -> str:
        """Return the text of both calls; nothing if they do not end as one call alone does."""
        first = _of(SlotKind.NAME, spans)[0]
        last = _of(SlotKind.ARGUMENTS, spans)[-1]
        end = trailer.match(text, last.end)
        return text[first.start - len(head) : end.end()] if end else ""

    def _shape(self, sample: str, head: str, middle: str) -> CallShape | None:
        """Return the shape of calls after `middle`, None if none fits."""
        plain = json_shape(sample.removeprefix(head), TOOL.name + middle)
        if plain is not None or self.takes_text:
            return plain
        script = Script(self.takes_text, self.numbering)
        user = script.say("user", "said1")
        end = self._end_of_turn(script, user)

        def written(given: Mapping[str, object]) -> str:
            return self._after_name(script, user, json.dumps(given)).removesuffix(end)

        arguments = argument_shape(written)
        if arguments is None or not arguments.lead.startswith(middle):
            return None
        front = written({"key": "value"}).removesuffix(written({}).removeprefix(arguments.lead))
        try:
            again, close = between(sample.removeprefix(head), TOOL.name + front)
        except ValueError:
            return None
        return CallShape(close, again, arguments)

    def _is_read_back(self, sample: str) -> bool:
        reader = DelimiterReader(
            self.delimiters, (self.syntax,), (TOOL,), tally=CallTally(is_quiet=True)
        )
        read = [*reader.push(sample), *reader.finish()]
        return [
            (call.name, json.loads(call.arguments)) for call in read if isinstance(call, ToolCall)
        ] == [(TOOL.name, {"key": "value"})] * 2

    def _glue(self, text: str, spans: Sequence[SlotSpan], head: str) -> str:
        said = next((span for span in spans if span.slot.text == "said2"), None)
        name = _of(SlotKind.NAME, spans)[0]
        return text[said.end : name.start - len(head)] if said else ""


def _of(kind: SlotKind, spans: Sequence[SlotSpan]) -> list[SlotSpan]:
    return [span for span in spans if span.slot.kind is kind]
