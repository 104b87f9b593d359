"""Settings that Claude Code needs to talk with this server, and a way to start it with them.

Knows the names of its settings and asks the running server for their values. Knows nothing of what
is served beyond that.
"""

import contextlib
import http.client
import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from typing import NoReturn
from urllib.parse import urlsplit

import attrs
import msgspec

from semantic_trio.domain.authority import authority
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.settings import Settings

# The most it lets the model say in one answer: by default 32,000 tokens for a name it does not
# know, minutes on a small machine.
OUTPUT_TOKENS, OUTPUT_SHARE = 8192, 8
# It compacts when an answer and 13,000 tokens more would not fit, and begins anew with some 17,000:
# with less it would compact at every turn.
LEAST_CONTEXT = 49_152
ANSWER_SECONDS = 10.0
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - an address to listen on is none to talk to
# Options that choose how tools are permitted, or start a run in which nobody can be asked.
CHOOSE_MODE = frozenset({"--permission-mode", "--dangerously-skip-permissions", "-p", "--print"})
# Of an interactive start it is "auto" otherwise, which asks the server whether each command is
# safe. Newer versions show it as "manual".
ASKING_MODE = ("--permission-mode", "default")
# Would be sent beside the token, and belongs to somebody else.
FOREIGN_KEY = "ANTHROPIC_API_KEY"


class _Model(msgspec.Struct):
    id: str
    max_input_tokens: int | None  # None: the model was never loaded


class _Models(msgspec.Struct):
    data: list[_Model]


@attrs.frozen
class Served:
    """A running server, as far as its clients have to know it."""

    url: str
    key: str | None
    model: str
    context_length: int  # tokens

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of Claude Code, by name."""
        others = {
            f"ANTHROPIC_DEFAULT_{size}_MODEL": self.model
            for size in ("FABLE", "OPUS", "SONNET", "HAIKU")
        }
        return {
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_AUTH_TOKEN": self.key or "local",
            "ANTHROPIC_MODEL": self.model,
            **others,
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(self.context_length),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(
                min(OUTPUT_TOKENS, self.context_length // OUTPUT_SHARE)
            ),
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }

    @property
    def doubts(self) -> list[str]:
        """Problems to expect, in lines for people."""
        doubts = []
        if self.context_length < LEAST_CONTEXT:
            doubts.append(
                f"a context of {self.context_length:,} tokens is small: with less than "
                f"{LEAST_CONTEXT:,} Claude Code compacts all the time"
            )
        if self.model.startswith("claude-"):
            doubts.append(
                f"Claude Code takes {self.model} for a hosted model and ignores the context "
                "length; serve it under another name"
            )
        return doubts


def default_url(settings: Settings) -> str:
    """Address at which a server with these settings is reached from this machine."""
    return f"http://{authority(ANYWHERE.get(settings.host, settings.host), settings.port)}"


def ask(url: str, key: str | None) -> Served:
    """Return the model that the server at a URL serves.

    Raises `InvalidRequestError` when it does not answer.
    """
    place = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    try:
        with contextlib.closing(
            kind(place.hostname or "", place.port, timeout=ANSWER_SECONDS)
        ) as connection:
            connection.request(
                "GET", f"{_path(place.path)}/v1/models", headers={"x-api-key": key} if key else {}
            )
            with connection.getresponse() as response:
                status, body = response.status, response.read()
        if status == http.client.UNAUTHORIZED:
            raise InvalidRequestError(
                (
                    f"{url} wants another API key: set SEMANTIC_API_KEY or api_key_file as for the "
                    "server"
                ),
                field="api_key",
            )
        model = msgspec.json.decode(body, type=_Models).data[0]
    except (
        OSError,
        ValueError,
        http.client.HTTPException,
        msgspec.DecodeError,
        IndexError,
    ) as error:
        raise InvalidRequestError(
            f"no semantic-trio answers at {url} ({error}): start one with `semantic-trio serve`",
            field="url",
        ) from error
    if model.max_input_tokens is None:
        raise InvalidRequestError(
            f"{model.id} is not loaded, and its context length is unknown: send it a request first",
            field="url",
        )
    return Served(
        f"{place.scheme}://{place.netloc}{_path(place.path)}", key, model.id, model.max_input_tokens
    )


def _path(path: str) -> str:
    """The path of a base URL as Claude Code wants it: it appends `/v1` itself."""
    return path.rstrip("/").removesuffix("/v1")


def as_exports(variables: Mapping[str, str]) -> str:
    """Lines for a shell."""
    return "\n".join(
        [
            f"unset {FOREIGN_KEY}",
            *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        ]
    )


def as_json(variables: Mapping[str, str]) -> str:
    """The part of Claude Code's `settings.json`."""
    return json.dumps({"env": dict(variables)}, indent=2)


def arguments_in_force(arguments: Sequence[str]) -> tuple[str, ...]:
    """Arguments for Claude Code, with a permission mode that a local model can serve where they
    choose none.
    """
    chosen = any(argument.partition("=")[0] in CHOOSE_MODE for argument in arguments)
    return tuple(arguments) if chosen else (*ASKING_MODE, *arguments)


def start(variables: Mapping[str, str], arguments: Sequence[str]) -> NoReturn:
    """Become Claude Code. Raises `InvalidRequestError` when it is not installed."""
    path = shutil.which("claude")
    if path is None:
        raise InvalidRequestError(
            "is not on the PATH: npm install -g @anthropic-ai/claude-code", field="claude"
        )
    inherited = {name: value for name, value in os.environ.items() if name != FOREIGN_KEY}
    os.execve(path, ["claude", *arguments], {**inherited, **variables})  # noqa: S606 - the user's own command
