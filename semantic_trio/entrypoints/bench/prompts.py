"""Prompts of random words.

A seed and a name make one text; texts of other seeds or names have no beginning in common that
could be cached.
"""

import random

import attrs

# Common words: most tokenizers have one token for each of them.
WORDS = (
    "river stone light garden paper window cloud field bridge song winter table horse market water "
    "road kitchen letter mountain island"
)
STORY_WORDS, QUESTION_WORDS = 60, 20
STORY = "{}. Write a very long story in which these words occur. Do not stop early."
OPENING = "{}. Remember these words. Which of them would you keep?"
QUESTION = "Here are more: {}. Which of them were there before?"


@attrs.frozen
class Prompts:
    """Prompts of one round."""

    seed: str

    def story(self, *name: object) -> str:
        """A prompt of about 100 tokens with a long answer."""
        return STORY.format(self._words(STORY_WORDS, "story", *name))

    def opening(self, words: int, *name: object) -> str:
        """A prompt of so many words with a short answer."""
        return OPENING.format(self._words(words, "opening", *name))

    def question(self, *name: object) -> str:
        """A next message of a conversation."""
        return QUESTION.format(self._words(QUESTION_WORDS, "question", *name))

    def _words(self, count: int, *name: object) -> str:
        return " ".join(random.Random(f"{self.seed} {name}").choices(WORDS.split(), k=count))  # noqa: S311 - no secrets
