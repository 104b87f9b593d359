"""Content blocks, converted to parts of the neutral conversation.

Knows which role may use which blocks. Knows nothing of requests. A block that a text model cannot
read becomes a placeholder; an unknown block is left out, because histories hold blocks of other
servers, and clients send new ones every week.
"""

from collections.abc import Iterable, Iterator, Mapping

import attrs
import msgspec

from semantic_trio.adapters.http.anthropic.content_blocks import (
    KNOWN,
    Base64Source,
    Block,
    CacheControl,
    ContentSource,
    DocumentBlock,
    FileSource,
    ImageBlock,
    OtherBlock,
    PlainTextSource,
    RedactedThinkingBlock,
    SearchResultBlock,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    Typed,
    UrlSource,
)
from semantic_trio.adapters.http.anthropic.thinking import thought_of
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.unreadable_content import UNREADABLE, placeholder_text
from semantic_trio.domain.conversation import Part, Text, Thinking, ToolCall, ToolResult
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.eviction import Rank

FILES = {"base64": Base64Source, "url": UrlSource, "file": FileSource}

AnyBlock = TextBlock | Block | OtherBlock
Kinds = Mapping[str, type[TextBlock] | type[Block]]
COMMON: Kinds = {
    "text": TextBlock,
    "image": ImageBlock,
    "search_result": SearchResultBlock,
    "document": DocumentBlock,
}
OF_USER: Kinds = {**COMMON, "tool_result": ToolResultBlock}
OF_ASSISTANT: Kinds = {
    **COMMON,
    "thinking": ThinkingBlock,
    "redacted_thinking": RedactedThinkingBlock,
    "tool_use": ToolUseBlock,
}
OF_SYSTEM: Kinds = {"text": TextBlock, "image": ImageBlock}
OF_RESULT: Kinds = {**COMMON, "tool_reference": ToolReferenceBlock}


@attrs.frozen
class Content:
    """The parts of a message, and the highest rank of its breakpoints."""

    parts: tuple[Part, ...]
    rank: Rank | None = None


def content_of(content: str | Iterable[msgspec.Raw], kinds: Kinds, at: str) -> Content:
    """Convert a message's content, of the kinds its role may use.

    Raises `Fault` and `InvalidRequestError`, which name the place.
    """
    if isinstance(content, str):
        return Content((Text(content),))
    blocks = [(_block(raw, kinds, place), place) for raw, place in _with_paths(content, at)]
    return Content(
        tuple(part for block, place in blocks for part in _parts(block, place)),
        rank_of(block.cache_control for block, _ in blocks),
    )


def rank_of(controls: Iterable[CacheControl | None]) -> Rank | None:
    """Return the highest rank; None without a breakpoint."""
    return max((control.rank for control in controls if control is not None), default=None)


def object_of(raw: msgspec.Raw, at: str) -> str:
    """Return a JSON object as it was written.

    Raises `InvalidRequestError` for other JSON, and for invalid UTF-8.
    """
    encoded = bytes(raw)
    if not encoded.startswith(b"{"):
        raise InvalidRequestError("Input should be an object", at, quotes=False)
    try:
        return encoded.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"not valid UTF-8: {error.reason}", at, quotes=False) from error


def _with_paths(content: Iterable[msgspec.Raw], at: str) -> Iterator[tuple[msgspec.Raw, str]]:
    return ((raw, f"{at}.{index}") for index, raw in enumerate(content))


def _block(raw: msgspec.Raw, kinds: Kinds, at: str) -> AnyBlock:
    name = decode(raw, Typed, at).type
    if name in kinds:
        return decode(raw, kinds[name], at)
    if name in KNOWN:
        raise InvalidRequestError(
            f"{name!r} blocks are not for this place", f"{at}.type", quotes=False
        )
    return decode(raw, OtherBlock, at)


def _parts(block: AnyBlock, at: str) -> Iterator[Part]:
    match block:
        case ThinkingBlock():
            if thought := block.thinking or thought_of(block.signature or ""):
                yield Thinking(thought)
        case ToolUseBlock():
            yield ToolCall(block.id, block.name, object_of(block.input, f"{at}.input"))
        case ToolResultBlock():
            yield _result(block, f"{at}.content")
        case _:
            if (text := _text(block, at)) is not None:
                yield text


def _text(block: AnyBlock, at: str) -> Text | None:
    """Return the text of a block, or its placeholder; None for a block that is left out."""
    match block:
        case TextBlock(text=text):
            return Text(text)
        case SearchResultBlock():
            return Text(
                "\n\n".join(
                    (f"{block.title}\n{block.source}", *(inner.text for inner in block.content))
                )
            )
        case DocumentBlock():
            return _document(block, at)
        case ImageBlock():
            return placeholder_text("image", at)
        case OtherBlock(type=kind) if kind in UNREADABLE:
            return placeholder_text(UNREADABLE[kind], at)
    return None


def _document(block: DocumentBlock, at: str) -> Text:
    place = f"{at}.source"
    kind = decode(block.source, Typed, place).type
    if kind in FILES:
        decode(block.source, FILES[kind], place)
        return placeholder_text("document", at, block.title or "")
    return Text(
        "\n\n".join(
            filter(None, (block.title, block.context, _document_text(block.source, kind, place)))
        )
    )


def _document_text(source: msgspec.Raw, kind: str, at: str) -> str:
    """Return the text of a document that is text."""
    if kind == "text":
        return decode(source, PlainTextSource, at).data
    if kind != "content":
        raise InvalidRequestError(f"{kind!r} is not supported", f"{at}.type")
    content = decode(source, ContentSource, at).content
    return content if isinstance(content, str) else "\n\n".join(block.text for block in content)


def _result(result: ToolResultBlock, at: str) -> ToolResult:
    content = result.content or ""
    if isinstance(content, str):
        return ToolResult(result.tool_use_id, content, bool(result.is_error))
    blocks = [(_block(raw, OF_RESULT, place), place) for raw, place in _with_paths(content, at)]
    texts = [text for block, place in blocks if (text := _text(block, place)) is not None]
    loads = tuple(block.tool_name for block, _ in blocks if isinstance(block, ToolReferenceBlock))
    unread = tuple(text.unread for text in texts if text.unread is not None)
    return ToolResult(
        result.tool_use_id,
        "\n\n".join(text.text for text in texts),
        bool(result.is_error),
        loads,
        unread,
    )
