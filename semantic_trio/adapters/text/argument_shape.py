"""Form in which a chat template writes the arguments of a call one by one, found by trying the
template.

Knows only what comes out of the template. Templates that write all arguments as one JSON object
have no such shape.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence

import attrs

# Names and values that stand in no template.
ONE, OTHER = "probe-one", "probe-other"
WORD, CODE, NUMBER = "alpha-word", "alpha <word>\n&amp;", 1234567
# The beginning of a tag that a text ends within.
UNENDED_TAG = re.compile(r"<[^>]*\Z")


@attrs.frozen
class ArgumentShape:
    """Delimiters around the names and values of arguments."""

    # from the end of the tool's name to the first argument, or to the end of a call without
    # arguments
    lead: str
    before: str  # in front of an argument's name
    text: tuple[str, str]  # between the name and a value that is a text, and behind that value
    other: tuple[str, str]  # the same around a value of another type, which is written as JSON
    between: str  # between two arguments
    is_quoted: bool  # texts are JSON strings, like all other values
    nests: bool = False  # arrays and objects are written like the arguments themselves, not as JSON

    @property
    def is_typed(self) -> bool:
        """True if the delimiters tell whether a value is a text."""
        return self.text[0] != self.other[0]

    @property
    def barred(self) -> tuple[str, ...]:
        """The texts that a value which is written as it is cannot hold: those that end it, and
        those that begin another argument.
        """
        return tuple(
            dict.fromkeys(
                text for one in (self.text[1], self.other[1], self.before) if (text := one.strip())
            )
        )

    def written(self, arguments: Mapping[str, object]) -> str:
        """Return the text between a tool's name and the end of its call."""
        return self.lead + self.between.join(
            self._one(name, value) for name, value in arguments.items()
        )

    def _one(self, name: str, value: object) -> str:
        is_raw = isinstance(value, str) and not self.is_quoted
        start, end = self.text if isinstance(value, str) else self.other
        text = value if is_raw else json.dumps(value, ensure_ascii=False)
        return f"{self.before}{name}{start}{text}{end}"


def argument_shape(written: Callable[[Mapping[str, object]], str]) -> ArgumentShape | None:
    """The shape in which a template writes arguments, None where it has none; `written`: of
    arguments, the template's text from a tool's name on.
    """
    nothing, one, number = written({}), written({ONE: WORD}), written({ONE: NUMBER})
    front, found, rest = one.partition(ONE)
    lead = UNENDED_TAG.sub("", common_front([nothing, front]))
    close, before = nothing[len(lead) :], front[len(lead) :]
    start, _, end = rest.partition(WORD)
    other_start, _, other_end = number.partition(ONE)[2].partition(str(NUMBER))
    if not (found and end.endswith(close) and other_end.endswith(close)):
        return None
    ends = [text[: len(text) - len(close)] for text in (end, other_end)]
    is_quoted = start.endswith('"') and ends[0].startswith('"')
    texts = (start[:-1], ends[0][1:]) if is_quoted else (start, ends[0])
    # some formats have other delimiters for such texts, which fit all texts
    if CODE in (coded := written({ONE: CODE})):
        texts = (
            coded.partition(ONE)[2].partition(CODE)[0],
            coded.partition(CODE)[2].removesuffix(close),
        )
    shape = ArgumentShape(lead, before, texts, (other_start, ends[1]), "", is_quoted)
    both = written({ONE: WORD, OTHER: WORD}).partition(WORD)[2].partition(OTHER)[0]
    between = both.removeprefix(end[: len(end) - len(close)]).removesuffix(before)
    shape = attrs.evolve(
        shape, between=between, nests=f'"{OTHER}"' not in written({ONE: {OTHER: 0}})
    )
    sample: dict[str, object] = {ONE: NUMBER, OTHER: NUMBER}
    return shape if shape.written(sample) + close == written(sample) else None


def common_front(texts: Sequence[str]) -> str:
    """Return the longest text that all texts begin with."""
    differs = (at for at, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1)
    return texts[0][: next(differs, min(map(len, texts)))]
