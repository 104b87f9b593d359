"""Content blocks of the Messages API, as they are on the wire.

Knows the fields of each kind of block, and which blocks a message or a tool result may hold. Blocks
are decoded one by one, later.
"""

from typing import Annotated, Literal

import msgspec

from semantic_trio.adapters.http.common.openapi import one_of
from semantic_trio.domain.eviction import Rank


class CacheControl(msgspec.Struct, frozen=True):
    """A cache breakpoint: the client will send everything up to here again."""

    type: str
    ttl: str | None = None

    @property
    def rank(self) -> Rank:
        """The eviction rank of the breakpoint."""
        return Rank.LONG if self.ttl == "1h" else Rank.MARKED


class TextBlock(msgspec.Struct, frozen=True):
    """A run of text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None


class Block(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Fields that all other blocks have."""

    cache_control: CacheControl | None = None


class ThinkingBlock(Block, tag="thinking", frozen=True):
    """A thought of an earlier turn; where it was omitted, the signature carries it."""

    thinking: str | None = None
    signature: str | None = None


class RedactedThinkingBlock(Block, tag="redacted_thinking", frozen=True):
    """An encrypted thought of an earlier turn, which no other server can read."""


class ToolUseBlock(Block, tag="tool_use", frozen=True):
    """A tool call of the assistant."""

    id: str
    name: str
    input: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]


class SearchResultBlock(Block, tag="search_result", frozen=True):
    """A search result and its source."""

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
    """A document; one that is no text is replaced by a placeholder."""

    source: Annotated[
        msgspec.Raw, one_of(PlainTextSource, ContentSource, Base64Source, UrlSource, FileSource)
    ]
    title: str | None = None
    context: str | None = None


class ImageBlock(Block, tag="image", frozen=True):
    """An image, which is replaced by a placeholder."""


class ToolReferenceBlock(Block, tag="tool_reference", frozen=True):
    """A reference that loads a deferred tool from here on."""

    tool_name: str


KNOWN = (
    "text",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "tool_result",
    "search_result",
    "document",
    "image",
    "tool_reference",
)


class Typed(msgspec.Struct, frozen=True):
    """The field that distinguishes blocks."""

    type: str


class OtherBlock(msgspec.Struct, frozen=True):
    """Any other block, which is left out: calls and results of other servers' tools, and blocks of
    future versions.

    Images and files in the words of other protocols are replaced by placeholders.
    """

    type: Annotated[str, msgspec.Meta(pattern=rf"^(?!({'|'.join(KNOWN)})$)")]
    cache_control: CacheControl | None = None


ResultContent = Annotated[
    msgspec.Raw,
    one_of(TextBlock, ImageBlock, DocumentBlock, SearchResultBlock, ToolReferenceBlock, OtherBlock),
]


class ToolResultBlock(Block, tag="tool_result", frozen=True):
    """The result of a tool call."""

    tool_use_id: str
    content: str | list[ResultContent] | None = None
    is_error: bool | None = None


UserContent = Annotated[
    msgspec.Raw,
    one_of(TextBlock, ImageBlock, ToolResultBlock, SearchResultBlock, DocumentBlock, OtherBlock),
]
AssistantContent = Annotated[
    msgspec.Raw,
    one_of(
        TextBlock,
        ImageBlock,
        ThinkingBlock,
        RedactedThinkingBlock,
        ToolUseBlock,
        SearchResultBlock,
        DocumentBlock,
        OtherBlock,
    ),
]
SystemContent = Annotated[msgspec.Raw, one_of(TextBlock, ImageBlock, OtherBlock)]
