"""Agents: who remembers what, and why a turn could or could not use it.

Knows histories as tokens, turns and names. Knows nothing of blocks' content or of budgets.
"""

import re

import attrs

from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun, common_tokens, unpack
from semantic_trio.domain.conversation import NOTHING_SAID, Conversation, ThinkingChoice
from semantic_trio.domain.entries import Block, Owner, Snapshot
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.reuse import MissCause, Reuse, ReuseSource, TurnReuse
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.step import BlockKey

AGENT_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}")
# Tokens shown on either side of the position where a prompt left its agent's history.
SHOWN_TOKENS = 16


# Ids of the server's own making begin with a dot, and those that clients choose do not: neither can
# be taken for the other.
OWN_ID_START = "."
CONTENT_ID_START = f"{OWN_ID_START}auto-"  # of an agent that is known by its content
CLIENT_ID = re.compile(rf"(?!\{OWN_ID_START}){AGENT_ID.pattern}")


def agent_id(given: str) -> str:
    """The id of an agent that may exist.

    Raises `InvalidRequestError` for one that could not be a file's name.
    """
    if not AGENT_ID.fullmatch(given):
        raise InvalidRequestError(
            (
                "an agent's id has 1 to 128 of the characters A-Z a-z 0-9 . _ - and is neither . "
                "nor .."
            ),
            "agent",
            quotes=False,
        )
    return given


def client_id(given: str) -> str:
    """An id that a client chooses for an agent.

    Raises `InvalidRequestError` for what is no id, and for one that only the server can make.
    """
    if given.startswith(OWN_ID_START) and AGENT_ID.fullmatch(given):
        raise InvalidRequestError(
            "ids that begin with a dot are the server's own; choose one that does not",
            "agent",
            quotes=False,
        )
    return agent_id(given)


@attrs.define(eq=False)
class Agent(Owner):
    """An agent: its history in tokens, and the blocks and snapshots that hold this history."""

    is_named: bool  # by a client; others are known by their content alone
    is_kept: bool = False  # a client has created or forked it: it stays until it is deleted
    parent: str | None = None  # id of the agent it was forked from
    conversation: Conversation = NOTHING_SAID  # of stateful turns
    history: bytes = b""  # packed tokens
    text_fingerprint: str = ""  # of the tokenizer and chat template the history was read with
    # choice of the last turn's prompt; None: not known, or no part of the prompt
    thinking: ThinkingChoice | None = None
    salt: Salt = NO_SALT  # of the names of the blocks of its history
    # of the last turn's prompt: the part of the history a client is sure to repeat
    prompt_tokens: int = 0
    # blocks it has read in an earlier process, beside its history
    strays: frozenset[BlockKey] = frozenset()
    # ids of the responses of the Responses API that it has read or given
    responses: set[str] = attrs.field(factory=set)
    pinned: list[Block] = attrs.field(factory=list)
    pinned_snapshot: Snapshot | None = None
    is_pinned: bool = False
    is_listed: bool = False  # requests can find it; an agent they cannot find owns nothing
    is_deleted: bool = False  # the blocks of its rows are discarded when these close
    open_turns: int = 0  # requests that wait or run
    rows: int = 0  # live rows that work for it
    turns: int = 0  # that have ended
    last_turn: TurnReuse | None = None
    is_elsewhere: bool = False  # its memory is that of another model

    @property
    def tokens(self) -> int:
        """Length of its history."""
        return len(self.history) // TOKEN_BYTES

    @property
    def held(self) -> list[Block]:
        """Blocks of the agent, in order of position."""
        return sorted(self.blocks.values(), key=lambda block: block.start)

    @property
    def recognised_by(self) -> bytes:
        """Packed tokens that a prompt has to begin with to be recognised as this agent's next
        turn.
        """
        return self.history[: self.prompt_tokens * TOKEN_BYTES]


def explain(  # noqa: PLR0913  # the outcome of a match, which has no other reader
    agent: Agent,
    run: TokenRun,
    reused: int,
    known: int,
    source: ReuseSource,
    *,
    thinking: ThinkingChoice | None = None,
    is_damaged: bool = False,
    fits: bool = True,
) -> TurnReuse:
    """Return the reuse of a turn and the cause of its cache miss.

    `known`: tokens of the prompt that any agent remembers. `thinking`: the choice that the prompt
    was written with. `is_damaged`: some of the known tokens were found damaged. `fits`: the agent's
    history was read with today's tokenizer and chat template.
    """
    alike = common_tokens(agent.history, run.packed)
    left_at = alike if alike < min(agent.tokens, len(run)) else None
    if not agent.history:
        cause, lost = _new(agent, reused, len(run)), 0
    elif left_at is not None and not fits:
        cause, lost = MissCause.TEMPLATE_CHANGED, agent.tokens - min(reused, left_at)
    elif reused < (reachable := min(alike, len(run) - 1)):
        gone = MissCause.CORRUPT if is_damaged else MissCause.EVICTED
        cause, lost = (
            (MissCause.NO_RESTORE_POINT if known >= reachable else gone),
            reachable - reused,
        )
    else:
        cause, lost = (
            (None, 0) if left_at is None else (_diverged(agent, thinking), agent.tokens - left_at)
        )
    return _turn(
        agent,
        run,
        Reuse(reused, len(run), source if reused else ReuseSource.NONE, cause, lost),
        left_at,
    )


def _new(agent: Agent, reused: int, prompt_tokens: int) -> MissCause | None:
    """Return why an agent without history missed; None where its prompt was known anyway."""
    if reused >= prompt_tokens - 1:
        return None
    return MissCause.OTHER_MODEL if agent.is_elsewhere else MissCause.NEW


def _diverged(agent: Agent, thinking: ThinkingChoice | None) -> MissCause:
    """Return the reason why a prompt differs from the history of its agent."""
    has_changed = None not in (agent.thinking, thinking) and agent.thinking != thinking
    return MissCause.THINKING_CHANGED if has_changed else MissCause.DIVERGED


def _turn(agent: Agent, run: TokenRun, reuse: Reuse, left_at: int | None) -> TurnReuse:
    """A turn with the tokens around the position where its prompt left the agent's history."""
    if left_at is None:
        return TurnReuse(reuse)
    first, last = (
        max(left_at - SHOWN_TOKENS, 0) * TOKEN_BYTES,
        (left_at + SHOWN_TOKENS) * TOKEN_BYTES,
    )
    return TurnReuse(
        reuse,
        left_at,
        first // TOKEN_BYTES,
        unpack(agent.history[first:last]),
        unpack(run.packed[first:last]),
    )
