"""Routes for operators: health, metrics, models, settings that change at runtime."""
