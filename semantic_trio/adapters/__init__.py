"""What touches the world: MLX, tokenizers, models, HTTP. Adapters do not know each other."""
