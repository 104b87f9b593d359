"""Images and files in a conversation: the model is told of them, in every API."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from semantic_trio.adapters.http.anthropic import request as anthropic
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.unreadable_content import (
    KINDS,
    UNREADABLE,
    refuse_unreadable_content,
    unread_headers,
)
from semantic_trio.adapters.http.openai.chat import request as openai
from semantic_trio.adapters.http.openai.responses.item_messages import messages_of, read_input
from semantic_trio.domain.conversation import Conversation, Text, Unread
from semantic_trio.domain.errors import InvalidRequestError

IMAGE = "[an image; this model cannot see images]"
DOCUMENT = "[a document (a.pdf); this model reads documents as text alone]"


def by_messages(*messages: dict[str, Any]) -> Conversation:
    """The conversation of a Messages request."""
    body = {"model": "m", "max_tokens": 5, "messages": messages}
    return anthropic.generation_params(
        decode(json.dumps(body).encode(), anthropic.MessagesRequest)
    ).conversation


def by_chat(*messages: dict[str, Any]) -> Conversation:
    """The conversation of a Chat Completions request."""
    return openai.generation_params(
        decode(json.dumps({"model": "m", "messages": messages}).encode(), openai.ChatRequest)
    ).conversation


def by_responses(*messages: dict[str, Any]) -> Conversation:
    """The conversation of a Responses request."""
    return Conversation(
        messages_of(read_input([msgspec.Raw(json.dumps(message).encode()) for message in messages]))
    )


Meaning = Callable[..., Conversation]
TEXT = {"type": "text", "text": "What is this?"}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
PDF = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
    "title": "a.pdf",
}
PARTS: list[tuple[Meaning, dict[str, Any], str, str]] = [
    (by_messages, PICTURE, IMAGE, "messages.0.content.1"),
    (
        by_messages,
        {"type": "image", "source": {"type": "file", "file_id": "f"}},
        IMAGE,
        "messages.0.content.1",
    ),
    (by_messages, PDF, DOCUMENT, "messages.0.content.1"),
    (
        by_messages,
        {**PDF, "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        DOCUMENT,
        "messages.0.content.1",
    ),
    (
        by_messages,
        {"type": "image_url", "image_url": {"url": "data:,"}},
        IMAGE,
        "messages.0.content.1",
    ),
    (
        by_chat,
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        IMAGE,
        "messages.0.content.1",
    ),
    (
        by_chat,
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}},
        DOCUMENT,
        "messages.0.content.1",
    ),
    (
        by_chat,
        {"type": "input_audio", "input_audio": {"data": "AAAA"}},
        "[a sound recording; this model cannot hear]",
        "messages.0.content.1",
    ),
    (by_chat, PICTURE, IMAGE, "messages.0.content.1"),
    (by_chat, PDF, DOCUMENT, "messages.0.content.1"),
    (by_responses, {"type": "input_image", "image_url": "data:,"}, IMAGE, "input.0.content.1"),
    (
        by_responses,
        {"type": "input_file", "filename": "a.pdf", "file_data": "AAAA"},
        DOCUMENT,
        "input.0.content.1",
    ),
    (
        by_responses,
        {"type": "video_url", "video_url": "x"},
        "[a video; this model cannot see videos]",
        "input.0.content.1",
    ),
]


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize(("meaning", "part", "told", "place"), PARTS)
def test_the_model_is_told_of_what_it_cannot_read(
    meaning: Meaning, part: dict[str, Any], told: str, place: str, role: str
) -> None:
    conversation = meaning({"role": role, "content": [TEXT, part]})

    [message] = conversation.messages
    assert message.parts == (Text("What is this?"), Text(told))
    assert [unread.place for unread in conversation.unread] == [place]
    with pytest.raises(InvalidRequestError) as caught:
        refuse_unreadable_content(conversation)
    assert caught.value.field == place


def test_the_model_is_told_of_an_image_in_a_system_message() -> None:
    assert (
        by_messages({"role": "system", "content": [PICTURE]}, {"role": "user", "content": "hi"})
        .messages[0]
        .text
        == IMAGE
    )


CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "c", "function": {"name": "look"}}],
    "content": None,
}
FOUND: list[tuple[Meaning, list[dict[str, Any]]]] = [
    (
        by_messages,
        [
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {}}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "c", "content": [PICTURE]}],
            },
        ],
    ),
    (
        by_chat,
        [
            CALL,
            {
                "role": "tool",
                "tool_call_id": "c",
                "content": [{"type": "image_url", "image_url": {"url": "x"}}],
            },
        ],
    ),
    (
        by_responses,
        [
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [{"type": "input_image", "image_url": "x"}],
            }
        ],
    ),
]


@pytest.mark.parametrize(("meaning", "messages"), FOUND)
def test_what_a_tool_has_found_is_never_refused(
    meaning: Meaning, messages: list[dict[str, Any]]
) -> None:
    conversation = meaning(*messages)
    refuse_unreadable_content(conversation)

    assert conversation.messages[-1].results[0].text == IMAGE
    assert [unread.kind for unread in conversation.unread] == ["image"]


def test_the_header_counts_each_kind() -> None:
    unread = [Unread("image", "a"), Unread("document", "b"), Unread("image", "c")]
    assert unread_headers(unread) == [(b"x-semantic-unread", b"image=2; document=1")]
    assert unread_headers([]) == []


def test_every_unreadable_type_is_of_a_kind_there_are_words_for() -> None:
    assert set(UNREADABLE.values()) == set(KINDS)
