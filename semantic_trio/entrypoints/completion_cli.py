"""The command `completion`: scripts with which shells complete commands and options."""

import click
from click.shell_completion import get_completion_class

PROGRAM = "semantic-trio"
# The variable by which click's own scripts ask the program for completions.
VARIABLE = "_SEMANTIC_TRIO_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script with which a shell completes commands and options."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, PROGRAM, VARIABLE).source())
