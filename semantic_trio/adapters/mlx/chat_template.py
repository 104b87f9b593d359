"""mlx-lm's chat templates, which are programs: the only place that imports them.

Imports no arrays of its own and may be used from any thread.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import attrs


@attrs.frozen
class ChatProgram:
    """A chat template of mlx-lm."""

    source: str
    apply: Callable[..., str]


def chat_program(tokenizer: Any) -> ChatProgram | None:  # noqa: ANN401 - transformers ships no types
    """The chat template that a tokenizer's configuration names by `chat_template_type`; None where
    it names none, or one that only describes answers.

    Raises `ValueError` for a name that mlx-lm does not know.
    """
    kind = tokenizer.init_kwargs.get("chat_template_type")
    if kind is None:
        return None
    if not str(kind).isidentifier():
        raise ValueError(f"chat_template_type is {kind!r}, which is no name")
    try:
        module = importlib.import_module(f"mlx_lm.chat_templates.{kind}")
    except ImportError as error:
        raise ValueError(
            f"mlx-lm has no chat template of the type {kind!r}, which tokenizer_config.json names"
        ) from error
    apply = getattr(module, "apply_chat_template", None)
    return None if apply is None else ChatProgram(inspect.getsource(module), apply)
