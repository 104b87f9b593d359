"""MLX: the only package that imports it, and everything in it runs on one thread."""
