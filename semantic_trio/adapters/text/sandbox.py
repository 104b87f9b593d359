"""What chat templates may do beyond what transformers lets them: change lists of their own, as those of Kimi K2 do."""

import contextlib
from typing import Any

from jinja2.exceptions import TemplateError
from transformers.utils import chat_template_utils

# Methods of lists. A template gets copies of ours, so it changes nothing but what it has made itself.
LIST_METHODS = frozenset({"append", "extend", "insert", "pop"})


def let_lists_change(template: object) -> None:
    """Let a chat template, or each of several by name, call the methods of lists. One that cannot be compiled is left as it is."""
    for text in template.values() if isinstance(template, dict) else [template]:
        with contextlib.suppress(TemplateError):  # rendering it says what is wrong
            _let_change(chat_template_utils._compile_jinja_template(text).environment)


def _let_change(environment: Any) -> None:  # noqa: ANN401 - transformers ships no types
    allows = type(environment).is_safe_attribute

    def is_safe(thing: object, name: str, value: object) -> bool:
        return (type(thing) is list and name in LIST_METHODS) or bool(allows(environment, thing, name, value))

    environment.is_safe_attribute = is_safe
