"""The identity of a request: the agent it names, by the first of the names that is given.

Knows headers and fields of bodies. Knows nothing of agents' memory, which recognises unnamed agents
by the content.
"""

import hashlib
from typing import Annotated

import attrs
import msgspec

from semantic_trio.domain.agent import CLIENT_ID, OWN_ID_START, agent_id, client_id
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.salt import NO_SALT, Salt, salt_of

# Pattern as far as JSON Schema can say it; `client_id` checks the rest.
AgentId = Annotated[str, msgspec.Meta(pattern=rf"^{CLIENT_ID.pattern}$")]
# Opaque text: requests with different salts, or with one and without, never share blocks.
CacheSalt = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
AGENT_HEADER = "X-Agent-ID"
SUBAGENT_HEADER = "x-claude-code-agent-id"
SESSION_HEADERS = ("x-claude-code-session-id", "x-session-id")
# Precedes the session's id in the user ids of older clients.
SESSION_PART = "_session_"
DIGEST_CHARACTERS = 32


@attrs.frozen
class Identity:
    """The agent of a request."""

    agent: str | None = None  # None: the agent that has read the beginning of the prompt
    is_ordered: bool = False  # the request waits for earlier requests of its agent
    salt: Salt = NO_SALT  # salt that the client asks for; none: that of the agent


ANONYMOUS = Identity()


def identify(
    headers: dict[str, str],
    *,
    session_id: str | None = None,
    prompt_cache_key: str | None = None,
    user_id: object = None,
    cache_salt: str | None = None,
) -> Identity:
    """Return the identity of a request that does not name its agent in the URL.

    `user_id` is Anthropic's `metadata.user_id`, of any type.

    Raises `InvalidRequestError` for a malformed id in a field of this server. Ids in fields that
    clients use for other purposes are never refused: they are hashed where they are no valid agent
    id.
    """
    identity = _identity(headers, session_id, prompt_cache_key, user_id)
    return attrs.evolve(identity, salt=salt_of(cache_salt)) if cache_salt else identity


def _identity(
    headers: dict[str, str], session_id: str | None, prompt_cache_key: str | None, user_id: object
) -> Identity:
    if session_id is not None:
        return Identity(client_chosen_id(session_id, "session_id"), is_ordered=True)
    if prompt_cache_key:
        return Identity(_id_of(prompt_cache_key))
    if named := headers.get(AGENT_HEADER.lower()):
        return Identity(client_chosen_id(named, AGENT_HEADER), is_ordered=True)
    session, subagent = _session(headers, user_id), headers.get(SUBAGENT_HEADER)
    # A session alone is no agent: the main conversation, its title and its token counts share it.
    return Identity(_id_of(session, subagent)) if session and subagent else ANONYMOUS


def client_chosen_id(given: str, field: str) -> str:
    """Return an agent id chosen by a client. Raises `InvalidRequestError` that names the field."""
    try:
        return client_id(given)
    except InvalidRequestError as error:
        raise attrs.evolve(error, field=field) from None


def agent_id_in_url(name: str) -> str:
    """Return the agent id of a URL. Raises `InvalidRequestError` for what cannot be one."""
    try:
        return agent_id(name)
    except InvalidRequestError as error:
        raise attrs.evolve(error, field="agent_id") from None


def _session(headers: dict[str, str], user_id: object) -> str | None:
    given = (_session_of_user(user_id), *(headers.get(name) for name in SESSION_HEADERS))
    return next((session for session in given if session), None)


def _session_of_user(user_id: object) -> str | None:
    """Return the session in a user id: JSON with a `session_id`, or `user_..._session_<id>`; of
    another format, all of it.
    """
    if not isinstance(user_id, str):
        return None
    try:
        decoded = msgspec.json.decode(user_id) if user_id.startswith("{") else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        decoded = None
    if isinstance(decoded, dict) and isinstance(decoded.get("session_id"), str):
        return str(decoded["session_id"])
    _, _, session = user_id.rpartition(SESSION_PART)
    return session


def _id_of(*parts: str) -> str:
    """Return an agent id made of foreign ids: joined by dots where that is a valid and unambiguous
    id, else a digest.
    """
    joined = ".".join(parts)
    if CLIENT_ID.fullmatch(joined) and (len(parts) == 1 or joined.count(".") == len(parts) - 1):
        return joined
    return (
        f"{OWN_ID_START}id-"
        + hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:DIGEST_CHARACTERS]
    )
