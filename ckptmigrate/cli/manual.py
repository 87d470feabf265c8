"""`--help` as a manual page: options by what they are about, exit status, files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, Final

import click

# Every option, by what it is about; in the order of the page.
SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "Which checkpoint": ("iteration", "every", "checkpoint"),
    "What it leads to": ("to", "native", "rebuild", "drop", "allow_loss"),
    "Where it goes": ("output", "destination", "in_place", "dry_run", "link", "print_path"),
    "Many at once": ("jobs", "ledger", "shard", "scheduler", "retries"),
    "The job that reads it": (
        "release", "torch", "python", "numpy", "strict", "strictness",
        "job_tp", "job_pp", "job_cp", "job_world", "rerun_mode",
        "finetune", "no_load_optim", "no_load_rng",
    ),
    "What the checkpoint does not tell": ("world_size", "tensor_parallel", "pipeline_parallel"),
    "How closely to look": ("load", "hash_payload", "hashed", "known", "break_lock"),
    "Which part of the matrix": ("scenario", "scenarios", "writer", "writers", "reader", "only"),
    "What to measure with": ("readers", "samples", "facts", "update", "source"),
    "Output": (
        "full", "markdown", "into", "html", "file", "as_json", "no_color", "verbose", "version",
        "help",
    ),
}  # fmt: skip
EXITS: Final[dict[int, str]] = {
    0: "done",
    1: "refused, or found wanting; stderr says why in one sentence, and what to do",
    2: "the command line is not understood",
    130: "interrupted; what was incomplete was undone",
}
CHECKPOINT: Final = {
    "PATH/latest_checkpointed_iteration.txt": "makes PATH a root, and names its iteration",
    "PATH/iter_NNNNNNN/": "a checkpoint: .metadata, metadata.json, common.pt, *.distcp",
}
MIGRATED: Final = CHECKPOINT | {
    "iter_NNNNNNN/ckptmigrate.json": "what was done to it, for the way back",
    "iter_NNNNNNN/.ckptmigrate/": "the small files as they were",
}


_HYPHEN: Final = "\ue000"  # stands for one while lines are broken


class Formatter(click.HelpFormatter):
    """Breaks no line at a hyphen: names of layouts and of flags have some."""

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
    """A context whose help is written so."""

    formatter_class = Formatter


class Manual(click.Command):
    """A verb whose help has every section of a manual page.

    Args:
        found: what exit status 1 means, where that is another than usual.
        files: the files it is about, and what each is.
        terms: sections of words that its options take, and what each means.
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
        """Every option in its section."""
        help_option = self.get_help_option(ctx)
        shown = {
            "help" if parameter is help_option else parameter.name: record
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option)
            and (record := parameter.get_help_record(ctx)) is not None
        }
        for section, names in SECTIONS.items():
            rows = [shown[name] for name in names if name in shown]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)
        for title, words in self.terms.items():
            with formatter.section(title):
                formatter.write_dl(list(words.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Exit status and files."""
        exits = EXITS | ({1: self.found} if self.found else {})
        with formatter.section("Exit status"):
            formatter.write_dl([(str(number), text) for number, text in exits.items()])
        if self.files:
            with formatter.section("Files"):
                formatter.write_dl(list(self.files.items()))


class ManualGroup(Manual, click.Group):
    """A verb that has verbs of its own.

    Args:
        sections: heading -> verb -> the module that it is in, under its own name. Only the module
            of a verb that is used is imported; for --help, those of all of them.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = dict(sections or {})
        self.modules = {verb: of for verbs in self.sections.values() for verb, of in verbs.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the page."""
        return [*self.modules, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of a name; None where there is none."""
        if cmd_name not in self.modules:
            return super().get_command(ctx, cmd_name)
        verb: click.Command = getattr(import_module(self.modules[cmd_name]), cmd_name)
        return verb

    def verbs(self, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
        """All of them by name, in the order of the page."""
        for name in self.list_commands(ctx):
            verb = self.get_command(ctx, name)
            assert verb is not None  # it is listed
            yield name, verb

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs first: they are what one looks for."""
        texts = {name: verb.get_short_help_str(limit=200) for name, verb in self.verbs(ctx)}
        for section, names in (self.sections or {"Verbs": texts}).items():
            with formatter.section(section):
                formatter.write_dl([(name, texts[name]) for name in names])
        super().format_options(ctx, formatter)
