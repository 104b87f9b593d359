"""Every setting by name, with its default and its bounds.

Knows nothing of where values come from: `settings_loading` reads them.
"""

import enum
from pathlib import Path

import attrs
import platformdirs
import typed_settings as ts

from semantic_trio.domain.content import ImportTrust
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.geometry import BLOCK_SIZES, BLOCK_TOKENS
from semantic_trio.domain.priority import BACKGROUND_WAIT_SECONDS
from semantic_trio.domain.quantisation import AS_COMPUTED, KV_BITS
from semantic_trio.entrypoints.model_tables import Tables
from semantic_trio.entrypoints.setting_validators import (
    aliases,
    between,
    collector_address,
    context_tokens,
    daemon_address,
    one_of,
    origins,
)


class LogFormat(enum.StrEnum):
    """Format of log lines."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(enum.StrEnum):
    """The least grave line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@attrs.frozen(kw_only=True)
class Settings:
    """Settings of a server process. Units are in the names."""

    host: str = ts.option(default="127.0.0.1", help="Address to listen on.")
    port: int = ts.option(
        default=8000, validator=between(0, 65535), help="Port to listen on; 0 takes a free one."
    )
    allow_remote: bool = ts.option(
        default=False, help="Listen beyond this machine. Needs an API key."
    )
    allowed_hosts: tuple[str, ...] = ts.option(
        default=(), help="Host names, beyond loopback and `host`, that requests may name."
    )
    allowed_origins: tuple[str, ...] = ts.option(
        default=(),
        validator=origins,
        help=(
            "Origins of web pages, beyond loopback and `allowed_hosts`, that may send requests: "
            "scheme://host:port."
        ),
    )
    api_key: ts.SecretStr | None = ts.option(
        default=None, help="Key every request must carry; better given by file or environment."
    )
    api_key_file: Path | None = ts.option(
        default=None, help="File whose first line is the API key."
    )
    model_id: str = ts.option(
        default="smollm2-135m", help="Model to serve: a built-in name, a directory, or a Hub id."
    )
    models: tuple[str, ...] = ts.option(
        default=(),
        help=(
            "More models, loaded when a request names them: built-in names, directories, or Hub "
            "ids that are on this machine."
        ),
    )
    aliases: tuple[str, ...] = ts.option(
        default=(),
        validator=aliases,
        help=(
            "Other names of models: alias=model; an alias that ends with * stands for all names "
            "that begin so."
        ),
    )
    adapters_dir: Path | None = ts.option(
        default=None,
        help="Directory of adapters (LoRA), each in a directory of its name, for requests to name.",
    )
    max_models: int = ts.option(
        default=0,
        validator=between(0, 1000),
        help="Models that are loaded at the same time; 0: any number.",
    )
    models_budget_mb: int = ts.option(
        default=0,
        validator=between(0, 1 << 40),
        help=(
            "Memory for all loaded models, weights and KV caches, in MiB; 0: what the machine has."
        ),
    )
    model_idle_seconds: float = ts.option(
        default=0.0,
        validator=between(0, 31_536_000),
        help="Time without a request after which a model is unloaded; 0: never.",
    )
    data_dir: Path = ts.option(
        factory=lambda: Path(platformdirs.user_data_dir("semantic_trio")),
        help="Where models are kept.",
    )
    cache_dir: Path = ts.option(
        factory=lambda: Path(platformdirs.user_cache_dir("semantic_trio")),
        help="Where the memory of agents is kept.",
    )
    context_length: int = ts.option(
        default=0,
        validator=context_tokens,
        help="Most tokens of a conversation, answer included; 0: what the model was made for.",
    )
    max_batch_size: int = ts.option(
        default=0,
        validator=between(0, 256),
        help="Requests that generate at the same time; 0: what suits the device.",
    )
    prefill_step_size: int = ts.option(
        default=0,
        validator=between(0, 65536),
        help="Most prompt tokens read in one step; 0: what suits the device.",
    )
    num_draft_tokens: int = ts.option(
        default=0,
        validator=between(0, 64),
        help=(
            "Most tokens that are drafted for a request in one step, from what it has read; 0: "
            "none."
        ),
    )
    max_decode_stall_ms: float = ts.option(
        default=250.0,
        validator=between(1, 60_000),
        help="Most that reading prompts may lengthen a step of those who generate.",
    )
    batch_window_ms: float = ts.option(
        default=10.0, validator=between(1, 1000), help="How long an idle engine waits for company."
    )
    cache_budget_mb: int = ts.option(
        default=0,
        validator=between(0, 16_777_216),
        help=(
            "Memory for the KV cache of conversations, running and past, in MiB; 0: what suits the "
            "device."
        ),
    )
    kv_bits: int = ts.option(
        default=AS_COMPUTED,
        validator=one_of(*KV_BITS),
        help=(
            "Bits of the keys and values of conversations: 16 (as the model computes them), 8 or 4."
        ),
    )
    block_tokens: int = ts.option(
        default=BLOCK_TOKENS,
        validator=one_of(*BLOCK_SIZES),
        help="Tokens of a block, which conversations are kept and shared in.",
    )
    disk_budget_mb: int = ts.option(
        default=20_480,
        validator=between(0, 1 << 40),
        help="Disk space for what is kept of conversations, per model, in MiB; 0: none is.",
    )
    disk_floor_mb: int = ts.option(
        default=2048, validator=between(0, 1 << 40), help="Disk space that is left free, in MiB."
    )
    disk_writes_mb_per_day: int = ts.option(
        default=262_144,
        validator=between(0, 1 << 40),
        help="Most that is written to disk in 24 hours, in MiB; 0: any amount.",
    )
    import_trust: ImportTrust = ts.option(
        default=ImportTrust.AGENT,
        help=(
            "Who uses what an imported archive brings: agent (the imported agent alone) or shared "
            "(all agents)."
        ),
    )
    max_agents_in_memory: int = ts.option(
        default=1000,
        validator=between(1, 1_000_000),
        help="Agents that are remembered by name or by content.",
    )
    responses_url: ts.SecretStr = ts.option(
        default=ts.SecretStr(""),
        help=(
            "Database of the Responses API: sqlite:///path or "
            "postgresql://user:password@host:port/database; empty: a file in cache_dir."
        ),
    )
    responses_days: int = ts.option(
        default=30,
        validator=between(0, 36_500),
        help="Days for which responses are stored; 0: for ever.",
    )
    responses_budget_mb: int = ts.option(
        default=1024,
        validator=between(1, 1 << 40),
        help=(
            "Disk space for stored responses in a file, in MiB; the oldest conversations go first."
        ),
    )
    queue_limit: int = ts.option(
        default=64,
        validator=between(0, 100_000),
        help="Requests that may wait for a place in the batch.",
    )
    background_wait_seconds: float = ts.option(
        default=BACKGROUND_WAIT_SECONDS,
        validator=between(0, 86_400),
        help=(
            "How long a background request waits until it is served as an interactive one; 0: "
            "there is no background."
        ),
    )
    step_deadline_seconds: float = ts.option(
        default=60.0, validator=between(1, 3600), help="A step that takes longer has hung."
    )
    shutdown_timeout_seconds: float = ts.option(
        default=30.0,
        validator=between(0, 3600),
        help="How long running requests may go on after SIGTERM.",
    )
    max_body_bytes: int = ts.option(
        default=33_554_432, validator=between(1024, 1 << 30), help="Largest request body."
    )
    refuse_unreadable: bool = ts.option(
        default=False,
        help="Refuse images and files instead of telling the model that they are there.",
    )
    write_timeout_seconds: float = ts.option(
        default=10.0,
        validator=between(0.1, 600),
        help="How long a client may refuse to read before it is dropped.",
    )
    ping_seconds: float = ts.option(
        default=10.0, validator=between(0.1, 15), help="Silence after which a stream gets a ping."
    )
    log_format: LogFormat = ts.option(
        default=LogFormat.AUTO, help="auto (console on a terminal), console or json."
    )
    log_level: LogLevel = ts.option(default=LogLevel.INFO, help="debug, info, warning or error.")
    log_file: Path | None = ts.option(
        default=None, help="File to log to instead of standard error; five of 10 MB are kept."
    )
    event_log: Path | None = ts.option(
        default=None,
        help=(
            "File for the event log, JSON lines; five of 10 MB are kept. By default there is none."
        ),
    )
    otlp_endpoint: str = ts.option(
        default="",
        validator=collector_address,
        help=(
            "Collector of OpenTelemetry for traces and metrics, as http://127.0.0.1:4318; empty: "
            "none."
        ),
    )
    statsd_address: str = ts.option(
        default="",
        validator=daemon_address,
        help="Daemon of StatsD for metrics by UDP, as 127.0.0.1:8125; empty: none.",
    )
    log_prompts: bool = ts.option(
        default=False, help="Write prompts to the log. They are private: off unless asked for."
    )

    @property
    def key(self) -> str | None:
        """The API key in force.

        Raises `InvalidRequestError` when its file cannot be read or is empty, or when no header can
        carry the key.
        """
        if self.api_key_file is None:
            # the plain text: only its repr is hidden
            key = "".join(self.api_key) if self.api_key else None
            return None if key is None else _sendable(key, "api_key")
        try:
            key = self.api_key_file.read_text().strip().partition("\n")[0].rstrip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequestError(
                f"cannot be read ({getattr(error, 'strerror', None) or 'it is no text'})",
                field="api_key_file",
            ) from error
        if not key:
            raise InvalidRequestError("is empty", field="api_key_file")
        return _sendable(key, "api_key_file")


def aliases_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return the models that aliases stand for, by alias."""
    return {
        alias.strip(): model.strip() for alias, _, model in (pair.partition("=") for pair in pairs)
    }


def _sendable(key: str, field: str) -> str:
    """A key that clients can send in a header: each of them encodes other characters in its own
    way, and spaces around it are cut off.
    """
    if key.isascii() and key.isprintable() and key == key.strip():
        return key
    raise InvalidRequestError(
        (
            "may hold visible ASCII characters alone, and no space at either end: clients cannot "
            "send others in a header"
        ),
        field,
    )


def settings_of(settings: Settings, tables: Tables, model: str) -> Settings:
    """Return the settings that a model is loaded with: those of the server, but for what its table
    has.
    """
    return attrs.evolve(settings, **tables.get(model, {}))
