"""`semantic-trio bench`: the figures of a served model, beside those of mlx-lm's bare engine."""
