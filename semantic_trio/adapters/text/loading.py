"""Codec of the model in a directory: its tokenizer, its chat template, and the delimiters in it.

Imports no MLX and uses no network.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import attrs
from tokenizers import Tokenizer

from semantic_trio.adapters.text.alphabet import longest_token_bytes
from semantic_trio.adapters.text.capabilities import probe
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.fingerprint import text_fingerprint
from semantic_trio.adapters.text.formats.hermes import HERMES
from semantic_trio.adapters.text.formats.table import Foreign, formats
from semantic_trio.adapters.text.generic import RESULT, Definition
from semantic_trio.adapters.text.guard import Guard
from semantic_trio.adapters.text.harmony import HarmonyTemplate, harmony
from semantic_trio.adapters.text.harmony_syntax import CALL, RETURN
from semantic_trio.adapters.text.imported import ImportedTemplate, Program
from semantic_trio.adapters.text.parts import fitting
from semantic_trio.adapters.text.sandbox import let_lists_change, stop_time
from semantic_trio.adapters.text.syntax import ToolSyntax
from semantic_trio.adapters.text.template import ChatTemplate
from semantic_trio.adapters.text.thinking import ThoughtDelimiters, thought_delimiters
from semantic_trio.adapters.text.tiktoken import has_tiktoken_layout, tiktoken_tokenizer
from semantic_trio.adapters.text.turns import NO_SWITCHES, Render, Switches, Turn
from semantic_trio.adapters.text.written_calls import calling
from semantic_trio.domain.errors import ModelNotFoundError

# Transformers advises at import to install a framework it is not used with here.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from transformers import AutoTokenizer, PreTrainedTokenizerFast

# Fields of a tokenizer's configuration that say how a program of its own makes it.
OF_PROGRAMS = ("auto_map", "tokenizer_class", "added_tokens_decoder")
# Finds the parser that mlx-lm names for the calls of a tokenizer's model; None where it names none.
FindParser = Callable[[PreTrainedTokenizerFast], Foreign | None]
# Finds the chat template that the configuration of a tokenizer names beside Jinja's; None where it
# names none.
FindProgram = Callable[[PreTrainedTokenizerFast], Program | None]


def load_codec(
    path: Path,
    find_parser: FindParser = lambda tokenizer: None,
    find_program: FindProgram = lambda tokenizer: None,
) -> TokenizerCodec:
    """Return the codec of the model in a directory, without network access.

    Raises `ModelNotFoundError` when there is no usable tokenizer.
    """
    tokenizer, stops = _tokenizer(path)
    backend = tokenizer.backend_tokenizer
    try:
        program = find_program(tokenizer)
        template = _template(tokenizer, find_parser(tokenizer), program)
    except ValueError as error:
        raise ModelNotFoundError(
            str(path),
            (
                f"its chat template does not work ({error}): put one that does into "
                "chat_template.jinja"
            ),
        ) from error
    ends = (
        {backend.token_to_id(end) for end in (CALL, RETURN)}
        if isinstance(template, HarmonyTemplate)
        else set()
    )
    stops |= {tokenizer.eos_token_id, *ends} - {None}
    return TokenizerCodec(
        tokenizer=backend,
        template=template,
        beginning=tokenizer.bos_token or "",
        silent=_silent(backend, template),
        stop_tokens=stops,
        fingerprint=text_fingerprint(tokenizer, stops, program.source if program else ""),
        longest_token_bytes=longest_token_bytes(backend),
    )


def _tokenizer(path: Path) -> tuple[PreTrainedTokenizerFast, frozenset[int]]:
    """Return the tokenizer in a directory, which neither truncates nor pads, and the stop tokens of
    the model's configuration.
    """
    try:
        tokenizer, stops = (
            _pretrained(path),
            frozenset(_stop_tokens(path)),
        )
    # the library below raises nothing narrower for a file it cannot read
    except Exception as error:
        raise ModelNotFoundError(
            str(path), f"its tokenizer cannot be loaded: {str(error).partition(chr(10))[0]}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelNotFoundError(
            str(path),
            (
                f"its tokenizer is a {type(tokenizer).__name__}, which the tokenizers library "
                "cannot run"
            ),
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # some tokenizer.json carry the lengths their models were trained with
    backend.no_padding()
    return tokenizer, stops


def _pretrained(path: Path) -> object:
    """Return the tokenizer in a directory. No program in it is executed."""
    if has_tiktoken_layout(path):
        return _converted(path)
    program = _program(path)
    if not program:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if not (path / "tokenizer.json").is_file():
        raise ValueError(
            f"it is the program {program}, which is not executed: convert it into a tokenizer.json"
        )
    return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)


def _program(path: Path) -> str:
    """Return the program that a tokenizer's configuration names; empty for none."""
    file = path / "tokenizer_config.json"
    named = (json.loads(file.read_text()) if file.is_file() else {}).get("auto_map") or {}
    found = named.get("AutoTokenizer") if isinstance(named, dict) else named
    return " or ".join(map(str, filter(None, found if isinstance(found, list) else [found])))


