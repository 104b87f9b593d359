"""Delimiters of a model's thoughts in the text it writes.

Knows the delimiters of families of models, and finds them by the text of a chat template and the
tokens of a vocabulary, never by a model's name. Knows nothing of calls.
"""

from collections.abc import Collection

import attrs


@attrs.frozen
class ThoughtDelimiters:
    """Delimiters of a thought and the text around them."""

    start: str = "<think>"
    end: str = "</think>"
    gap: str = "\n\n"  # between the end delimiter and the answer
    pad: str = "\n"  # between a delimiter and the thought
    # delimiters around the answer, where they are words and not special tokens
    answer: tuple[str, str] | None = None

    @property
    def opening(self) -> str:
        """Text before a thought."""
        return f"{self.start}{self.pad}"

    def around(self, thought: str) -> str:
        """Return a thought as it stands before an answer; empty for an empty thought."""
        return f"{self.opening}{thought}{self.pad}{self.end}{self.gap}" if thought else ""

    def closed(self, text: str) -> str:
        """Return a text that ends with a start delimiter, with an empty thought closed."""
        return f"{text.rstrip()}{self.pad}{self.pad}{self.end}{self.gap}"


HERMES_THINKS = ThoughtDelimiters()
# Delimiters other than `<think>`, each with the words that announce them in a template or a
# vocabulary.
OTHER_DELIMITERS: tuple[tuple[tuple[str, ...], ThoughtDelimiters], ...] = (
    (
        ("<think:opensource>", "</think:opensource>"),
        ThoughtDelimiters("<think:opensource>", "</think:opensource>"),
    ),
    (
        ("<seed:think>", "</seed:think>"),
        ThoughtDelimiters("<seed:think>", "</seed:think>", "\n", ""),
    ),
    (
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ThoughtDelimiters("<|START_THINKING|>", "<|END_THINKING|>", "", ""),
    ),
    (
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        ThoughtDelimiters("<|inner_prefix|>", "<|inner_suffix|>", "", ""),
    ),
    (
        ("<longcat_think>", "</longcat_think>"),
        ThoughtDelimiters("<longcat_think>", "</longcat_think>"),
    ),
    (("<|think:start|>", "<|think:end|>"), ThoughtDelimiters("<|think:start|>", "<|think:end|>")),
    (("[THINK]", "[/THINK]"), ThoughtDelimiters("[THINK]", "[/THINK]", "", "")),
    (("<|channel>", "<channel|>"), ThoughtDelimiters("<|channel>thought", "<channel|>", "")),
    (
        ("<|open|>", "<|close|>", "<|sep|>"),
        ThoughtDelimiters("<|open|>think<|sep|>", "<|close|>think<|sep|>", ""),
    ),
    (("◁think▷", "◁/think▷"), ThoughtDelimiters("◁think▷", "◁/think▷")),
    (("<|cot_start|>", "<|cot_end|>"), ThoughtDelimiters("<|cot_start|>", "<|cot_end|>")),
    (("<thought>", "</thought>"), ThoughtDelimiters("<thought>", "</thought>")),
)
# Delimiters around the answer that follows a thought.
ANSWERS = (("<response>", "</response>"), ("<answer>", "</answer>"))


def thought_delimiters(vocabulary: Collection[str], template: str = "") -> ThoughtDelimiters:
    """Return the delimiters of a model's thoughts.

    Those that its chat template names come first, then those in its vocabulary, then `<think>`,
    which most models have seen.
    """
    named = next(
        (
            delimiters
            for words, delimiters in OTHER_DELIMITERS
            if all(word in template for word in words)
        ),
        None,
    )
    if named is not None:
        return named
    if "</think>" not in template and not _has(vocabulary, ("<think>", "</think>")):
        found = next(
            (delimiters for words, delimiters in OTHER_DELIMITERS if _has(vocabulary, words)), None
        )
        if found is not None:
            return found
    answer = next(
        (
            pair
            for pair in ANSWERS
            if all(word in template for word in pair) or _has(vocabulary, pair)
        ),
        None,
    )
    return attrs.evolve(HERMES_THINKS, answer=answer)


def _has(vocabulary: Collection[str], words: tuple[str, ...]) -> bool:
    return all(word in vocabulary for word in words)
