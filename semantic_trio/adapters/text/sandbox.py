"""Sandbox of chat templates: they may change lists of their own, as those of Kimi K2 do, and may
not tell a time that passes.
"""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from jinja2.exceptions import TemplateError
from transformers.utils import chat_template_utils

# Methods of lists. A template gets copies of ours, so it changes nothing but what it has made
# itself.
LIST_METHODS = frozenset({"append", "extend", "insert", "pop"})


def let_lists_change(template: object) -> None:
    """Let a chat template, or each of several by name, call the methods of lists.

    One that cannot be compiled is left as it is.
    """
    for environment in _environments(template):
        _let_change(environment)


def stop_time(template: object, now: datetime) -> None:
    """Have a chat template, or each of several by name, write one date for good: gpt-oss's and
    others' write today's at the front of every prompt.

    With the time that passes, no conversation would find its front in memory on the next day.
    """
    for environment in _environments(template):
        environment.globals["strftime_now"] = now.strftime


def _environments(template: object) -> Iterator[Any]:
    for text in template.values() if isinstance(template, dict) else [template]:
        with contextlib.suppress(TemplateError):  # rendering it says what is wrong
            yield chat_template_utils._compile_jinja_template(text).environment


def _let_change(environment: Any) -> None:  # noqa: ANN401 - transformers ships no types
    allows = type(environment).is_safe_attribute

    def is_safe(thing: object, name: str, value: object) -> bool:
        return (type(thing) is list and name in LIST_METHODS) or bool(
            allows(environment, thing, name, value)
        )

    environment.is_safe_attribute = is_safe
