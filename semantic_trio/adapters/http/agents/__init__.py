"""Agents of their own: `/v1/agents`, where the server keeps the conversation and only what is new travels."""
