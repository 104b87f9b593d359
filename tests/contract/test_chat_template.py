"""Models whose chat template is a program of mlx-lm: they chat, think and call tools like all
others.
"""

import itertools
import json
from pathlib import Path

import attrs
import pytest

from semantic_trio.adapters.mlx.chat_template import chat_program
from semantic_trio.adapters.mlx.tool_syntax import tool_syntax
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.conversation import (
    Calling,
    Conversation,
    Message,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from semantic_trio.domain.errors import ModelNotFoundError
from tests.vocabulary import write_model

FIND = Tool(
    "find_it",
    "Finds",
    (
        '{"type": "object", "properties": {"words": {"type": "string"}, "limit": {"type": '
        '"integer"}}, "required": ["words"]}'
    ),
)
ASKED = Conversation(
    (
        Message(Role.USER, (Text("Find it"),)),
        Message(
            Role.ASSISTANT,
            (
                Text("I look."),
                ToolCall("x", "find_it", '{"words": "a </x> b", "limit": 5}'),
                ToolCall("y", "find_it", '{"words": ""}'),
            ),
        ),
        Message(Role.USER, (ToolResult("x", "Found"), ToolResult("y", "Nothing"))),
    ),
    (FIND,),
)


def load(
    directory: Path, kind: object = "deepseek_v32", chat_template: str | None = None
) -> TokenizerCodec:
    write_model(directory, chat_template=chat_template)
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template_type": kind}))
    return load_codec(directory, tool_syntax, chat_program)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TokenizerCodec:
    return load(tmp_path_factory.mktemp("model"))


def prompt(codec: TokenizerCodec, conversation: Conversation) -> str:
    return codec.decode(codec.encode_prompt(conversation).tokens)


def test_a_conversation_is_told_by_the_program(codec: TokenizerCodec) -> None:
    said = Conversation((Message(Role.SYSTEM, (Text("Be short."),)), *ASKED.messages[:1]))

    assert (
        prompt(codec, said)
        == "<｜begin▁of▁sentence｜>Be short.<｜User｜>Find it<｜Assistant｜><think>"
    )
    assert codec.encode_prompt(said).opening == "<think>"
    assert prompt(codec, attrs.evolve(said, thinks=False)).endswith("<｜Assistant｜></think>")


def test_tools_calls_and_results_are_told_by_the_program(codec: TokenizerCodec) -> None:
    told = prompt(codec, ASKED)

    assert told.startswith("<｜begin▁of▁sentence｜>\n\n## Tools")
    assert '{"name": "find_it", "description": "Finds"' in told
    assert told.endswith(
        "<result>Found</result>\n<result>Nothing</result>\n</function_results>\n\n<think>"
    )


def test_its_calls_are_read_back_token_by_token(codec: TokenizerCodec) -> None:
    whole = codec.encode_prompt(ASKED).tokens
    asked = codec.encode_prompt(
        attrs.evolve(ASKED, messages=ASKED.messages[:1], thinks=False)
    ).tokens
    decoder, reader = codec.decoder(), codec.reader(ASKED, "")
    text = codec.decode(whole[len(asked) :]).partition("<｜end▁of▁sentence｜>")[0]
    answer = itertools.islice(whole, len(asked), len(asked) + len(codec.encode_text(text)))
    parts = [
        part for token in answer for part in reader.push(decoder.push(token))
    ] + reader.finish()

    assert whole[: len(asked)] == asked
    assert [json.loads(part.arguments) for part in parts if isinstance(part, ToolCall)] == [
        {"words": "a </x> b", "limit": 5},
        {"words": ""},
    ]


def test_its_thoughts_are_read(codec: TokenizerCodec) -> None:
    reader = codec.reader(Conversation(ASKED.messages[:1]), "<think>")

    assert [*reader.push("Hm.</think>It is here."), *reader.finish()] == [
        Thinking("Hm."),
        Text("It is here."),
    ]


def test_what_was_told_once_stays_as_it_is(codec: TokenizerCodec) -> None:
    later = (
        Message(Role.ASSISTANT, (Thinking("Well."), Text("Here."))),
        Message(Role.USER, (Text("Thanks"),)),
    )
    lengths = [
        attrs.evolve(ASKED, messages=(*ASKED.messages, *later)[:length]) for length in (1, 3, 5)
    ]
    texts = [prompt(codec, conversation).removesuffix("<think>") for conversation in lengths]

    assert all(long.startswith(short) for short, long in itertools.pairwise(texts))


def test_a_call_is_demanded_in_its_format(codec: TokenizerCodec) -> None:
    demanded = attrs.evolve(
        ASKED, messages=ASKED.messages[:1], choice=ToolChoice(Calling.REQUIRED, "find_it")
    )

    assert prompt(codec, demanded).endswith(
        '</think><｜DSML｜function_calls>\n<｜DSML｜invoke name="find_it">\n'
    )


def test_a_program_stands_in_for_a_template_beside_it(tmp_path: Path) -> None:
    """As mlx-lm has it."""
    assert prompt(
        load(tmp_path, chat_template="{{ messages }}"), Conversation(ASKED.messages[:1])
    ).startswith("<｜begin▁of▁sentence｜>")


def test_a_program_that_only_describes_answers_leaves_the_template_its_place(
    tmp_path: Path,
) -> None:
    codec = load(
        tmp_path,
        "muse_spark",
        chat_template="{% for message in messages %}{{ message.content }}{% endfor %}",
    )

    assert prompt(codec, Conversation(ASKED.messages[:1])) == "Find it"


def test_a_change_of_the_program_is_a_change_of_the_fingerprint(
    tmp_path: Path, codec: TokenizerCodec
) -> None:
    assert (
        load_codec(write_model(tmp_path, chat_template=None), tool_syntax, chat_program).fingerprint
        != codec.fingerprint
    )


@pytest.mark.parametrize("kind", ["unheard_of", "os.path", 5])
def test_a_program_that_is_not_there_is_told_at_the_start(kind: object, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"chat_template_type|mlx-lm has no chat template"):
        load(tmp_path, kind)
