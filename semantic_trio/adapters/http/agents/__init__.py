"""Agents as resources: `/v1/agents`, where the server keeps the conversation and a request carries
only its new messages.
"""
