"""Facts about a model on this machine: its family, its sizes, and whether it fits into memory.

Knows the files of a model. Loads nothing: arrays know their sizes before they have values.
"""

import json
from pathlib import Path
from typing import Any

import attrs

from semantic_trio.adapters.mlx.budget import free_bytes, usual_cache_mb
from semantic_trio.adapters.mlx.device import element_bits
from semantic_trio.adapters.mlx.loading import WEIGHTS_SHARE, context_length, weight_bytes
from semantic_trio.domain.errors import InvalidRequestError, ModelNotFoundError
from semantic_trio.domain.families import published_spec
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.entrypoints.printing import human
from semantic_trio.entrypoints.settings import Settings

CONTEXT = 8192  # tokens of the agent that is counted in
MIB = 1 << 20
UNKNOWN = "-"
HEADINGS = (
    "model",
    "family",
    "context",
    "on disk",
    "weights",
    f"agent of {CONTEXT // 1024}K",
    "agents in cache",
    "fits now",
)


@attrs.frozen
class ModelFacts:
    """Sizes of a model."""

    family: str
    context_length: int  # tokens, as the model is served
    disk_bytes: int
    weight_bytes: int  # as they are held on this device
    # keys and values of an agent's conversation; None: known once the model is loaded
    agent_bytes: int | None
    agents: int | None  # such agents that the KV cache holds
    free_bytes: int | None  # of memory; None: the system does not tell

    @property
    def fits(self) -> bool | None:
        """True if the weights and an agent fit into the memory that is free; None if that cannot be
        known.
        """
        if self.free_bytes is None:
            return None
        return (
            self.weight_bytes <= WEIGHTS_SHARE * self.free_bytes
            and self.weight_bytes + (self.agent_bytes or 0) <= self.free_bytes
        )

    def cells(self, name: str) -> tuple[str, ...]:
        """Return the facts as a line of the table under `HEADINGS`."""
        fits = (
            UNKNOWN
            if self.fits is None or self.free_bytes is None
            else "yes"
            if self.fits
            else f"no: {human(self.free_bytes)} are free"
        )
        agent = UNKNOWN if self.agent_bytes is None else human(self.agent_bytes)
        agents = UNKNOWN if self.agents is None else f"{self.agents:,}"
        return (
            name,
            self.family,
            f"{self.context_length:,}",
            human(self.disk_bytes),
            human(self.weight_bytes),
            agent,
            agents,
            fits,
        )


def facts_of(name: str, path: Path, settings: Settings) -> ModelFacts:
    """Return the facts about a model in a directory.

    Raises `ModelNotFoundError` where it cannot be read.
    """
    try:
        config = json.loads((path / "config.json").read_bytes())
        disk_bytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(name, f"it cannot be read: {error}") from error
    spec, length = _spec(config, settings), context_length(config)
    budget = (settings.cache_budget_mb or usual_cache_mb()) * MIB
    return ModelFacts(
        family=str(config.get("model_type", UNKNOWN)),
        context_length=min(length, settings.context_length or length),
        disk_bytes=disk_bytes,
        weight_bytes=weight_bytes(path),
        agent_bytes=spec.context_bytes(CONTEXT) if spec is not None else None,
        agents=spec.agents_that_fit(budget, CONTEXT) if spec is not None else None,
        free_bytes=free_bytes(),
    )


def _spec(config: dict[str, Any], settings: Settings) -> ModelCacheSpec | None:
    try:
        return published_spec(config, "", element_bits(config), settings.kv_bits)
    except InvalidRequestError:
        return None  # `kv_bits` does not suit it: said when it is loaded
