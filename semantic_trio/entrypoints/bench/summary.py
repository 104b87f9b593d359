"""Rounds put together: tables of medians with their ranges.

Ratios are taken within a round. What was not measured is not there.
"""

from collections.abc import Mapping, Sequence

from semantic_trio.entrypoints.bench.results import Round, Rows, Spread, Turns
from semantic_trio.entrypoints.printing import counted

# Tables, and the columns that a picture shows.
THROUGHPUT, CONVERSATION, NEIGHBOURS, CONTEXTS = (
    "throughput",
    "conversation",
    "neighbours",
    "contexts",
)
SERVED, BARE, RATIO, IN_TURN = (
    "served, tokens/s",
    "bare, tokens/s",
    "served / bare",
    "at once / in turn",
)
FIRST_TOKEN, GAP = "first token, s", "longest gap, s"

Figures = Mapping[str, Mapping[str, float]]


def summary(rounds: Sequence[Round]) -> dict[str, Rows]:
    """Tables by name: row, column, figure."""
    return {name: _together([table(one) for one in rounds]) for name, table in TABLES.items()}


def _together(tables: Sequence[Figures]) -> Rows:
    values: dict[str, dict[str, list[float]]] = {}
    for table in tables:
        for name, row in table.items():
            for column, value in row.items():
                values.setdefault(name, {}).setdefault(column, []).append(value)
    return {
        name: {column: Spread.of(found) for column, found in row.items()}
        for name, row in values.items()
    }


def _throughput(one: Round) -> Figures:
    table = {}
    for streams, served in one.served.items():
        bare = one.bare.get(streams)
        compared = {BARE: bare.rate, RATIO: served.rate / bare.rate} if bare else {}
        if in_turn := one.in_turn.get(streams):
            compared[IN_TURN] = served.rate / in_turn.rate
        table[counted(streams, "stream")] = {
            SERVED: served.rate,
            **compared,
            "last first token, s": max(served.first_seconds),
        }
    return table


def _conversation(one: Round) -> Figures:
    turns = {
        "first turn": one.turns.cold,
        "next turn": one.turns.next,
        "next turn after a restart": one.turns.restarted,
    }
    return {
        name: {
            FIRST_TOKEN: turn.first_seconds,
            "times faster": one.turns.cold.first_seconds / turn.first_seconds,
            "prompt tokens": turn.prompt_tokens,
            "of them reused": turn.cached_tokens,
        }
        for name, turn in turns.items()
        if turn is not None
    }


def _contexts(one: Round) -> Figures:
    """Conversations by length.

    Both later turns are compared with the first one of the same conversation.
    """
    return {f"about {tokens:,} tokens": _context(turns) for tokens, turns in one.contexts.items()}


def _context(turns: Turns) -> dict[str, float]:
    last, cold = turns.restarted or turns.next, turns.cold.first_seconds
    restarted = (
        {"after a restart, times faster": cold / turns.restarted.first_seconds}
        if turns.restarted
        else {}
    )
    faster = {"next turn, times faster": cold / turns.next.first_seconds, **restarted}
    return {
        FIRST_TOKEN: cold,
        **faster,
        "prompt tokens": last.prompt_tokens,
        "of them reused": last.cached_tokens,
    }


def _neighbours(one: Round) -> Figures:
    found, alone = one.neighbours, one.turns.cold.first_seconds
    if found is None:
        return {}
    long = {
        "prompt tokens": found.prompt_tokens,
        FIRST_TOKEN: found.first_seconds,
        "times as long as alone": found.first_seconds / alone,
    }
    return {
        f"{found.streams} streams alone": {"tokens/s": found.rate_before, GAP: found.gap_before},
        "beside a long prompt": {
            "tokens/s": found.rate_meanwhile,
            GAP: found.gap_meanwhile,
            **long,
        },
    }


TABLES = {
    THROUGHPUT: _throughput,
    CONVERSATION: _conversation,
    CONTEXTS: _contexts,
    NEIGHBOURS: _neighbours,
}
