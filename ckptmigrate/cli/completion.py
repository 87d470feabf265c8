"""The verb `completion`: print what a shell needs to complete verbs, options and their values."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.manual import Manual
from ckptmigrate.text.commands import PROGRAM

VARIABLE: Final = "_CKPTMIGRATE_COMPLETE"
# Where each shell looks for the script by itself.
FILES: Final = {
    "bash": "~/.local/share/bash-completion/completions/ckptmigrate",
    "zsh": "~/.zsh/completions/_ckptmigrate",
    "fish": "~/.config/fish/completions/ckptmigrate.fish",
}
_NOTES: Final = {
    "bash": "bash-completion loads it from there; without that, source it in ~/.bashrc",
    "zsh": "with `fpath+=(~/.zsh/completions)` before compinit in ~/.zshrc",
    "fish": "fish loads it from there",
}


@click.command(cls=Manual, files={FILES[shell]: _NOTES[shell] for shell in FILES})
@click.argument("shell", type=click.Choice(list(FILES)))
@options.output_options
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that has a shell complete verbs, options and their values.

    Layouts, releases, losses, codes, and the iterations of the root on the line are completed, too.
    The last lines of the script say how to install it.

    \b
    Examples:
      ckptmigrate completion bash
      ckptmigrate completion fish > ~/.config/fish/completions/ckptmigrate.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click has all of FILES
    script = kind(context.find_root().command, {}, PROGRAM, VARIABLE).source().strip()
    if output.json:
        output.object({"shell": shell, "script": script, "file": FILES[shell]})
        return
    click.echo(script)
    click.echo(f"\n# To install: {PROGRAM} completion {shell} > {FILES[shell]}")
    click.echo(f"# ({_NOTES[shell]})")
