"""Counts of calls in answers, by format and outcome.

Calls that do not follow their format are logged.
"""

import enum
from collections import Counter

import attrs
import structlog

log = structlog.get_logger(__name__)


class CallOutcome(enum.StrEnum):
    """Outcome of a text that began like a call."""

    READ = "read"
    REPAIRED = "repaired"
    TEXT = "text"
    CUT = "cut"  # pieces were sent as a call, and the call is not whole


@attrs.define(eq=False)
class CallTally:
    """Outcomes of the calls of all answers of one model."""

    is_quiet: bool = False  # nothing is logged: the text comes from a probe, not from a model
    # by format and outcome
    counts: Counter[tuple[str, str]] = attrs.field(init=False, factory=Counter)

    def note(self, form: str, outcome: CallOutcome, repair: str = "") -> None:
        """Count a text that began like a call. `repair`: what was mended."""
        self.counts[form, outcome.value] += 1
        if self.is_quiet:
            return
        if outcome is CallOutcome.REPAIRED:
            log.info("a call was repaired", format=form, repair=repair)
        elif outcome is CallOutcome.CUT:
            log.warning(
                "a call that was announced is no whole call: the answer ends with it", format=form
            )
        elif outcome is CallOutcome.TEXT:
            log.warning(
                "what began as a call is no whole call: it is passed on as text", format=form
            )
