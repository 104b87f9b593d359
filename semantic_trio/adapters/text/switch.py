"""Switch by which a chat template is told whether its model is to think, and how much, found once
by trying the template.

Templates take it as an argument that is true or false, as an effort, as a number of tokens, or as a
word in the system message; some write it at the front of the prompt, some at its end. Knows only
what comes out of a template.
"""

import re
from collections.abc import Iterator, Mapping

import attrs

from semantic_trio.adapters.text.turns import NO_SWITCHES, REFUSALS, Render, Switches, Turn, turn
from semantic_trio.domain.conversation import EFFORTS, Conversation, Role

# Arguments that are true or false, in the order in which they are tried.
TOGGLES = ("enable_thinking", "thinking", "reasoning")
EFFORT, BUDGET = "reasoning_effort", "thinking_budget"
NO_EFFORT = "none"
# Efforts that are named to a template that writes whatever word it is given.
PLAIN_EFFORTS = ("low", "medium", "high")
# Tokens for an effort, where a template takes only a number: multiples of 512, as Seed-OSS was
# trained with. No bound for more effort than these.
BUDGETS = {"minimal": 512, "low": 1024, "medium": 4096, "high": 16384}
# Words in a system message that some templates look for.
THINK, NO_THINK = "/think", "/no_think"
WORDS = re.compile(f"({THINK}|{NO_THINK})")


@attrs.frozen
class Switch:
    """Arguments and words that tell a template about thinking."""

    toggle: str | None = None  # an argument that is true or false
    efforts: tuple[str, ...] = ()  # values of `EFFORT` that it takes, the least first
    takes_budget: bool = False
    takes_words: bool = False  # `/think` and `/no_think` in the system message
    takes_user_words: bool = False  # the same in what a user says
    thinks_unasked: bool = True  # False where the least effort is what it takes by itself
    changes_front: bool = False  # it writes the choice before the prompt's end
    toggle_changes_front: bool = False

    def arguments(self, conversation: Conversation, *, is_called: bool = False) -> Switches:
        """Return the template's arguments.

        With `is_called` the answer begins with a call: a thought is ended where only the prompt's
        end says so.
        """
        chosen = dict(self._of(conversation))
        if is_called and self.toggle is not None and not self.toggle_changes_front:
            chosen[self.toggle] = False
        return chosen

    def word(self, conversation: Conversation) -> str:
        """Return the word that the system message has to hold; empty where none is needed."""
        if not self.takes_words or conversation.thinks is None:
            return ""
        return THINK if conversation.thinks else NO_THINK

    def _of(self, conversation: Conversation) -> Iterator[tuple[str, bool | int | str]]:
        """Yield the template's switches for a choice of thinking; none where there is no choice.

        An effort is written where one is chosen, or where it alone turns thinking on or off; a
        budget where one is chosen or follows from the effort, and 0 without thinking.
        """
        thinks, effort, budget = (
            conversation.thinks,
            conversation.effort,
            conversation.thought_budget,
        )
        if thinks is None:
            return
        if self.toggle is not None:
            yield self.toggle, thinks
        if self.efforts and (
            effort or (thinks and not self.thinks_unasked) or (not thinks and self.toggle is None)
        ):
            yield EFFORT, self._nearest(effort or "high") if thinks else self.efforts[0]
        if self.takes_budget and not thinks:
            yield BUDGET, 0
        elif self.takes_budget and (budget or BUDGETS.get(effort or "")):
            yield BUDGET, budget or BUDGETS[effort or ""]

    def _nearest(self, effort: str) -> str:
        """The effort most like the one that is wanted, the greater of two."""
        order = (NO_EFFORT, *EFFORTS)
        wanted = order.index(effort)
        thinking = [one for one in self.efforts if one != NO_EFFORT] or self.efforts
        return min(reversed(thinking), key=lambda one: abs(order.index(one) - wanted))


NO_SWITCH = Switch()


