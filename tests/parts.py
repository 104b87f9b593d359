"""Parts of an answer as they come, put together again."""

from collections.abc import Sequence

from semantic_trio.domain.conversation import (
    AnswerPart,
    CallPiece,
    CutCall,
    Part,
    Text,
    Thinking,
    ToolCall,
)


def joined(parts: Sequence[AnswerPart]) -> list[Part]:
    """Pieces of text and of thought put together, without the pieces of calls; a call that is not
    whole is text, as it was written.
    """
    out: list[Part] = []
    for part in unpieced(parts):
        match out[-1:], part:
            case [Text(before)], Text(more):
                out[-1] = Text(before + more)
            case [Thinking(before)], Thinking(more):
                out[-1] = Thinking(before + more)
            case _:
                out.append(part)
    return out


def unpieced(parts: Sequence[AnswerPart]) -> list[Part]:
    """An answer without the pieces of calls, which have to be the beginning of the call that
    follows them and of nothing else.
    """
    out: list[Part] = []
    told: list[CallPiece] = []
    for part in parts:
        if isinstance(part, CallPiece):
            told.append(part)
            continue
        arguments = "".join(piece.arguments for piece in told)
        if told:
            assert isinstance(part, ToolCall | CutCall), "pieces of a call are followed by its end"
            assert {piece.name for piece in told} == {part.name}
            assert part.arguments.startswith(arguments)
        if isinstance(part, CutCall):
            assert told
            assert part.arguments == arguments
        told = []
        out.append(Text(part.written) if isinstance(part, CutCall) else part)
    assert not told, "a call that was announced has an end"
    return out
