"""The help of commands: options in groups, exit statuses and files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, Final

import click

# Every option and the arguments in ARGUMENTS, in the order of --help.
SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "Selection": (
        "paths", "a", "iteration", "every", "checkpoint", "scenario", "scenarios", "writer",
        "writers", "reader", "only",
    ),
    "Target": (
        "to", "native", "optimizer", "optimizer_type", "extra_state", "compact", "rebuild", "drop",
        "drop_optimizer", "allow_loss",
    ),
    "Output": (
        "output", "in_place", "dry_run", "forget", "link", "print_path", "full", "file",
        "markdown", "into", "html", "report", "part_size",
    ),
    "Target job": (
        "release", "torch", "python", "numpy", "transformer_engine", "strict", "strictness",
        "tensor", "pipeline", "context", "expert", "world", "rerun_mode", "finetune",
        "no_load_optim", "no_load_rng",
    ),
    "Batch": ("jobs", "ledger", "shard", "scheduler", "retries"),
    "Parallelism": ("world_size", "tensor_parallel", "pipeline_parallel"),
    "Validation": (
        "load", "hash_payload", "hashed", "verify_source", "compare_optimizer", "sample", "values",
        "known",
    ),
    "Measurement": ("readers", "samples", "expect", "facts", "update", "junit", "source"),
    "General": (
        "keep", "break_lock", "as_json", "no_color", "verbose", "version", "help", "help_all",
    ),
}  # fmt: skip
# Options that only --help-all shows.
RARE: Final = frozenset({
    "native", "optimizer_type", "extra_state", "compact", "rebuild", "link", "into", "torch",
    "python", "numpy", "transformer_engine", "strictness", "context", "expert", "rerun_mode",
    "no_load_rng", "shard", "scheduler", "retries", "world_size", "tensor_parallel",
    "pipeline_parallel", "no_color", "verbose", "part_size", "verify_source",
})  # fmt: skip
# Arguments that several commands have, as rows of --help.
ARGUMENTS: Final = {
    "paths": (
        "PATH...",
        "An iteration directory (iter_NNNNNNN) or a root, the directory you pass to --load. Also "
        "accepts URLs and glob patterns.",
    ),
    "a": ("A, B", "Iteration directories (iter_NNNNNNN) or roots, as for --load."),
}
EVERYTHING: Final = "ckptmigrate.help-all"  # a key of click.Context.meta: show rare options, too
EXITS: Final[dict[int, str]] = {
    0: "success",
    1: "error, or problems found (see stderr)",
    2: "invalid command line",
    130: "interrupted; unfinished work was rolled back",
}
CHECKPOINT: Final = {
    "PATH/latest_checkpointed_iteration.txt": "tracker file: makes PATH a root, names an iteration",
    "PATH/iter_NNNNNNN/": "checkpoint: .metadata, metadata.json, common.pt, *.distcp",
}
MIGRATED: Final = CHECKPOINT | {
    "iter_NNNNNNN/ckptmigrate.json": "migration history, used by undo",
    "iter_NNNNNNN/.ckptmigrate/": "original copies of the changed files",
}


_HYPHEN: Final = "\ue000"  # replaces a hyphen while lines are broken


class Formatter(click.HelpFormatter):
    """A formatter that does not break lines at hyphens, which layouts and flags contain."""

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", _HYPHEN))

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        kept = [(term, text.replace("-", _HYPHEN)) for term, text in rows]
        super().write_dl(kept, col_max, col_spacing)

    def getvalue(self) -> str:
        return super().getvalue().replace(_HYPHEN, "-")


class ManualContext(click.Context):
    """A context that formats help with Formatter."""

    formatter_class = Formatter


class Manual(click.Command):
    """A command whose help groups its options.

    Args:
        found: the meaning of exit status 1, if it differs from EXITS.
        files: files that the command reads or writes, with a description of each.
        terms: heading -> value of an option -> its meaning.
    """

    context_class = ManualContext

    def __init__(
        self,
        *args: Any,
        found: str = "",
        files: Mapping[str, str] | None = None,
        terms: Mapping[str, Mapping[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.found, self.files, self.terms = found, dict(files or {}), dict(terms or {})

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every option in its group; rare ones only for --help-all."""
        rows = self._rows(ctx)
        groups = {
            section: [
                rows[name]
                for name in names
                if name in rows and (name not in RARE or ctx.meta.get(EVERYTHING))
            ]
            for section, names in SECTIONS.items()
        }
        general = groups.pop("General")
        terms = {title: list(words.items()) for title, words in self.terms.items()}
        for section, listed in {**groups, **terms, "General": general}.items():
            if listed:
                with formatter.section(section):
                    formatter.write_dl(listed)

    def _rows(self, ctx: click.Context) -> dict[str, tuple[str, str]]:
        """Return the row of --help for each argument in ARGUMENTS and each option, by name."""
        rows = {
            name: ARGUMENTS.get(name)
            if isinstance(parameter, click.Argument)
            else parameter.get_help_record(ctx)
            for name, parameter in self.named(ctx).items()
        }
        return {name: row for name, row in rows.items() if row is not None}

    def named(self, ctx: click.Context) -> dict[str, click.Parameter]:
        """Return the arguments and options by the names that SECTIONS uses."""
        help_option = self.get_help_option(ctx)
        return {
            "help" if parameter is help_option else str(parameter.name): parameter
            for parameter in self.get_params(ctx)
        }

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write exit statuses and files, for --help-all."""
        if not ctx.meta.get(EVERYTHING):
            return
        exits = EXITS | ({1: self.found} if self.found else {})
        with formatter.section("Exit status"):
            formatter.write_dl([(str(number), text) for number, text in exits.items()])
        if self.files:
            with formatter.section("Files"):
                formatter.write_dl(list(self.files.items()))


class ManualGroup(Manual, click.Group):
    """A command with subcommands.

    Args:
        sections: heading -> subcommand -> the module that defines it, under its own name. Only the
            module of the subcommand in use is imported; for --help, all are.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = dict(sections or {})
        self.modules = {verb: of for verbs in self.sections.values() for verb, of in verbs.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands, in the order of --help."""
        return [*self.modules, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the subcommand with a name, or None."""
        if cmd_name not in self.modules:
            return super().get_command(ctx, cmd_name)
        verb: click.Command = getattr(import_module(self.modules[cmd_name]), cmd_name)
        return verb

    def verbs(self, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
        """Iterate over the subcommands and their names, in the order of --help."""
        for name in self.list_commands(ctx):
            verb = self.get_command(ctx, name)
            assert verb is not None  # it is listed
            yield name, verb

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands, then the options; hidden subcommands only for --help-all."""
        texts = {
            name: verb.get_short_help_str(limit=200)
            for name, verb in self.verbs(ctx)
            if not verb.hidden or ctx.meta.get(EVERYTHING)
        }
        sections: Mapping[str, Iterable[str]] = self.sections or {"Commands": texts}
        for section, names in sections.items():
            if texts:
                with formatter.section(section):
                    formatter.write_dl([(name, texts[name]) for name in names])
        super().format_options(ctx, formatter)
