"""The console examples of the README and of docs/: run in a shell, and compared or rewritten.

    python tests/examples.py      (or: make examples)

rewrites the output under every command, and the generated blocks of all pages. A page says which
samples its examples run on ("`run` is `0.17.1-idle-w1`"): they are copied, under those names, into
a folder that is gone afterwards. Examples of one scenario share that folder, in order. A scenario
is a whole page, or, where a page is split, a section of it. Blocks of Python with the title of a
file, and diffs, change a copy of the package, which the commands after them run. In a test run,
commands of `ckptmigrate` alone need no shell and run in forks, except those of the README.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
SAMPLES: Final = ROOT / "tests" / "samples"
_PLACES: Final = tuple(ROOT / "tests" / name for name in ("samples", "optimizer", "cases"))

_BLOCK: Final = re.compile(
    r'(?P<head>^```(?:console|diff|python title="(?P<file>[^"\n]+)")\n)(?P<body>.*?)(?=^```$)',
    re.DOTALL | re.MULTILINE,
)
_NAMED: Final = re.compile(r"`([\w.-]+)`\s+is\s+`([\w.-]+)`")
# A command that shlex splits as a shell does.
_PLAIN: Final = re.compile(r"ckptmigrate [^|<>;&$`*?~\\#(){}\[\]!]*")
_CONSOLE: Final = "```console\n"
_SECONDS: Final = 120
_REPEATED: Final = re.compile(
    r"^(warning: data files are hard links|  note: the RNG state names numpy).*\n", re.MULTILINE
)


@dataclass(frozen=True)
class Page:
    """A page with examples.

    Attributes:
        path: relative to the repository.
        split: whether each section (`## `) is a scenario of its own, and not the whole page.
        copy: whether it changes the package, and so needs a copy of it.
        shell: whether every command runs in a shell, in tests, too.
        short: whether the lines that most examples repeat are left out, as the page then says.
    """

    path: str
    split: bool = False
    copy: bool = False
    shell: bool = False
    short: bool = False

    @property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    def scenarios(self) -> list[str]:
        """The text of the page in parts that share a folder; together they are the page."""
        return re.split(r"^(?=## )", self.text, flags=re.MULTILINE) if self.split else [self.text]


PAGES: Final = (
    Page("README.md", shell=True),
    Page("docs/start.md"),
    Page("docs/commands.md"),
    Page("docs/refusals.md"),
    Page("docs/json.md"),
    Page("docs/many.md"),
    Page("docs/recipes.md", split=True, short=True),
    Page("docs/frameworks.md", split=True, short=True),
    Page("docs/extending.md", copy=True),
)


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of the console blocks, each with the output that stands under it."""
    blocks = (block for block in _BLOCK.finditer(text) if block["head"] == _CONSOLE)
    parts = [part for block in blocks for part in _parts(block["body"])]
    return [(command, output) for command, _, output in (p.partition("\n") for p in parts)]


def _parts(block: str) -> list[str]:
    return [part for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part]


def copy_samples(text: str, folder: Path) -> dict[str, str]:
    """Copy the samples that a text names; the name of each copy, and its sample."""
    named = {
        name: sample
        for name, sample in _NAMED.findall(text)
        if any((place / sample).is_dir() for place in _PLACES)
    }
    for name, sample in named.items():
        [root] = [place / sample for place in _PLACES if (place / sample).is_dir()]
        shutil.copytree(root / "run" if (root / "run").is_dir() else root, folder / name)
    return named | _framework_roots(text, folder)


def _framework_roots(text: str, folder: Path) -> dict[str, str]:
    """Create the roots of frameworks that a text names, as `copy_samples` copies samples."""
    from framework_roots import CASES

    named = {name: case for name, case in _NAMED.findall(text) if case in CASES}
    for name, case in named.items():
        CASES[case].make(folder / name)
    return named


