"""`make map`: write the module map of docs/architecture.md from the docstrings of the modules."""

from __future__ import annotations

import ast
from pathlib import Path

import structure

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
START, END = "<!-- module map -->\n", "<!-- end of the module map -->\n"


def module_map() -> str:
    """Return a heading, a sentence and a table of modules for each package, highest first."""
    modules = structure.modules()
    lines = []
    for package in ("", *structure.ORDER, "pages"):
        own = [m for name, m in modules.items() if _folder(name, m) == package]
        if not own:
            continue
        [folder] = [m for m in own if m.name == package]
        lines += [f"### {package or 'ckptmigrate'}/", "", _sentence(folder), ""]
        lines += ["| module | |", "|---|---|"]
        lines += [f"| `{_file(m)}` | {_sentence(m)} |" for m in own if m is not folder]
        lines.append("")
    return "\n".join(lines)


def _folder(name: str, module: structure.Module) -> str:
    inside = module.path.relative_to(structure.ROOT).parts
    return inside[0] if len(inside) > 1 else ""


def _file(module: structure.Module) -> str:
    return module.path.relative_to(structure.ROOT).as_posix()


def _sentence(module: structure.Module) -> str:
    """Return the first paragraph of a docstring as one line."""
    text = ast.get_docstring(module.tree) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def page(text: str) -> str:
    """Return the page with a new map between its two markers."""
    before, rest = text.split(START)
    return f"{before}{START}\n{module_map()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
