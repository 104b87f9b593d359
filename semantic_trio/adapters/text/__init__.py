"""Conversations as token ids, and token ids as answers."""

import os

# transformers warns at its import that PyTorch is missing. The server does not use PyTorch. mlx-lm
# sets the same, if it is imported first.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
