"""The output items of an answer while they are generated.

Knows parts and items. Knows nothing of events. Leading blanks are held back until text follows: a
text of blanks is no item, for clients send none back.
"""

from collections.abc import Sequence

import attrs

from semantic_trio.adapters.http.openai.common.logprobs import (
    TokenBytes,
    TokenLogprob,
    token_logprobs,
)
from semantic_trio.adapters.http.openai.responses.response_object import (
    ItemContent,
    ItemStatus,
    OutputItem,
    output_item,
)
from semantic_trio.domain.conversation import (
    AnswerPart,
    CallPiece,
    CutCall,
    Text,
    Thinking,
    ToolCall,
)
from semantic_trio.domain.generation import TokenEvent


@attrs.frozen
class ItemDelta:
    """More of an output item."""

    at: int  # the index of the item in the output
    content: ItemContent
    logprobs: Sequence[TokenLogprob] = ()


@attrs.define
class _Item:
    content: ItemContent
    logprobs: list[TokenLogprob]
    is_open: bool = True  # more may follow; a call that stays open was cut off


@attrs.define(eq=False)
class OutputItems:
    """The output items so far."""

    _stem: str  # of the response
    _customs: frozenset[str] = frozenset()  # names of custom tools, which take text
    _token_bytes: TokenBytes | None = None  # None: no log-probabilities are sent
    _items: list[_Item] = attrs.field(init=False, factory=list)
    _held_back: list[tuple[ItemContent, tuple[TokenEvent, ...]]] = attrs.field(
        init=False, factory=list
    )  # blanks that may begin an item, all of one kind

    def add(self, part: AnswerPart, tokens: tuple[TokenEvent, ...] = ()) -> list[ItemDelta]:
        """Add a part of the answer, with the tokens it was generated as; returns the deltas, none
        while only blanks have arrived.

        The text of a custom tool is added whole: a text that was cut off could not be recognised.
        """
        match part:
            case ToolCall() | CallPiece() if (
                isinstance(part, ToolCall) or part.name not in self._customs
            ):
                self._held_back.clear()
                return self._call(part)
            case CutCall() if part.name in self._customs:
                return self._text(Text(part.written), ())
            case Text() | Thinking():
                return self._text(part, tokens)
        return []

    def _call(self, part: ToolCall | CallPiece) -> list[ItemDelta]:
        """Add a whole call, or more of one."""
        last = self._items[-1] if self._items else None
        if last is None or not isinstance(last.content, ToolCall) or not last.is_open:
            piece = self._append_item(ToolCall(part.id, part.name, part.arguments), ())
            self._items[-1].is_open = isinstance(part, CallPiece)
            return [piece]
        known = last.content.arguments
        more = part.arguments if isinstance(part, CallPiece) else part.arguments[len(known) :]
        last.content, last.is_open = (
            attrs.evolve(last.content, arguments=known + more),
            isinstance(part, CallPiece),
        )
        return [ItemDelta(len(self._items) - 1, attrs.evolve(last.content, arguments=more))]

    def _text(self, part: Text | Thinking, tokens: tuple[TokenEvent, ...]) -> list[ItemDelta]:
        if self._continues(part):
            return [self._append(part, tokens)]
        if self._held_back and type(self._held_back[-1][0]) is not type(part):
            self._held_back.clear()
        self._held_back.append((part, tokens))
        if not part.text.strip():
            return []
        content = type(part)(
            "".join(
                held_back.text
                for held_back, _ in self._held_back
                if not isinstance(held_back, ToolCall)
            )
        )
        drawn = tuple(token for _, tokens in self._held_back for token in tokens)
        self._held_back.clear()
        return [self._append_item(content, drawn)]

    def add_rest(self, tokens: tuple[TokenEvent, ...]) -> None:
        """Add the tokens whose text was held back until the end."""
        if self._items and isinstance(self._items[-1].content, Text):
            self._items[-1].logprobs += self._logprobs(tokens)

    def items(self, last: ItemStatus = "completed") -> tuple[OutputItem, ...]:
        """Return all items; `last` is the status of the last one."""
        return tuple(
            self.item(at, last if at == len(self._items) - 1 else "completed")
            for at in range(len(self._items))
        )

    def item(self, at: int, status: ItemStatus = "completed") -> OutputItem:
        """Return an item as far as it has been generated."""
        item = self._items[at]
        is_whole = isinstance(item.content, ToolCall) and not item.is_open
        return output_item(
            self._stem,
            at,
            item.content,
            "completed" if is_whole else status,
            self._customs,
            tuple(item.logprobs),
        )

    def item_of(self, piece: ItemDelta) -> OutputItem:
        """Return the item of a delta, with nothing but the delta in it."""
        return output_item(
            self._stem, piece.at, piece.content, "in_progress", self._customs, piece.logprobs
        )

    def begun(self, piece: ItemDelta) -> OutputItem:
        """Return the item of its first delta, before any content."""
        content = (
            attrs.evolve(piece.content, arguments="")
            if isinstance(piece.content, ToolCall)
            else attrs.evolve(piece.content, text="")
        )
        return self.item_of(ItemDelta(piece.at, content))

    def _continues(self, part: Text | Thinking) -> bool:
        return (
            not self._held_back
            and bool(self._items)
            and type(self._items[-1].content) is type(part)
        )

    def _append(self, part: Text | Thinking, tokens: tuple[TokenEvent, ...]) -> ItemDelta:
        item, logprobs = self._items[-1], self._logprobs(tokens)
        assert not isinstance(item.content, ToolCall)
        item.content = attrs.evolve(item.content, text=item.content.text + part.text)
        item.logprobs += logprobs
        return ItemDelta(len(self._items) - 1, part, logprobs)

    def _append_item(self, content: ItemContent, tokens: tuple[TokenEvent, ...]) -> ItemDelta:
        logprobs = self._logprobs(tokens)
        self._items.append(_Item(content, list(logprobs)))
        return ItemDelta(len(self._items) - 1, content, logprobs)

    def _logprobs(self, tokens: tuple[TokenEvent, ...]) -> list[TokenLogprob]:
        return token_logprobs(tokens, self._token_bytes) if self._token_bytes is not None else []
