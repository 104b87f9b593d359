"""Adapters to the world: MLX, tokenizers, models, HTTP. They do not import each other."""
