"""The command `completion`: print the completion script for a shell."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import Manual
from ckptmigrate.text.commands import PROGRAM

VARIABLE: Final = "_CKPTMIGRATE_COMPLETE"
# The directory from which each shell loads completion scripts by default.
FILES: Final = {
    "bash": "~/.local/share/bash-completion/completions/ckptmigrate",
    "zsh": "~/.zsh/completions/_ckptmigrate",
    "fish": "~/.config/fish/completions/ckptmigrate.fish",
}
_NOTES: Final = {
    "bash": "loaded by bash-completion; without that, source the file in ~/.bashrc",
    "zsh": "requires `fpath+=(~/.zsh/completions)` before compinit in ~/.zshrc",
    "fish": "loaded by fish",
}


@click.command(cls=Manual, files={FILES[shell]: _NOTES[shell] for shell in FILES})
@click.argument("shell", type=click.Choice(list(FILES)))
@options.output_options
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    The script completes commands, options, layouts, releases, data losses, problem codes and the
    iterations of a root. Its last lines show how to install it.

    \b
    Examples:
      ckptmigrate completion bash
      ckptmigrate completion fish > ~/.config/fish/completions/ckptmigrate.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click supports all of FILES
    script = kind(context.find_root().command, {}, PROGRAM, VARIABLE).source().strip()
    if output.json:
        output.object({"shell": shell, "script": script, "file": FILES[shell]})
        return
    click.echo(script)
    click.echo(f"\n# To install: {PROGRAM} completion {shell} > {FILES[shell]}")
    click.echo(f"# ({_NOTES[shell]})")
