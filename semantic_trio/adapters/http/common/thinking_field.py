"""Thinking in protocols that have one field for all thoughts of an answer."""

import attrs

from semantic_trio.domain.conversation import AnswerPart, Thinking


@attrs.define(eq=False)
class SingleThinkingField:
    """Separates thoughts that do not follow each other by a blank line, as `Message.thinking` does
    in a whole answer.
    """

    _has_thought: bool = False
    _is_within: bool = False  # the last part was a thought

    def separated(self, part: AnswerPart) -> AnswerPart:
        """Return a part, with the blank line in front where it begins a further thought."""
        is_new = isinstance(part, Thinking) and self._has_thought and not self._is_within
        self._is_within = isinstance(part, Thinking)
        self._has_thought = self._has_thought or self._is_within
        return Thinking(f"\n\n{part.text}") if is_new and isinstance(part, Thinking) else part
