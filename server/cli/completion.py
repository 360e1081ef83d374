"""``parley completion``."""

import rich_click as click
from click.shell_completion import get_completion_class

from server.cli.errors import OK

_HOW = {
    "bash": 'eval "$(parley completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(parley completion zsh)"   # in ~/.zshrc',
    "fish": "parley completion fish | source   # in ~/.config/fish/config.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(sorted(_HOW)))
def completion(shell: str) -> int:
    """Print the script by which a shell completes commands and options of `parley`.

    For bash put `eval "$(parley completion bash)"` into ~/.bashrc; for zsh likewise into ~/.zshrc; for fish
    `parley completion fish | source` into ~/.config/fish/config.fish.
    """
    from server.cli.group import parley

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(f"# {_HOW[shell]}")
    click.echo(kind(parley, {}, "parley", "_PARLEY_COMPLETE").source())
    return OK
