"""All agents of one model: found by their ids, or by what they have read.

Knows names and histories. Knows nothing of blocks' content or of budgets.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Container, Iterator

import attrs

from semantic_trio.domain.agent import CONTENT_ID_START, Agent, agent_id
from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun
from semantic_trio.domain.errors import AgentExistsError, AgentNotFoundError, InvalidRequestError
from semantic_trio.domain.salt import Salt
from semantic_trio.domain.step import BlockKey


@attrs.define(eq=False)
class Agents:
    """The register of agents.

    Agents that are not kept make place for new ones, least recently used first.

    Removed agents are listed for `take_removed`: the caller of a verb that may remove agents also
    removes their traces elsewhere.
    """

    limit: int
    elsewhere: Container[str] = ()  # ids of agents that other models remember
    # Ids of agents whose records on disk a newer version has written: these stay as they are.
    newer: Container[str] = ()
    # ids of agents that are kept on disk and found no place here
    crowded_out: set[str] = attrs.field(init=False, factory=set)
    text_fingerprint: str = ""  # of the tokenizer and chat template
    # least recently used first
    _all: OrderedDict[str, Agent] = attrs.field(init=False, factory=OrderedDict)
    # by the last whole block of what they are recognised by
    _by_prompt: dict[BlockKey, dict[str, Agent]] = attrs.field(init=False, factory=dict)
    _place: dict[str, BlockKey] = attrs.field(init=False, factory=dict)
    _removed: list[Agent] = attrs.field(init=False, factory=list)
    _count: int = attrs.field(init=False, default=0)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._all.values())

    def get(self, name: str) -> Agent:
        """The agent of an id. Raises `AgentNotFoundError`."""
        agent = self._all.get(name)
        if agent is None:
            raise AgentNotFoundError(name)
        return agent

    def find(self, name: str) -> Agent | None:
        """The agent of an id, if there is one."""
        return self._all.get(name)

    def create(self, name: str, *, parent: str | None = None) -> Agent:
        """A new agent a client has named.

        Raises `AgentExistsError`, and `InvalidRequestError` for what is no id or where agents that
        are kept fill the register.
        """
        if name in self._all or self.is_apart(name):
            raise AgentExistsError(name)
        return self._add(
            Agent(
                agent_id(name),
                is_named=True,
                is_kept=True,
                parent=parent,
                is_elsewhere=name in self.elsewhere,
            )
        )

    def get_or_create(self, name: str) -> Agent:
        """Return the agent of an id, created if there is none.

        Raises `InvalidRequestError` for what is no id, and `AgentNotFoundError` for that of an
        agent which was known by its content and is gone. One that is made here makes room for
        others like one nobody has named: clients mint ids for every conversation and never come
        back to them.
        """
        known = self._all.get(name)
        if known is None and name.startswith(CONTENT_ID_START):
            raise AgentNotFoundError(name)
        return known or self._add(
            Agent(agent_id(name), is_named=True, is_elsewhere=name in self.elsewhere)
        )

    def recognise(self, run: TokenRun) -> Agent:
        """Return the unnamed agent whose last prompt is the longest prefix of this prompt, or a new
        agent.

        Named agents are left out: the conversation of another client would be taken for theirs.
        """
        for key in (*reversed(run.keys), run.root):
            known = [
                agent
                for agent in self._by_prompt.get(key, {}).values()
                if run.packed.startswith(agent.recognised_by)
            ]
            if known:
                return max(known, key=lambda agent: agent.prompt_tokens)
        return self._add(Agent(self._new_id(run), is_named=False))

    def is_apart(self, name: str) -> bool:
        """True if the record of an id on disk is not to be touched: its agent is not known here,
        and may be wanted by another version or start.
        """
        return name in self.newer or name in self.crowded_out

    def fits(self, text_fingerprint: str) -> bool:
        """True if what was read under a fingerprint has the tokens that the same text has today.

        Blocks are named by tokens and stay valid; which tokens a text has, and so who has read it,
        is known under one fingerprint only.
        """
        return text_fingerprint == self.text_fingerprint

    def unlisted(self, *, is_deleted: bool) -> Agent:
        """An agent for one turn: it takes no place in the register, no id leads to it, and nothing
        of it is written to disk.

        If it `is_deleted`, its blocks go with its row; else they stay in RAM until they are
        evicted.
        """
        return Agent("", is_named=False, is_deleted=is_deleted)

    def remember(self, agent: Agent, run: TokenRun, history: bytes, salt: Salt) -> None:
        """An agent has read a prompt, or the beginning of it, and after it what else is in its
        history now; all under one salt.

        Nobody is recognised by a beginning: that may be what all agents share. Who was recognised
        before stays known by the prompt it has read whole.
        """
        self.touch(agent)
        is_whole = len(history) >= len(run.packed)
        if not is_whole and agent.id in self._place:
            return
        agent.history, agent.salt, agent.prompt_tokens = (
            history,
            salt,
            min(len(run), len(history) // TOKEN_BYTES),
        )
        agent.text_fingerprint = self.text_fingerprint
        self._unplace(agent)
        if is_whole and not agent.is_named and agent.is_listed:
            self._recognise_by(agent, run)

    def adopt(self, agent: Agent, prompt: TokenRun) -> bool:
        """Take in an agent of an earlier process. Returns True if there was room for it.

        One whose history does not fit keeps it, for its blocks to be deleted with it, but no prompt
        is recognised by it.
        """
        if agent.id in self._all or self._add(agent) is not agent or not agent.is_listed:
            return False
        if agent.history and not agent.is_named and self.fits(agent.text_fingerprint):
            self._recognise_by(agent, prompt)
        return True

    def _new_id(self, run: TokenRun) -> str:
        """An id nobody has.

        Agents of earlier processes were counted from 1 too, and may have begun with the same
        prompt.
        """
        while True:
            self._count += 1
            digest = hashlib.sha256(f"{self._count}/".encode() + run.packed).hexdigest()
            name = f"{CONTENT_ID_START}{digest[:24]}"
            if name not in self._all and not self.is_apart(name):
                return name

    def _recognise_by(self, agent: Agent, prompt: TokenRun) -> None:
        self._place[agent.id] = prompt.last_key
        self._by_prompt.setdefault(self._place[agent.id], {})[agent.id] = agent

    def leave(self, agent: Agent) -> None:
        """Note that a turn of an agent is over.

        An agent without a name that has read no prompt to its end is removed: it could never be
        recognised.
        """
        agent.open_turns -= 1
        is_somebody = agent.is_named or agent.is_pinned or agent.id in self._place
        if agent.is_listed and not (agent.open_turns or is_somebody):
            self.remove(agent)

    def touch(self, agent: Agent) -> None:
        """An agent was used."""
        if agent.is_listed:
            self._all.move_to_end(agent.id)

    def remove(self, agent: Agent) -> None:
        """Remove an agent from the register."""
        del self._all[agent.id]
        agent.is_listed = False
        self._unplace(agent)
        agent.disown_all()
        self._removed.append(agent)

    def take_removed(self) -> list[Agent]:
        """Return the agents that were removed since the last call."""
        removed, self._removed = self._removed, []
        return removed

    def _add(self, agent: Agent) -> Agent:
        assert agent.id not in self._all, "an id is one agent's"
        if len(self._all) >= self.limit:
            oldest = next(
                (
                    one
                    for one in self._all.values()
                    if not (one.is_kept or one.is_pinned or one.open_turns or one.rows)
                ),
                None,
            )
            if oldest is None and agent.is_kept:
                raise InvalidRequestError(
                    f"{self.limit} agents are kept, and no more may be; delete one first",
                    "agent",
                    quotes=False,
                )
            if oldest is None:
                return agent  # works for this turn; nobody could ask for it later
            self.remove(oldest)
        self._all[agent.id], agent.is_listed = agent, True
        return agent

    def _unplace(self, agent: Agent) -> None:
        key = self._place.pop(agent.id, None)
        if key is not None:
            self._by_prompt[key].pop(agent.id)
            if not self._by_prompt[key]:
                del self._by_prompt[key]
