"""Adapters to the world: MLX, tokenizers, models, HTTP, files. They do not import each other."""
