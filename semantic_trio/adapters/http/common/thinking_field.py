"""Thoughts on wires that have one field for all thoughts of an answer."""

import attrs

from semantic_trio.domain.conversation import AnswerPart, Thinking


@attrs.define(eq=False)
class SingleThinkingField:
    """Puts a blank line between thoughts that something stands between, as `Message.thinking` does in a whole answer."""

    _has_thought: bool = False
    _is_within: bool = False  # the last part was one of a thought

    def passed(self, part: AnswerPart) -> AnswerPart:
        """A part as it is to be told."""
        is_new = isinstance(part, Thinking) and self._has_thought and not self._is_within
        self._is_within = isinstance(part, Thinking)
        self._has_thought = self._has_thought or self._is_within
        return Thinking(f"\n\n{part.text}") if is_new and isinstance(part, Thinking) else part
