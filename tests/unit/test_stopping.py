"""Stop strings, however the text is cut."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.domain.stopping import StopStrings, Thoughts

TEXT = st.text(alphabet="abc", max_size=40)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3).map(tuple)


def cut(text: str, places: list[int]) -> list[str]:
    ends = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def first_stop(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """What a reader of the whole text would do: read on until a stop string is complete."""
    for end in range(len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            longest = max(hits, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(text=TEXT, stops=STOPS, places=st.lists(st.integers(0, 40), max_size=8))
def test_nothing_of_a_stop_string_is_shown_and_all_before_it_is(
    text: str, stops: tuple[str, ...], places: list[int]
) -> None:
    matcher = StopStrings(stops)
    shown = "".join(matcher.push(piece) for piece in cut(text, places))
    if matcher.found is None:
        shown += matcher.flush()
        assert shown == text
        assert not any(stop in text for stop in stops)
    else:
        assert (shown + matcher.found) == text[: len(shown) + len(matcher.found)]
        assert not any(stop in shown for stop in stops)


@given(text=TEXT, stops=STOPS)
def test_character_by_character_the_first_complete_stop_string_wins(
    text: str, stops: tuple[str, ...]
) -> None:
    matcher = StopStrings(stops)
    shown = "".join(matcher.push(character) for character in text)
    expected, found = first_stop(text, stops)

    assert (matcher.found is None) == (found is None)
    if found is not None:
        assert len(shown) <= len(expected) + len(found)
    else:
        assert shown + matcher.flush() == expected


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["Hello", " ST", "OP world"], "Hello "),
        (["no stop", " here"], "no stop here"),
        (["S", "T", "O", "X"], "STOX"),
        (["STOP"], ""),
    ],
)
def test_examples(pieces: list[str], shown: str) -> None:
    matcher = StopStrings(("STOP",))
    out = "".join(matcher.push(piece) for piece in pieces)

    assert out + matcher.flush() == shown


THOUGHTS = Thoughts("<t>", "</t>")
PIECES = st.lists(
    st.sampled_from(["<t>", "</t>", "\n", " ", "a", "b", "ab", "<", "/t>"]), max_size=14
).map("".join)


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("<t>a\n\nb</t>\n\nab", "\n\n", None),
        ("<t>ab</t>\nab", "b", "<t>ab</t>\na"),
        ("<t>ab</t>a\nb", "\n", "<t>ab</t>a"),
        ("ab<t>b", "b", "a"),
        ("a<t>b</t>a<t>b</t>b", "b", "a<t>b</t>a<t>b</t>"),
        ("a<t>b", "<t>", "a"),
    ],
)
@pytest.mark.parametrize("is_open", [True, False])
def test_thoughts_and_what_is_around_them_stop_nothing(
    text: str, stop: str, shown: str | None, is_open: bool
) -> None:
    if is_open:  # the start delimiter is in the prompt
        text, shown = f"b{stop}</t>{text}", shown if shown is None else f"b{stop}</t>{shown}"
    for pieces in ([text], list(text)):
        matcher = StopStrings((stop,), Thoughts("<t>", "</t>", is_open))
        out = "".join(matcher.push(piece) for piece in pieces)

        assert out + matcher.flush() == (text if shown is None else shown)
        assert matcher.found == (stop if shown is not None else None)


@given(text=PIECES, places=st.lists(st.integers(0, 40), max_size=8), is_open=st.booleans())
def test_the_pieces_make_no_difference_to_what_is_shown(
    text: str, places: list[int], is_open: bool
) -> None:
    def read(pieces: list[str]) -> tuple[str, str | None]:
        matcher = StopStrings(("b",), attrs.evolve(THOUGHTS, is_open=is_open))
        return "".join(matcher.push(piece) for piece in pieces) + matcher.flush(), matcher.found

    assert read(cut(text, places)) == read([text])


def test_text_that_cannot_become_a_stop_string_is_not_held_back() -> None:
    assert StopStrings(("STOP",)).push("Hello") == "Hello"
