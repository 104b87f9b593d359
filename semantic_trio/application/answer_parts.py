"""Parts of an answer put together: pieces are joined, and an incomplete call is text."""

import itertools
from collections.abc import Iterable, Sequence
from typing import TypeVar

import attrs

from semantic_trio.domain.conversation import (
    AnswerPart,
    CallPiece,
    CutCall,
    Part,
    Text,
    Thinking,
)
from semantic_trio.domain.generation import Failed, Finished, FinishReason

AnswerEvent = AnswerPart | Finished | Failed
Piece = TypeVar("Piece", Part, AnswerEvent)


def broken(end: Finished) -> Finished:
    """Return the end of an answer with an incomplete last call, so that no client takes the call
    for a complete one.
    """
    is_cut = end.reason in {FinishReason.MAX_TOKENS, FinishReason.CONTEXT_FULL}
    return end if is_cut else attrs.evolve(end, reason=FinishReason.BROKEN_CALL, stop_string=None)


def with_cut(parts: Sequence[Part], cut: CutCall | None) -> tuple[Part, ...]:
    """Return the parts of an answer, and behind them the incomplete call as text."""
    return tuple(parts) if cut is None else tuple(joined([*parts, Text(cut.written)]))


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Return pieces in order, with neighbouring pieces of text joined, and those of thoughts."""
    whole: list[Piece] = []
    for kind, run in itertools.groupby(pieces, type):
        if issubclass(kind, Text | Thinking):
            whole.append(
                kind("".join(piece.text for piece in run if isinstance(piece, Text | Thinking)))
            )
        else:
            whole.extend(run)
    return whole


def with_calls_joined(events: Sequence[AnswerEvent]) -> list[AnswerEvent]:
    """Return events in order, with neighbouring pieces of a call joined."""
    whole: list[AnswerEvent] = []
    for event in events:
        last = whole[-1] if whole else None
        if isinstance(event, CallPiece) and isinstance(last, CallPiece):
            whole[-1] = attrs.evolve(last, arguments=last.arguments + event.arguments)
        else:
            whole.append(event)
    return whole
