"""Arguments of a call are written while they come, as the whole call has them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.adapters.text.layout import encodable
from semantic_trio.domain.arguments import ArgumentsWriter

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=5), VALUES, min_size=1, max_size=4)


def written(*pieces: str) -> list[str]:
    """What each piece of a text adds to the arguments."""
    writer = ArgumentsWriter()
    return [writer.push(piece) for piece in pieces]


@pytest.mark.exhaustive
@given(
    arguments=ARGUMENTS,
    is_ascii=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_the_pieces_are_the_whole_arguments_without_their_last_brace(
    arguments: dict[str, object], is_ascii: bool, indent: int | None, cuts: list[int]
) -> None:
    text = json.dumps(arguments, ensure_ascii=is_ascii, indent=indent)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    whole = json.dumps(arguments, ensure_ascii=False)

    for pieces in (
        [text[start:end] for start, end in zip(places, places[1:], strict=False)],
        list(text),
    ):
        assert "".join(written(*pieces)) + "}" == whole


@given(arguments=ARGUMENTS, is_ascii=st.booleans(), part=st.floats(0, 1))
def test_what_is_written_of_a_part_is_the_beginning_of_the_whole_and_no_json(
    arguments: dict[str, object], is_ascii: bool, part: float
) -> None:
    text = json.dumps(arguments, ensure_ascii=is_ascii)
    [told] = written(text[: int(part * len(text))])

    assert json.dumps(arguments, ensure_ascii=False).startswith(told)
    with pytest.raises(ValueError, match=r"."):
        json.loads(told)


@given(text=st.text(st.sampled_from(list('{}[]":, \n\\u0dD8aAeE+-.1tfn'))))
def test_the_pieces_do_not_depend_on_how_any_text_comes(text: str) -> None:
    text = '{"a": ' + text
    assert "".join(written(*text)) == "".join(written(text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", ""),
        ('{"a"', ""),
        ('{"a":', '{"a": '),
        ('{"a":1', '{"a": '),
        ('{"a":1 ', '{"a": 1'),
        ('{"a":1,', '{"a": 1'),
        ('{"a":1,}', '{"a": 1'),
        ('{"a":1e2,"b":-0,"c":1E400}', '{"a": 100.0, "b": 0, "c": '),
        ('{"a":nul', '{"a": '),
        ('{"a":[ ] ,"b":{ } }', '{"a": [], "b": {}'),
        ('{"a":[1,]', '{"a": [1'),
        ('{"a":"x\ny\tz"', '{"a": "x\\ny\\tz"'),
        ('{"a":"\\u00e9\\/', '{"a": "é/'),
        ('{"a":"x\\', '{"a": "x'),
        ('{"a":"x\\u00', '{"a": "x'),
        ('{"a":"x\\d', '{"a": "x'),
        ('{"a":"\\ud83d', '{"a": "'),
        ('{"a":"\\ud83d\\ude0', '{"a": "'),
        ('{"a":"\\ud83d\\ude00', '{"a": "😀'),
        ('{"a":"\\ud83d!', '{"a": "\ufffd!'),
        ('{"a":"\\ud83d\\ud83d\\ude00', '{"a": "\ufffd😀'),
        ('{"a":"\\ude00', '{"a": "\ufffd'),
        ('{"a":1,"a":1,"b":2}', '{"a": 1'),
        ('{"a":{"b":1},"b":2,"c":3}', '{"a": {"b": 1}, "b": 2, "c": 3'),
        ("{'a': 1}", ""),
        ('{"a":NaN,', '{"a": '),
        ('{"a":1]', '{"a": 1'),
        ('{"a":,', '{"a": '),
        ('{"\\q":1}', ""),
        ('{"\\ud83d":1}', ""),
        ('{"a" 1', ""),
        ('{a":1}', ""),
        ("[1]", ""),
    ],
)
def test_what_is_not_certain_is_not_written(text: str, told: str) -> None:
    assert "".join(written(*text)) == told
    assert "".join(written(text)) == told


@given(
    text=st.lists(st.sampled_from(["a", "\\ud83d", "\\ude00", "\\ud83", "\\n", "😀", "\\"])).map(
        "".join
    )
)
def test_halves_of_characters_are_replaced_as_in_the_whole_call(text: str) -> None:
    told = "".join(written(*f'{{"a": "{text}"}}'))
    try:
        whole = encodable(json.dumps(json.loads(f'{{"a": "{text}"}}'), ensure_ascii=False))
    except ValueError:
        return
    assert told == whole[:-1]
