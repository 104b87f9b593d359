"""Counts of what became of calls in answers, by format; what is not as the format has it is logged."""

import enum
from collections import Counter

import attrs
import structlog

log = structlog.get_logger(__name__)


class Outcome(enum.StrEnum):
    """Outcome of a text that began as a call."""

    READ = "read"
    REPAIRED = "repaired"
    TEXT = "text"
    CUT = "cut"  # pieces of it were told as a call, and it is no whole one


@attrs.define(eq=False)
class CallTally:
    """Outcomes of the calls of all answers of one model."""

    is_quiet: bool = False  # nothing is logged: what is read was not written by a model
    counts: Counter[tuple[str, str]] = attrs.field(init=False, factory=Counter)  # by format and outcome

    def note(self, form: str, outcome: Outcome, repair: str = "") -> None:
        """Count a text that began as a call. `repair`: what was mended."""
        self.counts[form, outcome.value] += 1
        if self.is_quiet:
            return
        if outcome is Outcome.REPAIRED:
            log.info("a call was repaired", format=form, repair=repair)
        elif outcome is Outcome.CUT:
            log.warning("a call that was announced is no whole call: the answer ends with it", format=form)
        elif outcome is Outcome.TEXT:
            log.warning("what began as a call is no whole call: it is passed on as text", format=form)
