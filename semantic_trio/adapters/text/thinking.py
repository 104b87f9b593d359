"""Delimiters of a model's thoughts in the text it writes.

Knows the delimiters of families of models, and tells them by the words of a chat template and the tokens of a vocabulary, never by a model's name.
Knows nothing of calls.
"""

from collections.abc import Collection

import attrs


@attrs.frozen
class ThinkMarks:
    """The delimiters of a thought, and what stands around it."""

    start: str = "<think>"
    end: str = "</think>"
    gap: str = "\n\n"  # between the end delimiter and what is said then
    pad: str = "\n"  # between a delimiter and the thought
    answer: tuple[str, str] | None = None  # delimiters around what is said after a thought, where they are words and not special tokens

    @property
    def opening(self) -> str:
        """The text before a thought."""
        return f"{self.start}{self.pad}"

    def around(self, thought: str) -> str:
        """A thought as models read it in front of what was said; nothing for none."""
        return f"{self.opening}{thought}{self.pad}{self.end}{self.gap}" if thought else ""

    def closed(self, text: str) -> str:
        """A text that ends with a start delimiter, with the thought ended at once."""
        return f"{text.rstrip()}{self.pad}{self.pad}{self.end}{self.gap}"


HERMES_THINKS = ThinkMarks()
# Delimiters beside `<think>`, each with the words that show them in a template or a vocabulary.
OTHER_MARKS: tuple[tuple[tuple[str, ...], ThinkMarks], ...] = (
    (("<think:opensource>", "</think:opensource>"), ThinkMarks("<think:opensource>", "</think:opensource>")),
    (("<seed:think>", "</seed:think>"), ThinkMarks("<seed:think>", "</seed:think>", "\n", "")),
    (("<|START_THINKING|>", "<|END_THINKING|>"), ThinkMarks("<|START_THINKING|>", "<|END_THINKING|>", "", "")),
    (("<|inner_prefix|>", "<|inner_suffix|>"), ThinkMarks("<|inner_prefix|>", "<|inner_suffix|>", "", "")),
    (("<longcat_think>", "</longcat_think>"), ThinkMarks("<longcat_think>", "</longcat_think>")),
    (("<|think:start|>", "<|think:end|>"), ThinkMarks("<|think:start|>", "<|think:end|>")),
    (("[THINK]", "[/THINK]"), ThinkMarks("[THINK]", "[/THINK]", "", "")),
    (("<|channel>", "<channel|>"), ThinkMarks("<|channel>thought", "<channel|>", "")),
    (("<|open|>", "<|close|>", "<|sep|>"), ThinkMarks("<|open|>think<|sep|>", "<|close|>think<|sep|>", "")),
    (("◁think▷", "◁/think▷"), ThinkMarks("◁think▷", "◁/think▷")),
    (("<|cot_start|>", "<|cot_end|>"), ThinkMarks("<|cot_start|>", "<|cot_end|>")),
    (("<thought>", "</thought>"), ThinkMarks("<thought>", "</thought>")),
)
# Delimiters around what is said after a thought.
ANSWERS = (("<response>", "</response>"), ("<answer>", "</answer>"))


def think_marks(vocabulary: Collection[str], template: str = "") -> ThinkMarks:
    """The delimiters that a chat template names, else those among the tokens of a vocabulary, else `<think>`, which most models have seen."""
    named = next((marks for words, marks in OTHER_MARKS if all(word in template for word in words)), None)
    if named is not None:
        return named
    if "</think>" not in template and not _has(vocabulary, ("<think>", "</think>")):
        found = next((marks for words, marks in OTHER_MARKS if _has(vocabulary, words)), None)
        if found is not None:
            return found
    answer = next((pair for pair in ANSWERS if all(word in template for word in pair) or _has(vocabulary, pair)), None)
    return attrs.evolve(HERMES_THINKS, answer=answer)


def _has(vocabulary: Collection[str], words: tuple[str, ...]) -> bool:
    return all(word in vocabulary for word in words)