def find_switch(render: Render) -> Switch:
    """Find the arguments that change a template's text, and change it for good, however long the
    conversation grows.
    """
    tries = _Tries(render)
    plain = tries.of()
    if plain is None:
        return NO_SWITCH
    toggles = ((name, tries.of({name: True}), tries.of({name: False})) for name in TOGGLES)
    toggle, on, off = next(
        ((name, on, off) for name, on, off in toggles if on and off and on.text != off.text),
        (None, plain, plain),
    )
    thinking: Switches = NO_SWITCHES if toggle is None else {toggle: True}
    efforts = tries.efforts(thinking)
    budgets = [tries.of({**thinking, BUDGET: number}) for number in (0, 512, 1024)]
    takes_budget = all(budgets) and len({one.text for one in budgets if one}) == len(budgets)
    words = tries.words() if toggle is None and not efforts else ()
    toggled, others = (
        {plain.front, on.front, off.front},
        {one.front for one in (*efforts.values(), *budgets, *words) if one},
    )
    return Switch(
        toggle=toggle,
        efforts=tuple(efforts),
        takes_budget=takes_budget,
        takes_words=bool(words),
        takes_user_words=tries.hears_user(),
        thinks_unasked=toggle is not None
        or NO_EFFORT not in efforts
        or efforts[NO_EFFORT].text != plain.text,
        changes_front=len(toggled | others) > 1,
        toggle_changes_front=len(toggled) > 1,
    )


@attrs.frozen
class _Try:
    """Text of a template for a conversation."""

    text: str
    front: str  # without the beginning of an answer


@attrs.frozen
class _Tries:
    """A template tried with arguments."""

    render: Render
    turns: tuple[Turn, ...] = tuple(
        turn(role, word)
        for role, word in ((Role.USER, "a"), (Role.ASSISTANT, "b"), (Role.USER, "c"))
    )

    def of(self, switches: Switches = NO_SWITCHES) -> _Try | None:
        """Return the text; None where the template refuses, or where the text changes as the
        conversation grows.
        """
        try:
            front = self.render(self.turns, speak=False, switches=switches)
            if not front.startswith(self.render(self.turns[:1], speak=False, switches=switches)):
                return None
            return _Try(self.render(self.turns, switches=switches), front)
        except REFUSALS:
            return None

    def efforts(self, thinking: Switches) -> Mapping[str, _Try]:
        """Return the text of each effort that is accepted while the model thinks; nothing where all
        texts are the same.
        """
        unknown = self.of({**thinking, EFFORT: "unheard-of"})
        names = PLAIN_EFFORTS if unknown and "unheard-of" in unknown.text else (NO_EFFORT, *EFFORTS)
        found = {
            name: tried
            for name in names
            if (tried := self.of({**thinking, EFFORT: name})) is not None
        }
        return found if len({tried.text for tried in found.values()}) > 1 else {}

    def words(self) -> tuple[_Try, ...]:
        """Return the texts of the words, without the words; nothing where both texts are the same,
        or the template takes no system message.
        """
        tried = [
            _Tries(self.render, (turn(Role.SYSTEM, f"s\n{word}"), *self.turns)).of()
            for word in (THINK, NO_THINK)
        ]
        found = tuple(
            _Try(one.text.replace(NO_THINK, THINK), one.front.replace(NO_THINK, THINK))
            for one in tried
            if one
        )
        return found if len({one.text for one in found}) > 1 else ()

    def hears_user(self) -> bool:
        """True if what comes out depends on which of the words a user says, in front of all else or
        behind it.
        """
        said = [[f"{word} c", f"c {word}"] for word in (THINK, NO_THINK)]
        tried = [
            [_Tries(self.render, (*self.turns[:-1], turn(Role.USER, one))).of() for one in ones]
            for ones in said
        ]
        return any(
            one and other and one.text != other.text.replace(NO_THINK, THINK)
            for one, other in zip(*tried, strict=True)
        )
