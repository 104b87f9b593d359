"""Order of turns: changed to one that a template takes, without losing text."""

from collections.abc import Sequence
from itertools import groupby

from semantic_trio.adapters.text.capabilities import TemplateCapabilities
from semantic_trio.adapters.text.turns import RESULT_ROLE, Turn, turn
from semantic_trio.domain.conversation import Role


def in_order(turns: list[Turn], capabilities: TemplateCapabilities) -> list[Turn]:
    """Return turns in the order that a template with these capabilities accepts."""
    if not capabilities.takes_late_system:
        turns = _systems_merged(turns)
    if not capabilities.takes_system:
        turns = _system_in_first_user(turns)
    if not capabilities.calls.takes_user_after_results:
        turns = _users_in_results(turns)
    return turns if capabilities.takes_neighbours else _neighbours_merged(turns)


def _systems_merged(turns: list[Turn]) -> list[Turn]:
    """System turns at the front become one."""
    speaks = next((at for at, turn in enumerate(turns) if turn["role"] != Role.SYSTEM), len(turns))
    return _neighbours_merged(turns[:speaks]) + turns[speaks:]


def _system_in_first_user(turns: list[Turn]) -> list[Turn]:
    """The leading system message becomes the first paragraph of what the user says first."""
    if not turns or turns[0]["role"] != Role.SYSTEM:
        return turns
    opening = [turn(Role.USER, str(turns[0]["content"]))]
    if len(turns) > 1 and turns[1]["role"] == Role.USER:
        return _neighbours_merged([*opening, turns[1]]) + turns[2:]
    return opening + turns[1:]


def _users_in_results(turns: list[Turn]) -> list[Turn]:
    """Move the user's text right after results into the last of them."""
    adapted: list[Turn] = []
    for said in turns:
        if adapted and adapted[-1]["role"] == RESULT_ROLE and said["role"] == Role.USER:
            adapted[-1] = {
                **adapted[-1],
                "content": f"{adapted[-1]['content']}\n\n{said['content']}",
            }
        else:
            adapted.append(said)
    return adapted


def _neighbours_merged(turns: list[Turn]) -> list[Turn]:
    """Turns in a row of one speaker become one, a blank line between what they say; results stay as
    they are.
    """
    merged: list[Turn] = []
    for role, group in groupby(turns, key=lambda said: said["role"]):
        said = list(group)
        merged += said if role == RESULT_ROLE or len(said) == 1 else [_merged(str(role), said)]
    return merged


def _merged(role: str, turns: Sequence[Turn]) -> Turn:
    calls = [call for said in turns for call in _calls(said)]
    words = turn(role, "\n\n".join(str(said["content"]) for said in turns if said["content"]))
    return {**words, "tool_calls": calls} if calls else words


def _calls(said: Turn) -> list[object]:
    calls = said.get("tool_calls", [])
    assert isinstance(calls, list)
    return calls
