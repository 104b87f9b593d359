"""What the engine and HTTP rely on in a codec, claimed of the fake and of real tokenizers and
templates alike.
"""

import functools
import itertools
import json
from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.canonical import canonical
from semantic_trio.domain.conversation import (
    Calling,
    CallPiece,
    Conversation,
    CutCall,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.prompt import Breakpoint, Known
from semantic_trio.entrypoints import settings_loading
from semantic_trio.ports.text import TextCodec
from semantic_trio.testing import ByteCodec
from tests.parts import joined

FAKE = "fake"


@functools.cache
def codec_of(name: str) -> TextCodec:
    """The codec of a model; one without tools in its template, one with."""
    return (
        ByteCodec()
        if name == FAKE
        else load_codec(
            open_catalogue(settings_loading.load({}).settings.data_dir).ensure(name, Lines())
        )
    )


@pytest.fixture(params=[FAKE, "smollm2-135m", "tiny-random"])
def codec(request: pytest.FixtureRequest) -> TextCodec:
    return codec_of(request.param)


def says(role: Role, text: str) -> Message:
    return Message(role, (Text(text),))


HELLO = (says(Role.SYSTEM, "Be kind."), says(Role.USER, "Hello"))


def test_the_same_conversation_is_the_same_tokens(codec: TextCodec) -> None:
    assert codec.encode_prompt(Conversation(HELLO)) == codec.encode_prompt(Conversation(HELLO))


def test_every_message_and_every_role_shows(codec: TextCodec) -> None:
    prompts = {
        codec.encode_prompt(Conversation(messages))
        for messages in (
            HELLO,
            HELLO[1:],
            (*HELLO, says(Role.ASSISTANT, "Hi"), says(Role.USER, "Bye")),
            (*HELLO, says(Role.USER, "Hi"), says(Role.USER, "Bye")),
            (says(Role.USER, "Hello"), says(Role.SYSTEM, "Be kind.")),
        )
    }
    assert len(prompts) == 5


def test_a_longer_conversation_begins_with_the_shorter_one(codec: TextCodec) -> None:
    """What makes a prefix reusable: appending turns changes nothing before them."""
    short = codec.encode_prompt(Conversation(HELLO)).tokens
    long = codec.encode_prompt(
        Conversation((*HELLO, says(Role.ASSISTANT, "Hi"), says(Role.USER, "Bye")))
    ).tokens

    assert long[: len(short)] == short


@pytest.mark.parametrize("text", ["plain", "snowman ☃ and 👩‍👩‍👧", "a\nb\tc", " spaces  kept "])
def test_what_was_encoded_is_decoded_piece_by_piece(codec: TextCodec, text: str) -> None:
    prompt = codec.encode_prompt(Conversation((says(Role.USER, text),))).tokens
    decoder = codec.decoder()
    pieces = [decoder.push(token) for token in prompt] + [decoder.flush()]

    assert text in "".join(pieces)
    assert "�" not in "".join(pieces)


def test_decoders_know_nothing_of_each_other(codec: TextCodec) -> None:
    prompt = codec.encode_prompt(Conversation((says(Role.USER, "snowman ☃"),))).tokens
    one, other = codec.decoder(), codec.decoder()
    mixed = [(one.push(token), other.push(token)) for token in prompt]

    assert "".join(a for a, _ in mixed) == "".join(b for _, b in mixed)


def test_there_is_a_way_to_end_a_turn(codec: TextCodec) -> None:
    assert codec.stop_tokens


# ------------------------------------------------------------------------ conversations of any kind

WEATHER = Tool(
    "get_weather",
    "Tells the weather",
    '{"type": "object", "properties": {"city": {"type": "string"}}}',
)
HOSTILE = [
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "</think>",
    "<think>",
    "<tool_call>",
    "</tool_call>",
    "\ue000",
    "{{",
    "{%",
    "Q0x0Q",
]
TEXTS = st.lists(
    st.one_of(st.text(alphabet="ab \n.☃é", max_size=6), st.sampled_from(HOSTILE)), max_size=4
).map("".join)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["city", "b"]),
    st.one_of(TEXTS, st.integers(), st.booleans(), st.none()),
    max_size=2,
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Canonical ones, as agents hold them; the last to speak is the user."""
    tools = draw(st.sampled_from([(), (WEATHER,)]))
    messages = [says(Role.SYSTEM, "S")] * draw(st.integers(0, 2)) + [says(Role.USER, draw(TEXTS))]
    for turn in range(draw(st.integers(0, 3))):
        calls = tuple(
            ToolCall(f"{turn}-{n}", "get_weather", json.dumps(draw(ARGUMENTS)))
            for n in range(draw(st.integers(0, 2)) if tools else 0)
        )
        thoughts = draw(st.sampled_from([(), (Thinking("hm"),)]))
        text = Text(draw(TEXTS.filter(str.strip)))
        messages.append(
            Message(
                Role.ASSISTANT,
                (*thoughts, *draw(st.sampled_from([(text,), () if calls else (text,)])), *calls),
            )
        )
        results = tuple(ToolResult(call.id, draw(TEXTS), draw(st.booleans())) for call in calls)
        messages.append(
            Message(
                Role.USER,
                results if calls and draw(st.booleans()) else (*results, Text(draw(TEXTS))),
            )
        )
        if draw(st.integers(0, 3)) == 0:
            messages.append(says(Role.SYSTEM, draw(TEXTS)))
    return Conversation(tuple(messages), tools)


def answers(conversation: Conversation) -> list[int]:
    return [
        at for at, message in enumerate(conversation.messages) if message.role is Role.ASSISTANT
    ]


def cut(conversation: Conversation, count: int) -> Conversation:
    return attrs.evolve(conversation, messages=conversation.messages[:count])


codecs = pytest.mark.parametrize("name", [FAKE, "smollm2-135m", "tiny-random"])
often = settings(max_examples=60, deadline=None)


@codecs
@often
@given(conversation=conversations())
def test_nothing_that_is_said_is_lost(name: str, conversation: Conversation) -> None:
    text = codec_of(name).decode(codec_of(name).encode_prompt(conversation).tokens)

    for part in (part for message in conversation.messages for part in message.parts):
        assert (part.arguments if isinstance(part, ToolCall) else part.text).strip() in text


@codecs
@often
@given(conversation=conversations())
def test_a_prompt_that_was_answered_begins_the_prompts_after_it(
    name: str, conversation: Conversation
) -> None:
    whole = codec_of(name).encode_prompt(conversation).tokens

    for at in answers(conversation):
        before = codec_of(name).encode_prompt(cut(conversation, at)).tokens
        assert whole[: len(before)] == before


@codecs
@often
@given(conversation=conversations())
def test_the_tokens_of_a_message_do_not_depend_on_what_comes_after(
    name: str, conversation: Conversation
) -> None:
    codec = codec_of(name)
    marked = attrs.evolve(
        conversation,
        messages=tuple(
            attrs.evolve(message, rank=Rank.MARKED) for message in conversation.messages
        ),
    )
    whole = codec.encode_prompt(marked)

    assert whole.tokens == codec.encode_prompt(conversation).tokens, (
        "cache breakpoints change nothing"
    )
    assert len(whole.breakpoints) == len(conversation.messages)
    for count, point in enumerate(whole.breakpoints, start=1):
        before = codec.encode_prompt(cut(marked, count))
        assert before.breakpoints[-1] == point
        assert before.tokens[: point.position] == whole.tokens[: point.position]


@codecs
@often
@given(conversation=conversations(), turns=st.data())
def test_what_was_read_and_said_is_repeated_as_it_was(
    name: str, conversation: Conversation, turns: st.DataObject
) -> None:
    """Whatever was said: the same with other blanks, thoughts nobody sends back, another
    spelling.
    """
    codec, places = codec_of(name), answers(conversation)
    if not places:
        return
    at = turns.draw(st.sampled_from(places))
    said = (
        *codec.encode_prompt(cut(conversation, at)).tokens,
        *turns.draw(st.lists(st.integers(97, 122), max_size=5)),
    )
    plain, prompt = (
        codec.encode_prompt(conversation),
        codec.encode_prompt(conversation, Known(at + 1, said)),
    )

    rest = codec.decode(prompt.tokens[len(said) :])
    assert prompt.tokens[: len(said)] == said
    assert rest
    assert codec.decode(plain.tokens).endswith(rest)
    assert prompt.head == plain.head
    assert prompt.tokens[: prompt.head] == plain.tokens[: plain.head]
    assert all(
        part.text.strip() in rest
        for message in conversation.messages[at + 1 :]
        for part in message.parts
        if isinstance(part, Text | ToolResult)
    )


@codecs
@often
@given(
    conversation=conversations(), more=st.lists(st.integers(0, 60_000), max_size=8), data=st.data()
)
def test_a_draft_changes_nothing_but_the_spelling(
    name: str, conversation: Conversation, more: list[int], data: st.DataObject
) -> None:
    codec = codec_of(name)
    plain = codec.encode_prompt(conversation)
    kept = data.draw(st.integers(0, len(plain.tokens)))
    prompt = codec.encode_prompt(conversation, Known(draft=(*plain.tokens[:kept], *more)))

    assert codec.decode(prompt.tokens) == codec.decode(plain.tokens)
    assert prompt.opening == plain.opening


@pytest.mark.parametrize("name", ["smollm2-135m", "tiny-random"])
@often
@given(conversation=conversations(), data=st.data())
def test_a_draft_is_kept_in_its_own_spelling(
    name: str, conversation: Conversation, data: st.DataObject
) -> None:
    codec = codec_of(name)
    assert isinstance(codec, TokenizerCodec)
    plain = codec.encode_prompt(conversation).tokens
    text = codec.decode(plain)
    parts = [part for message in conversation.messages for part in message.parts]
    spells = any(
        word in (part.arguments if isinstance(part, ToolCall) else part.text)
        for part in parts
        for word in HOSTILE
    )
    one, other = sorted(data.draw(st.integers(0, len(text))) for _ in range(2))
    draft = (*codec.encode_text(text[:one]), *codec.encode_text(text[one:other]))

    for told in (draft, (*draft, 5)):
        prompt = codec.encode_prompt(conversation, Known(draft=told)).tokens
        assert codec.decode(prompt) == text
        kept = next(
            (at for at, pair in enumerate(zip(prompt, told, strict=False)) if pair[0] != pair[1]),
            len(draft),
        )
        assert text.startswith(codec.decode(told[: max(0, kept - 4)]).rstrip("\ufffd"))
        assert spells or len(codec.decode(draft[kept:])) <= 40, (
            "no more is spelled anew than where it ends, or a content spells a delimiter"
        )


@codecs
@often
@given(
    conversation=conversations(),
    count=st.integers(-2, 9),
    tokens=st.lists(st.integers(0, 200), max_size=6),
    draft=st.lists(st.integers(0, 200)),
)
def test_what_is_known_of_another_conversation_does_no_harm(
    name: str, conversation: Conversation, count: int, tokens: list[int], draft: list[int]
) -> None:
    prompt = codec_of(name).encode_prompt(conversation, Known(count, tuple(tokens), tuple(draft)))

    assert 0 <= prompt.head <= len(prompt.tokens)
    assert all(0 < point.position <= len(prompt.tokens) for point in prompt.breakpoints)


def test_a_draft_is_kept_as_far_as_it_goes(codec: TextCodec) -> None:
    plain = codec.encode_prompt(Conversation(HELLO))

    assert codec.encode_prompt(Conversation(HELLO), Known(draft=plain.tokens)) == plain
    longer = codec.encode_prompt(
        Conversation((*HELLO, says(Role.ASSISTANT, "Hi"), says(Role.USER, "Bye"))),
        Known(draft=plain.tokens),
    )
    assert longer.tokens[: len(plain.tokens)] == plain.tokens


def test_the_head_is_tools_and_leading_system_messages(codec: TextCodec) -> None:
    heads = {}
    for tools, system in itertools.product([(), (WEATHER,)], [(), HELLO[:1], (HELLO[0], HELLO[0])]):
        one, other = (
            codec.encode_prompt(Conversation((*system, says(Role.USER, text)), tools))
            for text in ("Hello", "Bye")
        )
        heads[bool(tools), len(system)] = one.head
        assert one.head == other.head
        assert one.tokens[: one.head] == other.tokens[: other.head]
        assert ("Tells the weather" in codec.decode(one.tokens[: one.head])) == bool(tools)
        assert codec.decode(one.tokens[: one.head]).count("Be kind.") == len(system)

    assert heads[False, 0] == 0
    assert len(set(heads.values())) == len(heads)


@pytest.mark.parametrize("tools", [(), (WEATHER,)])
def test_late_system_messages_are_behind_the_head_and_before_the_first_user_message(
    codec: TextCodec, tools: tuple[Tool, ...]
) -> None:
    late = says(Role.SYSTEM, "It is late.")
    plain = codec.encode_prompt(Conversation(HELLO, tools))
    one, other = (
        codec.encode_prompt(canonical(Conversation((HELLO[0], says(Role.USER, text), late), tools)))
        for text in ("Hello", "Bye, and see you")
    )

    assert plain.head == one.head == other.head
    assert one.breakpoints == other.breakpoints
    [point] = one.breakpoints
    assert one.tokens[: point.position] == other.tokens[: point.position]
    assert "It is late." in codec.decode(one.tokens[one.head : point.position])
    assert "Hello" in codec.decode(one.tokens[point.position :])


def test_a_message_that_is_marked_tells_where_it_ends(codec: TextCodec) -> None:
    messages = (attrs.evolve(HELLO[0], rank=Rank.LONG), HELLO[1])
    prompt = codec.encode_prompt(Conversation(messages))

    assert prompt.breakpoints == (Breakpoint(prompt.head, Rank.LONG),)


def test_a_marked_message_tells_where_it_ends_also_in_what_is_known(codec: TextCodec) -> None:
    messages = (
        *HELLO[:1],
        attrs.evolve(HELLO[1], rank=Rank.MARKED),
        says(Role.ASSISTANT, "Hi"),
        says(Role.USER, "Bye"),
    )
    plain = codec.encode_prompt(Conversation(messages))
    said = codec.encode_prompt(Conversation(messages[:2])).tokens

    known = codec.encode_prompt(Conversation(messages), Known(3, (*said, 98, 99), (1, 2)))
    assert known.breakpoints == plain.breakpoints
    assert codec.encode_prompt(Conversation(messages), Known(3, (98, 99))).breakpoints == ()


# ------------------------------------------------------------------------------------------ answers


def read(
    codec: TextCodec, conversation: Conversation, pieces: list[str], opening: str = ""
) -> list[Part]:
    """All parts of an answer, pieces of text and of thought joined."""
    reader = codec.reader(conversation, opening)
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()
    return joined(parts)


CALLING = Conversation((says(Role.USER, "Is it warm?"),), (WEATHER,))
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
CALLED = ToolCall("", "get_weather", '{"city": "Rome"}')
READINGS = {
    "plain text": ("It is <b>warm</b>.", [Text("It is <b>warm</b>.")]),
    "thoughts first": ("<think>\nhm\n</think>\n\nWarm.", [Thinking("hm"), Text("Warm.")]),
    "no thoughts": ("<think>\n\n</think>\n\nWarm.", [Text("Warm.")]),
    "thoughts without end": ("<think>\nhm\n", [Thinking("hm")]),
    "a call": (CALL, [CALLED]),
    "text and calls": (f"I look.\n{CALL}\n{CALL}\n", [Text("I look.\n"), CALLED, CALLED]),
    "a call without end": (CALL.removesuffix("\n</tool_call>"), [CALLED]),
    "half a call": (CALL[:30], [Text(CALL[:30])]),
    "no call": (
        "<tool_call>\nnothing\n</tool_call> so",
        [Text("<tool_call>\nnothing\n</tool_call> so")],
    ),
    "no object": ("<tool_call>[1]</tool_call>", [Text("<tool_call>[1]</tool_call>")]),
    "only a delimiter": ("a <tool_call>", [Text("a <tool_call>")]),
    "half a delimiter": ("a <tool_c", [Text("a <tool_c")]),
}


@pytest.mark.parametrize("reading", READINGS)
def test_an_answer_is_read_as_what_it_says(reading: str, codec: TextCodec) -> None:
    text, parts = READINGS[reading]

    assert read(codec, CALLING, [text]) == parts
    assert read(codec, CALLING, list(text)) == parts


@codecs
@often
@given(
    words=st.lists(
        st.sampled_from(
            [
                CALL,
                "<think>",
                "</think>",
                "<tool_call>",
                "</tool_call>",
                "a",
                " ",
                "\n",
                "<",
                "☃",
                "}",
            ]
        )
    ),
    seed=st.randoms(),
)
def test_the_pieces_an_answer_comes_in_make_no_difference(
    name: str, words: list[str], seed: Random
) -> None:
    text = "".join(words)
    places = sorted(seed.choices(range(len(text) + 1), k=seed.randrange(6)))
    pieces = [text[one:other] for one, other in itertools.pairwise([0, *places, len(text)])]

    assert read(codec_of(name), CALLING, pieces) == read(codec_of(name), CALLING, [text])


@codecs
@often
@given(
    arguments=st.dictionaries(
        st.text(max_size=5),
        st.one_of(
            st.text(alphabet=st.characters(exclude_characters="<", exclude_categories=["C"]))
        ),
        max_size=3,
    )
)
def test_a_call_is_read_as_it_is_told(name: str, arguments: dict[str, str]) -> None:
    codec = codec_of(name)
    call = ToolCall("1", "get_weather", json.dumps(arguments))
    told = Conversation(
        (says(Role.USER, "Is it warm?"), Message(Role.ASSISTANT, (call,)), says(Role.USER, "")),
        (WEATHER,),
    )
    text = codec.decode(codec.encode_prompt(told).tokens).partition("Is it warm?")[2]

    [found] = [part for part in read(codec, CALLING, [text]) if isinstance(part, ToolCall)]
    assert (found.name, json.loads(found.arguments)) == (call.name, arguments)


@pytest.mark.parametrize(
    "conversation",
    [attrs.evolve(CALLING, choice=ToolChoice(Calling.NONE)), attrs.evolve(CALLING, tools=())],
)
def test_where_no_call_may_be_made_calls_are_text(
    conversation: Conversation, codec: TextCodec
) -> None:
    assert read(codec, conversation, [CALL]) == [Text(CALL)]


def test_text_and_the_arguments_of_a_call_are_told_at_once_and_a_call_when_it_is_whole(
    codec: TextCodec,
) -> None:
    reader = codec.reader(CALLING, "")

    assert reader.push("Warm <") == [Text("Warm ")]
    assert reader.push("b") == [Text("<b")]
    assert [part for letter in CALL[:-1] for part in reader.push(letter)] == [
        CallPiece("", CALLED.name, arguments) for arguments in ('{"city": ', '"', *"Rome", '"')
    ]
    assert reader.push(">") == [CALLED]


def test_a_call_that_was_announced_and_is_not_whole_is_cut(codec: TextCodec) -> None:
    for is_cut, written in (
        (True, CALL.partition('me"}')[0]),
        (False, CALL.replace('"Rome"', '"Rome" or so')),
    ):
        reader = codec.reader(CALLING, "")
        *pieces, cut = [*reader.push(written), *reader.finish(is_cut=is_cut)]

        assert cut == CutCall(
            "", CALLED.name, '{"city": "Rome"' if not is_cut else '{"city": "Ro', written
        )
        assert (
            "".join(piece.arguments for piece in pieces if isinstance(piece, CallPiece))
            == cut.arguments
        )


def test_a_demanded_call_is_begun_by_the_prompt(codec: TextCodec) -> None:
    plain = codec.encode_prompt(CALLING)
    for name, rest in (
        (None, 'get_weather", "arguments": {"city": "Rome"}}'),
        ("get_weather", '{"city": "Rome"}}'),
    ):
        demanded = attrs.evolve(CALLING, choice=ToolChoice(Calling.REQUIRED, name), thinks=True)
        prompt = codec.encode_prompt(demanded)

        assert prompt.head == plain.head
        assert codec.decode(prompt.tokens) == codec.decode(plain.tokens) + prompt.opening
        assert read(codec, demanded, [rest, "</tool_call>"], prompt.opening) == [CALLED]


def test_a_thought_the_prompt_begins_is_a_thought(codec: TextCodec) -> None:
    prompt = codec.encode_prompt(attrs.evolve(CALLING, thinks=True))
    if prompt.opening:  # not every model can be told to think
        assert codec.decode(prompt.tokens).endswith(prompt.opening)
        assert read(codec, CALLING, ["hm\n</think>\n\nWarm."], prompt.opening) == [
            Thinking("hm"),
            Text("Warm."),
        ]
