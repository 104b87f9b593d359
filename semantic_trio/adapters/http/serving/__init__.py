"""The served model, and the one way from a request to a generation and back, for all protocols."""