def _converted(path: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a directory in tiktoken's layout, with the rest of its
    configuration.
    """
    config = json.loads((path / "tokenizer_config.json").read_text())
    for name in OF_PROGRAMS:
        config.pop(name, None)
    with TemporaryDirectory() as directory:
        tiktoken_tokenizer(path).save(str(Path(directory) / "tokenizer.json"))
        (Path(directory) / "tokenizer_config.json").write_text(json.dumps(config))
        for template in path.glob("*.jinja"):
            shutil.copy(template, directory)
        return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)


def _template(
    tokenizer: PreTrainedTokenizerFast, parser: Foreign | None, program: Program | None
) -> ChatTemplate | HarmonyTemplate | None:
    def render(
        turns: Sequence[Turn],
        tools: Sequence[Definition] = (),
        *,
        speak: bool = True,
        switches: Switches = NO_SWITCHES,
    ) -> str:
        given = list(tools) or None
        return cast(
            str,
            tokenizer.apply_chat_template(
                list(turns), given, tokenize=False, add_generation_prompt=speak, **switches
            ),
        )

    if program is not None:
        words = program.source
        delimiters, syntaxes = (
            thought_delimiters(tokenizer.get_vocab(), words),
            formats(words, parser),
        )
        return _chat_template(
            tokenizer, ImportedTemplate(program.apply, delimiters), words, delimiters, syntaxes
        )
    if not tokenizer.chat_template:
        return None
    let_lists_change(tokenizer.chat_template)
    stop_time(tokenizer.chat_template, datetime.now().astimezone())
    render = fitting(render)
    backend, words = tokenizer.backend_tokenizer, _text_of(tokenizer)
    spoken = harmony(render, words, Guard.of(backend, words))
    if spoken is not None:
        return spoken
    delimiters, syntaxes = thought_delimiters(tokenizer.get_vocab(), words), formats(words, parser)
    return _chat_template(tokenizer, render, words, delimiters, syntaxes)


def _chat_template(
    tokenizer: PreTrainedTokenizerFast,
    render: Render,
    words: str,
    delimiters: ThoughtDelimiters,
    syntaxes: tuple[ToolSyntax, ...],
) -> ChatTemplate:
    """Return the template of a model; `words`: its text."""
    render = calling(render, delimiters, syntaxes)
    made = ChatTemplate(render, delimiters, probe(render, delimiters, syntaxes), syntaxes)
    guard = Guard.of(
        tokenizer.backend_tokenizer,
        f"{words} {made.output_delimiters} {HERMES.start} {HERMES.end} {RESULT}",
    )
    return attrs.evolve(made, guard=guard)


def _text_of(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the text of all chat templates of a model; some models have a separate one for
    tools.
    """
    templates = tokenizer.chat_template
    return (
        "\n".join(map(str, templates.values())) if isinstance(templates, dict) else str(templates)
    )


def _silent(
    tokenizer: Tokenizer, template: ChatTemplate | HarmonyTemplate | None
) -> frozenset[int]:
    """Special tokens that are no text: all but the delimiters of thoughts and calls."""
    delimiters = template.output_delimiters if template else ""
    return frozenset(
        number
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special and token.content not in delimiters
    )


def _stop_tokens(path: Path) -> Iterator[int]:
    """Token ids that end a turn, from the model's configuration files."""
    for name in ("config.json", "generation_config.json"):
        file = path / name
        config = json.loads(file.read_text()) if file.is_file() else {}
        for part in (config, config.get("text_config") or {}):
            ids = part.get("eos_token_id")
            yield from ids if isinstance(ids, list) else [] if ids is None else [ids]