def run(command: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    """Return what a command prints; paths, times and the kind of link are placeholders.

    Args:
        command: a line for a shell.
        folder: its working directory.
        environment: variables besides those of this process; with any, even none, it runs in a
            shell.
    """
    env = {
        **os.environ,
        "COLUMNS": "100",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **(environment or {}),
    }
    with open(os.devnull) as nothing, tempfile.TemporaryFile() as shown:
        if environment is None and "CKPTMIGRATE_TEST_RUN" in env and _PLAIN.fullmatch(command):
            from conftest import CLI, MAIN

            fds = [nothing.fileno(), shown.fileno(), shown.fileno()]
            CLI.call(shlex.split(command)[1:], fds, main=MAIN, cwd=folder, env=env)
        else:
            subprocess.run(
                ["sh", "-c", command],
                cwd=folder,
                env=env,
                stdin=nothing,
                stdout=shown,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=_SECONDS,
            )
        shown.seek(0)
        text = shown.read().decode().replace(str(folder), "/checkpoints")
        text = text.replace(str(folder).replace("_", "\\_"), "/checkpoints")  # in Markdown
    # Whether data files are hard-linked or cloned depends on the file system of the folder.
    text = re.sub(r"\(data files [\w-]+\)", "(data files hard-linked)", text)
    text = re.sub(r"(?m)(?<=, in )\d+\.\d s(?=\.?$)", "0.1 s", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "TIME", text)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def refreshed(
    text: str, folder: Path, *, copy: bool = False, shell: bool = False, short: bool = False
) -> str:
    """A scenario with what its commands print now; what they leave is in the folder."""
    copy_samples(text, folder)
    environment = copied(folder) if copy else {} if shell else None

    def again(block: re.Match[str]) -> str:
        body = block["body"]
        if block["file"]:
            (folder / block["file"]).write_text(body, encoding="utf-8")
        elif block["head"] == _CONSOLE:
            asked = [part.partition("\n")[0] for part in _parts(body)]
            body = "".join(f"$ {each}\n{run(each, folder, environment)}" for each in asked)
            body = _REPEATED.sub("", body) if short else body
        else:
            _apply(body, folder)
        return block["head"] + body

    return _BLOCK.sub(again, text)


def copied(folder: Path) -> dict[str, str]:
    """Copy the package into a folder; the environment in which it is the one that runs."""
    if not (folder / "ckptmigrate").exists():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "ckptmigrate", folder / "ckptmigrate", ignore=ignore)
        shutil.copy(ROOT / "compat_matrix.yaml", folder)
        program = folder / "bin" / "ckptmigrate"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ckptmigrate "$@"\n')
        program.chmod(0o755)
    path = (str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"])
    return {"PATH": os.pathsep.join(path), "PYTHONPATH": str(folder)}


def _apply(diff: str, folder: Path) -> None:
    """Apply a diff without line numbers: the old lines of each hunk stand in the file once."""
    header, *hunks = diff.split("@@\n")
    file = folder / header.removeprefix("--- ").strip()
    text = file.read_text(encoding="utf-8")
    for hunk in hunks:
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        assert text.count(old) == 1, f"not once in {file}:\n{old}"
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")


def without_warnings(text: str) -> list[str]:
    """Lines to compare: the warning about hard links depends on the file system."""
    return [line for line in text.splitlines() if not line.startswith("warning: data files ")]


def rewrite(page: Page) -> bool:
    """Rewrite the outputs of a page; whether that changed it."""
    before, after = page.text, ""
    for scenario in page.scenarios():
        with tempfile.TemporaryDirectory() as folder:
            after += refreshed(scenario, Path(folder), copy=page.copy, short=page.short)
    (ROOT / page.path).write_text(after, encoding="utf-8")
    return before != after


def main() -> None:
    """Rewrite every page."""
    import blocks

    for page in PAGES:
        if rewrite(page):
            print(f"rewrote {page.path}")
    for name in blocks.rewrite():
        print(f"rewrote the blocks of {name}")


if __name__ == "__main__":
    main()
