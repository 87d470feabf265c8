"""Generated blocks of the pages: tables and figures that follow from the code and the tests.

`make examples` writes a block between `<!-- generated: NAME ARGUMENT -->` and
`<!-- /generated -->`, and test_blocks.py compares it. A block without an argument is generated from
the page.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import cli_reference
import json_keys
from markdown.extensions.toc import slugify

from ckptmigrate.checkpoint.other_formats import FORMATS
from ckptmigrate.checks.codes import CODES, Severity
from ckptmigrate.compat.cells import Matrix, grade, matrix
from ckptmigrate.compat.picture import alternative
from ckptmigrate.compat.text_tables import short_name, summary

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = ("README.md", "SECURITY.md", "CONTRIBUTING.md", *(
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))
))  # fmt: skip
_BLOCK: Final = re.compile(
    r"(<!-- generated: (\w+)(?: ([\w -]+))? -->\n).*?(<!-- /generated -->)", re.DOTALL
)


def filled(text: str) -> str:
    """Return a page with its blocks generated again."""

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}{BLOCKS[found[2]](found[3] or text)}\n{found[4]}"

    return _BLOCK.sub(block, text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def releases(_: str) -> str:
    """Return which releases resume from the unmigrated idle checkpoints of which release."""
    found = matrix()
    cells = [(writer, _resuming(found, writer)) for writer in found.writers("idle")]
    rows = [
        (_range([short_name(writer) for writer, _ in group]), _range(readers))
        for readers, group in groupby(cells, key=lambda each: each[1])
    ]
    return table(("written by", "load without a migration in"), rows) + (
        f"\n\n{summary(found, 'idle')}."
    )


def _resuming(found: Matrix, writer: str) -> tuple[str, ...]:
    cells = (found.cells[writer, reader, "idle"] for reader in found.readers)
    return tuple(short_name(cell.reader) for cell in cells if grade(cell.raw) != "fails")


def _range(names: Sequence[str]) -> str:
    """Return `0.9, 0.12 to 0.20` for names of releases in order."""
    minors = [int(name.partition(".")[2]) for name in names]
    starts = [m for m in minors if m - 1 not in minors]
    ends = [m for m in minors if m + 1 not in minors]
    return ", ".join(
        f"0.{a}" if a == b else f"0.{a} to 0.{b}" for a, b in zip(starts, ends, strict=True)
    )


def picture(_: str) -> str:
    """Return the matrix as a picture, in the colors and the width of the page."""
    files = {
        "(max-width: 600px) and (prefers-color-scheme: dark)": "narrow-dark",
        "(max-width: 600px)": "narrow-light",
        "(prefers-color-scheme: dark)": "wide-dark",
    }
    sources = (
        f'<source media="{media}" srcset="docs/images/matrix-{name}.svg">'
        for media, name in files.items()
    )
    text = alternative(matrix())
    shown = f'<img src="docs/images/matrix-wide-light.svg" alt="{text}">'
    return "\n".join(["<picture>", *sources, shown, "</picture>"])


def scenarios(_: str) -> str:
    """Return how many combinations of releases resume in each scenario."""
    found, rows = matrix(), []
    for row in found.scenarios:
        cells = [cell for cell in found.cells.values() if cell.scenario == row.scenario]
        outcomes = ([cell.raw for cell in cells], [cell.migrated for cell in cells])
        rows.append((row.scenario, row.summary, *(_share(row.scenario, o) for o in outcomes)))
    return table(("checkpoint", "", "resume unmigrated", "after one command"), rows)


def _share(scenario: str, outcomes: Sequence[str]) -> str:
    grades = [grade(outcome) for outcome in outcomes]
    part = {"fault": "a usable fault context", "optimizer": "the optimizer state"}
    partial = grades.count("partial")
    without = f", {partial} of them without {part[scenario]}" if partial else ""
    return f"{len(grades) - grades.count('fails')} of {len(grades)}{without}"


def promises(_: str) -> str:
    """Return what the README promises, each with the command that reproduces its figure."""
    from hostile.pickles import GADGETS

    sys.path.insert(0, str(ROOT / "tests" / "faults"))
    from figures import total

    measured = json.loads((ROOT / "tests" / "samples" / "raw_matrix.json").read_text())
    return "\n".join(
        (
            "- **The source is read-only** unless you pass `--in-place`, or run `undo` or "
            "`recover`: `pytest tests/test_round_trips.py`.",
            "- **A crash leaves the checkpoint from before or after the migration**, at once or "
            f"after `recover`: {total('faults', 'runs'):,} faults at system calls that write, "
            "`make faults`.",
            f"- **No pickle is executed** and nothing is imported: {len(GADGETS)} hostile pickles, "
            "`pytest tests/test_hostile.py`; mutations, `make fuzz`.",
            "- **A migration can be undone**, byte for byte: `pytest tests/test_undo.py`.",
            f"- **Predictions are measured**: {len(measured)} loads by real releases, "
            "`pytest tests/test_check.py`. Real `megatron-core` 0.9.0 to 0.16.1 load the results "
            "in `make test`; later releases were measured with Megatron-LM training.",
        )
    )


def errors(page: str) -> str:
    """Return the index of a page by error message: the code in each heading."""
    rows, seen = [], set()
    for title in re.findall(r"^## (.+)$", page, re.MULTILINE):
        anchor = slugify(title, "-")
        while anchor in seen:
            anchor = f"{anchor}_1"
        seen.add(anchor)
        if error := re.search(r"`(.+)`", title):
            section = title.partition(": `")[0] if not title.startswith("`") else "fix"
            rows.append((f"[{section}](#{anchor})", f"`{error[1]}`"))
    return table(("section", "error message"), sorted(rows, key=lambda row: row[1].lower()))


def codes(_: str) -> str:
    """Return the problem codes by severity, with meaning and fix."""
    parts = []
    for severity, title in (
        (Severity.ERROR, "Errors"), (Severity.WARNING, "Warnings"), (Severity.NOTE, "Notes")
    ):  # fmt: skip
        rows = [
            (f"`{code.code}`", code.meaning, code.remedy_for("PATH", _repair(code.repair)),
             code.since)
            for code in CODES.values() if code.severity is severity
        ]  # fmt: skip
        parts.append(f"## {title}\n\n{table(('code', 'meaning', 'fix', 'releases'), rows)}\n")
    return "\n" + "\n".join(parts)


def formats(_: str) -> str:
    """Return the formats other than torch_dist: what they are, and what converts them."""
    places = {"root": "ROOT", "dcp": "python -m torch.distributed.checkpoint.format_utils "
              "dcp_to_torch PATH model.pt"}  # fmt: skip
    rows = [
        (f"`{name}`", each.what.removeprefix("is ").format(found="..."),
         each.fix.format(**places))
        for name, each in FORMATS.items()
    ]  # fmt: skip
    return table(("format", "what it is", "what to do"), rows)


def _repair(options: tuple[str, ...] | None) -> str | None:
    return None if options is None else " ".join(("ckptmigrate repair PATH", *options))


def figures(_: str) -> str:
    """Return what the tests of the promises cover: counted here, or by the last complete run."""
    from fault_proxy import KINDS
    from hostile.pickles import GADGETS
    from hostile.planting import FILES
    from test_bounded_yaml import BAD
    from test_terminal import PLANTS

    sys.path.insert(0, str(ROOT / "tests" / "faults"))
    from figures import stated, total
    from inject import FAULTS

    faults, states = stated()["faults"], stated()["crash states"]
    measured = json.loads((ROOT / "tests" / "samples" / "raw_matrix.json").read_text())
    rows = (
        (total("faults", "runs"), f"runs with a fault at a system call that writes: {len(FAULTS)} "
         f"kinds of faults at each of {total('faults', 'calls'):,} calls, in {len(faults)} "
         "scenarios", "python tests/faults/inject.py"),
        (total("crash states", "states"), "states of the disk after a power failure, in "
         f"{len(states)} scenarios; {total('crash states', 'sampled')} moments have too many "
         "states and are sampled", "python tests/faults/crash.py"),
        (len(KINDS), "kinds of faults of an object store, at every request of a command",
         "make faults"),
        (len(GADGETS), "hostile pickles, each in four places", "pytest tests/test_hostile.py"),
        (len(FILES), "hostile files, links and directories", "pytest tests/test_hostile.py"),
        (len(PLANTS), "places for terminal escapes", "pytest tests/test_terminal.py"),
        (len(BAD), "malformed files for `--facts`", "pytest tests/test_bounded_yaml.py"),
        (len(measured), "loads by real releases whose outcome `check` predicts",
         "pytest tests/test_check.py"),
    )  # fmt: skip
    return table(
        ("number", "of", "command"), [(f"{n:,}", what, f"`{how}`") for n, what, how in rows if n]
    )


BLOCKS: Final[dict[str, Callable[[str], str]]] = {
    "codes": codes,
    "command": cli_reference.command,
    "errors": errors,
    "formats": formats,
    "exits": lambda _: cli_reference.exits(),
    "figures": figures,
    "files": lambda _: cli_reference.files(),
    "keys": json_keys.keys,
    "picture": picture,
    "promises": promises,
    "releases": releases,
    "scenarios": scenarios,
    "shared": lambda _: cli_reference.shared_options(),
}


def rewrite() -> list[str]:
    """Write the blocks of every page; return the pages that changed."""
    changed = []
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        if filled(text) != text:
            (ROOT / name).write_text(filled(text), encoding="utf-8")
            changed.append(name)
    return changed
