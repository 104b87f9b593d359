"""Blocks of content on the wire.

Knows what each kind of block has, and what a message or a result may hold: that is documented, and decoded block by block when it is read.
"""

from typing import Annotated, Literal

import msgspec

from semantic_trio.adapters.http.common.openapi import one_of
from semantic_trio.domain.eviction import Rank


class CacheControl(msgspec.Struct, frozen=True):
    """A breakpoint: the client will send all up to here again."""

    type: str
    ttl: str | None = None

    @property
    def rank(self) -> Rank:
        """How long it counts."""
        return Rank.LONG if self.ttl == "1h" else Rank.MARKED


class TextBlock(msgspec.Struct, frozen=True):
    """A run of text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None


class Block(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all other blocks have."""

    cache_control: CacheControl | None = None


class ThinkingBlock(Block, tag="thinking", frozen=True):
    """What a model thought in an earlier turn; where that was not shown, the signature has it."""

    thinking: str | None = None
    signature: str | None = None


class RedactedThinkingBlock(Block, tag="redacted_thinking", frozen=True):
    """What a model thought in an earlier turn, in words no other server can read."""


class ToolUseBlock(Block, tag="tool_use", frozen=True):
    """A call the assistant has made."""

    id: str
    name: str
    input: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]


class SearchResultBlock(Block, tag="search_result", frozen=True):
    """Something that was found, and where."""

    source: str
    title: str
    content: list[TextBlock]


class PlainTextSource(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A document in one piece."""

    data: str


class ContentSource(msgspec.Struct, frozen=True, tag_field="type", tag="content"):
    """A document in blocks."""

    content: str | list[TextBlock]


class Base64Source(msgspec.Struct, frozen=True, tag_field="type", tag="base64"):
    """A file, in the request."""

    data: str


class UrlSource(msgspec.Struct, frozen=True, tag_field="type", tag="url"):
    """A file, somewhere."""

    url: str


class FileSource(msgspec.Struct, frozen=True, tag_field="type", tag="file"):
    """A file that was uploaded."""

    file_id: str


class DocumentBlock(Block, tag="document", frozen=True):
    """A document; of one that is no text the model is told that there is one."""

    source: Annotated[msgspec.Raw, one_of(PlainTextSource, ContentSource, Base64Source, UrlSource, FileSource)]
    title: str | None = None
    context: str | None = None


class ImageBlock(Block, tag="image", frozen=True):
    """An image: the model is told that there is one."""


class ToolReferenceBlock(Block, tag="tool_reference", frozen=True):
    """A tool that was put off and is to be known from here on."""

    tool_name: str


KNOWN = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result", "search_result", "document", "image", "tool_reference")


class Typed(msgspec.Struct, frozen=True):
    """As much as tells blocks apart."""

    type: str


class OtherBlock(msgspec.Struct, frozen=True):
    """Any other block, which is left out: what tools of other servers were asked and said, and what is still to be invented.

    Of images and files in the words of other protocols the model is told that they are there.
    """

    type: Annotated[str, msgspec.Meta(pattern=rf"^(?!({'|'.join(KNOWN)})$)")]
    cache_control: CacheControl | None = None


ResultContent = Annotated[msgspec.Raw, one_of(TextBlock, ImageBlock, DocumentBlock, SearchResultBlock, ToolReferenceBlock, OtherBlock)]


class ToolResultBlock(Block, tag="tool_result", frozen=True):
    """What a call came to."""

    tool_use_id: str
    content: str | list[ResultContent] | None = None
    is_error: bool | None = None


UserContent = Annotated[msgspec.Raw, one_of(TextBlock, ImageBlock, ToolResultBlock, SearchResultBlock, DocumentBlock, OtherBlock)]
AssistantContent = Annotated[
    msgspec.Raw, one_of(TextBlock, ImageBlock, ThinkingBlock, RedactedThinkingBlock, ToolUseBlock, SearchResultBlock, DocumentBlock, OtherBlock)
]
SystemContent = Annotated[msgspec.Raw, one_of(TextBlock, ImageBlock, OtherBlock)]
