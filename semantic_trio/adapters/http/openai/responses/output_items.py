"""The output items of an answer while they are generated.

Knows parts and items. Knows nothing of events. Leading blanks are held back until text follows: a text of blanks is no item, for clients
send none back.
"""

from collections.abc import Sequence

import attrs

from semantic_trio.adapters.http.openai.common.logprobs import TokenBytes, TokenLogprob, token_logprobs
from semantic_trio.adapters.http.openai.responses.response_object import ItemContent, ItemStatus, OutputItem, output_item
from semantic_trio.domain.conversation import AnswerPart, CallPiece, CutCall, Text, Thinking, ToolCall
from semantic_trio.domain.generation import TokenEvent


@attrs.frozen
class ItemDelta:
    """More of an output item."""

    at: int  # the index of the item in the output
    said: ItemContent
    logprobs: Sequence[TokenLogprob] = ()


@attrs.define
class _Item:
    said: ItemContent
    logprobs: list[TokenLogprob]
    is_open: bool = True  # more may follow; a call that stays open was cut off


@attrs.define(eq=False)
class OutputItems:
    """The output items so far."""

    _stem: str  # of the response
    _customs: frozenset[str] = frozenset()  # names of custom tools, which take text
    _token_bytes: TokenBytes | None = None  # None: no log-probabilities are sent
    _items: list[_Item] = attrs.field(init=False, factory=list)
    _held: list[tuple[ItemContent, tuple[TokenEvent, ...]]] = attrs.field(init=False, factory=list)  # blanks that may begin an item, all of one kind

    def add(self, part: AnswerPart, tokens: tuple[TokenEvent, ...] = ()) -> list[ItemDelta]:
        """Add a part of the answer, with the tokens it was generated as; returns the deltas, none while only blanks have arrived.

        The text of a custom tool is added whole: a text that was cut off could not be recognised.
        """
        match part:
            case ToolCall() | CallPiece() if isinstance(part, ToolCall) or part.name not in self._customs:
                self._held.clear()
                return self._call(part)
            case CutCall() if part.name in self._customs:
                return self._text(Text(part.written), ())
            case Text() | Thinking():
                return self._text(part, tokens)
        return []

    def _call(self, part: ToolCall | CallPiece) -> list[ItemDelta]:
        """Add a whole call, or more of one."""
        last = self._items[-1] if self._items else None
        if last is None or not isinstance(last.said, ToolCall) or not last.is_open:
            piece = self._added(ToolCall(part.id, part.name, part.arguments), ())
            self._items[-1].is_open = isinstance(part, CallPiece)
            return [piece]
        told = last.said.arguments
        more = part.arguments if isinstance(part, CallPiece) else part.arguments[len(told) :]
        last.said, last.is_open = attrs.evolve(last.said, arguments=told + more), isinstance(part, CallPiece)
        return [ItemDelta(len(self._items) - 1, attrs.evolve(last.said, arguments=more))]

    def _text(self, part: Text | Thinking, tokens: tuple[TokenEvent, ...]) -> list[ItemDelta]:
        if self._goes_on(part):
            return [self._more(part, tokens)]
        if self._held and type(self._held[-1][0]) is not type(part):
            self._held.clear()
        self._held.append((part, tokens))
        if not part.text.strip():
            return []
        said = type(part)("".join(held.text for held, _ in self._held if not isinstance(held, ToolCall)))
        drawn = tuple(token for _, tokens in self._held for token in tokens)
        self._held.clear()
        return [self._added(said, drawn)]

    def add_rest(self, tokens: tuple[TokenEvent, ...]) -> None:
        """Add the tokens whose text was held back until the end."""
        if self._items and isinstance(self._items[-1].said, Text):
            self._items[-1].logprobs += self._told(tokens)

    def items(self, last: ItemStatus = "completed") -> tuple[OutputItem, ...]:
        """Return all items; `last` is the status of the last one."""
        return tuple(self.item(at, last if at == len(self._items) - 1 else "completed") for at in range(len(self._items)))

    def item(self, at: int, status: ItemStatus = "completed") -> OutputItem:
        """Return an item as far as it has been generated."""
        item = self._items[at]
        is_whole = isinstance(item.said, ToolCall) and not item.is_open
        return output_item(self._stem, at, item.said, "completed" if is_whole else status, self._customs, tuple(item.logprobs))

    def item_of(self, piece: ItemDelta) -> OutputItem:
        """Return the item of a delta, with nothing but the delta in it."""
        return output_item(self._stem, piece.at, piece.said, "in_progress", self._customs, piece.logprobs)

    def begun(self, piece: ItemDelta) -> OutputItem:
        """Return the item of its first delta, before any content."""
        said = attrs.evolve(piece.said, arguments="") if isinstance(piece.said, ToolCall) else attrs.evolve(piece.said, text="")
        return self.item_of(ItemDelta(piece.at, said))

    def _goes_on(self, part: Text | Thinking) -> bool:
        return not self._held and bool(self._items) and type(self._items[-1].said) is type(part)

    def _more(self, part: Text | Thinking, tokens: tuple[TokenEvent, ...]) -> ItemDelta:
        item, told = self._items[-1], self._told(tokens)
        assert not isinstance(item.said, ToolCall)
        item.said = attrs.evolve(item.said, text=item.said.text + part.text)
        item.logprobs += told
        return ItemDelta(len(self._items) - 1, part, told)

    def _added(self, said: ItemContent, tokens: tuple[TokenEvent, ...]) -> ItemDelta:
        told = self._told(tokens)
        self._items.append(_Item(said, list(told)))
        return ItemDelta(len(self._items) - 1, said, told)

    def _told(self, tokens: tuple[TokenEvent, ...]) -> list[TokenLogprob]:
        return token_logprobs(tokens, self._token_bytes) if self._token_bytes is not None else []
