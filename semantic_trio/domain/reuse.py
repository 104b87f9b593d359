"""The reuse of a turn: the tokens of its prompt that were cached, their source, and the cause of a
miss.

Plain values to report.
"""

import enum

import attrs


class ReuseSource(enum.Enum):
    """Where the reused tokens of a turn were."""

    NONE = "none"
    ROW = "row"  # in the cache of a request that was still running
    RAM = "ram"
    DISK = "disk"  # all or some of them


class MissCause(enum.Enum):
    """Why tokens that were, or could have been, known had to be computed."""

    NEW = "new"  # the agent has no history
    DIVERGED = "diverged"  # the prompt differs from the history of the agent
    EVICTED = "evicted"  # blocks were evicted for other agents
    # the prompt differs from the history of the agent, and chooses thinking differently
    THINKING_CHANGED = "thinking_changed"
    # the agent's history was read with another tokenizer or chat template
    TEMPLATE_CHANGED = "template_changed"
    OTHER_MODEL = "other_model"  # the memory of the agent is that of another model
    # the tokens are cached, but sliding or recurrent layers have no usable snapshot
    NO_RESTORE_POINT = "no_restore_point"
    CORRUPT = "corrupt"  # a file on disk was damaged


@attrs.frozen
class Reuse:
    """The tokens of a prompt that were not computed again."""

    tokens: int = 0  # of the prompt
    prompt_tokens: int = 0
    source: ReuseSource = ReuseSource.NONE
    cause: MissCause | None = None  # None: nothing known was lost
    lost_tokens: int = 0  # of the agent's history, not used


NOTHING_REUSED = Reuse()


@attrs.frozen
class TurnReuse:
    """A turn of an agent: its reuse, and the position where the prompt leaves the history of the
    agent.
    """

    reuse: Reuse
    left_at: int | None = None  # the first position that differs; None: nowhere
    shown_from: int = 0  # position of the first token shown
    stored: tuple[int, ...] = ()  # tokens of the history around that position
    prompt: tuple[int, ...] = ()  # tokens of the prompt around it
