"""The body of a model: all of it but the head that makes logits.

Knows what mlx-lm's models call their parts. Knows nothing of rows.
"""

from typing import Any, cast

from mlx.nn.layers.base import Module

# Names of bodies in mlx-lm's models.
BODIES = ("model", "backbone", "transformer")


def body_of(model: Module) -> Module:
    """The body of a model. Raises `AttributeError` where there is none."""
    # mlx types a module's attributes as anything a module may hold
    whole: Any = getattr(model, "language_model", model)
    name = next((name for name in BODIES if name in whole), BODIES[0])
    return cast(Module, getattr(whole, name))
