"""What requests and answers of each protocol are made of, as far as a prompt and its bill go.

Knows the wires as clients speak them. Knows nothing of this server's code: what it thinks is equal
is what the meter holds the server to.
"""

import abc
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import httpx

BILLING_HEADER = "x-anthropic-billing-header:"
COUNT_SECONDS = 60.0
Json = dict[str, Any]
Said = tuple[int, str, Json]  # number of the message, role, a piece of what it says


@attrs.frozen
class Bill:
    """Tokens of one request."""

    prompt: int  # read or remembered
    reused: int  # remembered
    said: int  # answered


class Wire(abc.ABC):
    """One protocol."""

    path: str

    @abc.abstractmethod
    def head(self, asked: Json) -> Json:
        """What stands before the messages."""

    @abc.abstractmethod
    def blocks(self, asked: Json) -> list[Said]:
        """Everything that is said, as far as it means something."""

    @abc.abstractmethod
    def bill(self, usage: Json) -> Bill | None:
        """The tokens of a request; None where an answer does not tell them."""

    @abc.abstractmethod
    def count(self, server: str, asked: Json, blocks: Sequence[Said]) -> int:
        """Tokens of the prompt of a request that would have said no more than these blocks."""

    def usage(self, told: Json) -> Json:
        """The usage in an answer, or in an event of one."""
        return told.get("usage") or {}


class Messages(Wire):
    """Anthropic's Messages."""

    path = "/v1/messages"

    def head(self, asked: Json) -> Json:
        return {
            "system": [
                block
                for block in _blocks(asked.get("system") or [])
                if not block["text"].startswith(BILLING_HEADER)
            ],
            "tools": [
                _plain(tool) for tool in asked.get("tools") or [] if not tool.get("defer_loading")
            ],
        }

    def blocks(self, asked: Json) -> list[Said]:
        messages = _late_systems_first(enumerate(asked["messages"]))
        return [
            (number, message["role"], block)
            for number, message in messages
            for block in _blocks(message["content"])
        ]

    def usage(self, told: Json) -> Json:
        return told.get("usage") or told.get("message", {}).get("usage") or {}

    def bill(self, usage: Json) -> Bill | None:
        if "output_tokens" not in usage:
            return None
        reused = int(usage.get("cache_read_input_tokens") or 0)
        read = sum(usage.get(name) or 0 for name in ("input_tokens", "cache_creation_input_tokens"))
        return Bill(reused + read, reused, int(usage["output_tokens"]))

    def count(self, server: str, asked: Json, blocks: Sequence[Said]) -> int:
        groups = itertools.groupby(blocks, key=lambda said: said[:2])
        messages = [
            {"role": role, "content": [block for _, _, block in group]}
            for (_, role), group in groups
        ]
        fields = {
            name: asked[name] for name in ("model", "system", "tools", "thinking") if name in asked
        } | {"messages": messages}
        return int(
            httpx.post(f"{server}{self.path}/count_tokens", json=fields, timeout=COUNT_SECONDS)
            .raise_for_status()
            .json()["input_tokens"]
        )


class OpenAI(Wire):
    """What OpenAI's protocols share.

    There is nothing to ask for a count, so one token is asked for: for the meter to do when a test
    is over.
    """

    limit: str  # the field that bounds an answer

    def count(self, server: str, asked: Json, blocks: Sequence[Said]) -> int:
        fields = {
            name: value
            for name, value in asked.items()
            if name not in {"stream", "stream_options", "session_id", "prompt_cache_key"}
        }
        answer = httpx.post(
            f"{server}{self.path}",
            json=fields | {self.limit: 1} | self.cut(asked, len(blocks)),
            timeout=COUNT_SECONDS,
        )
        bill = self.bill(self.usage(answer.raise_for_status().json()))
        assert bill is not None
        return bill.prompt

    @abc.abstractmethod
    def cut(self, asked: Json, length: int) -> Json:
        """The field with the first so many blocks."""


class Chat(OpenAI):
    """OpenAI's Chat Completions.

    A block is a message: what is changed in one counts from its start.
    """

    path = "/v1/chat/completions"
    limit = "max_tokens"

    def head(self, asked: Json) -> Json:
        return {name: asked.get(name) for name in ("tools", "response_format")}

    def blocks(self, asked: Json) -> list[Said]:
        return [
            (number, message["role"], _plain(message) | _content(message))
            for number, message in enumerate(asked["messages"])
        ]

    def bill(self, usage: Json) -> Bill | None:
        if "completion_tokens" not in usage:
            return None
        return Bill(
            usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
            usage["completion_tokens"],
        )

    def cut(self, asked: Json, length: int) -> Json:
        return {"messages": asked["messages"][:length]}


class Responses(OpenAI):
    """OpenAI's Responses, of clients that send everything each time. A block is an item."""

    path = "/v1/responses"
    limit = "max_output_tokens"

    def head(self, asked: Json) -> Json:
        return {name: asked.get(name) for name in ("instructions", "tools", "text")}

    def blocks(self, asked: Json) -> list[Said]:
        items = (
            [{"role": "user", "content": asked["input"]}]
            if isinstance(asked["input"], str)
            else asked["input"]
        )
        return [
            (number, _speaker(item), item | _content(item)) for number, item in enumerate(items)
        ]

    def usage(self, told: Json) -> Json:
        return told.get("usage") or (told.get("response") or {}).get("usage") or {}

    def bill(self, usage: Json) -> Bill | None:
        if "output_tokens" not in usage:
            return None
        return Bill(
            usage["input_tokens"],
            usage["input_tokens_details"]["cached_tokens"],
            usage["output_tokens"],
        )

    def cut(self, asked: Json, length: int) -> Json:
        return {"input": asked["input"][:length], "store": False}


WIRES = {wire.path: wire for wire in (Messages(), Chat(), Responses())}


def _late_systems_first(messages: Iterable[tuple[int, Json]]) -> list[tuple[int, Json]]:
    """System messages behind the first message of the user put before it: they are equal in all
    sessions of a project, its words are not.
    """
    first, *rest = messages
    late = (
        [*itertools.takewhile(lambda message: message[1]["role"] == "system", rest)]
        if first[1]["role"] == "user"
        else []
    )
    return [*late, first, *rest[len(late) :]]


def _plain(block: Json) -> Json:
    return {name: value for name, value in block.items() if name != "cache_control"}


def _blocks(content: Any) -> list[Json]:
    return (
        [{"type": "text", "text": content}]
        if isinstance(content, str)
        else [_plain(block) for block in content]
    )


def _content(message: Json) -> Json:
    """A text in one piece is the same as that text."""
    match message.get("content"):
        case [{"text": str(text)}]:
            return {"content": text}
    return {}


def _speaker(item: Json) -> str:
    """Of an item that is no message: what the model has made is the assistant's, what came of it a
    tool's.
    """
    return str(item.get("role") or ("tool" if item["type"].endswith("_output") else "assistant"))
