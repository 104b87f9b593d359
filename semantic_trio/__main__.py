"""`python -m semantic_trio` is `semantic-trio`."""

from semantic_trio.entrypoints.cli import main

main(prog_name="semantic-trio")
