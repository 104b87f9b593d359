"""Grammars by llguidance: which tokens may come next, so that an answer has the form that was
demanded.

Knows one tokenizer and grammars in llguidance's dialect of Lark. Knows nothing of calls or schemas.
Imports no arrays.
"""

import functools
import json
import re
from collections.abc import Collection

import attrs
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from semantic_trio.domain.errors import GrammarError

# What names of special tokens begin with to llguidance: a character that is none.
UNWRITTEN = "\U0010fffd"
# Compiled grammars that are kept: an agent asks with the same ones turn after turn.
MOST_KEPT = 256
# Characters of the library's complaint that are shown; the rest of it is the grammar, and before it
# stands a place in that.
LONGEST_REASON = 200
PLACE = re.compile(r"\Aat \d+\(\d+\): (failed to compile JSON schema: )?")


@attrs.define(eq=False)
class MatcherState:
    """A `GrammarState` over llguidance's matcher."""

    _matcher: LLMatcher

    def allowed(self) -> bytes:
        """See `GrammarState.allowed`."""
        mask: bytes = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise GrammarError(first_line(self._matcher.get_error()))
        return mask

    def take(self, token: int) -> None:
        """See `GrammarState.take`. A token after the end changes nothing."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


@attrs.frozen(eq=False)
class CompiledGrammar:
    """A `Grammar` that was compiled for one tokenizer."""

    _matcher: LLMatcher  # never advanced

    def start(self) -> MatcherState:
        """See `Grammar.start`."""
        return MatcherState(self._matcher.deep_copy())


@attrs.frozen(eq=False)
class Guidance:
    """Compiles grammars for one tokenizer."""

    _tokenizer: Tokenizer
    words: LLTokenizer  # the same as llguidance knows it

    @classmethod
    def of(cls, tokenizer: Tokenizer, ends: Collection[int]) -> "Guidance":
        """Build the guidance of a tokenizer; `ends` end an answer. Takes half a second."""
        return cls(tokenizer, LLTokenizer(_without_names(tokenizer), eos_token=sorted(ends)))

    @functools.cached_property
    def specials(self) -> dict[str, int]:
        """Special tokens by what they look like in text: text that looks the same is not them."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {
            token.content: number
            for number, token in added.items()
            if self.words.is_special_token(number)
        }

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token's text; of a special token its name, nothing for a number
        that is no token.
        """
        if not 0 <= token < self.words.vocab_size:
            return b""
        name: str | None = self._tokenizer.id_to_token(token)
        if self.words.is_special_token(token):
            return (name or "").encode()
        found: bytes = self.words.decode_bytes([token])
        return found

    @functools.cached_property
    def complaint(self) -> "functools._lru_cache_wrapper[tuple[str, list[str]]]":
        """Function of a grammar: its error, empty where there is none, and the parts that are not
        understood and left out.
        """
        return functools.lru_cache(MOST_KEPT)(self._complaint)

    @functools.cached_property
    def compile(self) -> "functools._lru_cache_wrapper[CompiledGrammar]":
        """Function that compiles a grammar.

        Raises `GrammarError` where there is something wrong with it. Takes up to a second, without
        the interpreter's lock.
        """
        return functools.lru_cache(MOST_KEPT)(self._compiled)

    def _complaint(self, lark: str) -> tuple[str, list[str]]:
        try:
            return "", self._matcher(lark).get_grammar_warnings()
        except GrammarError as error:
            return error.reason, []

    def _compiled(self, lark: str) -> CompiledGrammar:
        return CompiledGrammar(self._matcher(lark))

    def _matcher(self, lark: str) -> LLMatcher:
        matcher = LLMatcher(self.words, lark, log_level=0)
        # its lexer is made when it is first asked, and some grammars have a flaw that shows then
        matcher.compute_bitmask()
        if matcher.is_error():
            raise GrammarError(first_line(matcher.get_error()))
        return matcher


def _without_names(tokenizer: Tokenizer) -> str:
    """The tokenizer with special tokens that no text looks like: text of a schema that looks like
    one is to be spelled as text.
    """
    settings = json.loads(tokenizer.to_str())
    names: dict[str, str] = {}
    for token in settings["added_tokens"]:
        if token["special"]:
            names[token["content"]] = token["content"] = f"{UNWRITTEN}{token['id']}"
    vocabulary = settings["model"]["vocab"]
    if isinstance(vocabulary, dict):
        settings["model"]["vocab"] = {
            names.get(name, name): number for name, number in vocabulary.items()
        }
    else:
        settings["model"]["vocab"] = [[names.get(name, name), score] for name, score in vocabulary]
    settings["post_processor"] = None
    return json.dumps(settings, ensure_ascii=False)


def first_line(complaint: str) -> str:
    """Return the library's complaint without the place in our grammar, and without the grammar that
    it repeats.
    """
    return PLACE.sub("", complaint.partition("\n")[0])[:LONGEST_REASON]
