"""Prompts of which a server remembers whole blocks, and the complaints in its log."""

from tests.process import ServerProcess
from tests.talk import words

# Tokens of a prompt: two whole blocks and a partial one.
LONG = 650


def question(agent: str) -> str:
    """Return a prompt that no other agent has."""
    return words(agent, LONG)


def warnings(server: ServerProcess) -> list[str]:
    """Lines of the log that are warnings or errors and concern the memory: those of responses and
    of the machine are left out.
    """
    grave = [line for line in server.said.splitlines() if '"warning"' in line or '"error"' in line]
    return [
        line
        for line in grave
        if "responses are not stored" not in line and "OpenBLAS is missing" not in line
    ]
