"""`make structure`: measure the structure of the package.

Code lines per package, imports between packages, circles, imports against the order of the
packages, the largest files, and names that are used twice.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1] / "ckptmigrate"
# A package may import those after it. Modules of the root that anything may import come last.
ORDER = (
    "cli", "measuring", "batch", "root", "verbs", "logs", "report", "compat", "writing", "planning",
    "checks", "releases", "versions", "optimizer", "checkpoint", "pickles", "storage", "text",
)  # fmt: skip
LEAVES = ("errors", "places", "clock", "search_path", "version", "text")
_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip


@dataclass(frozen=True)
class Module:
    """One file of the package.

    Attributes:
        name: dotted, without `ckptmigrate.`; the package itself is `""`.
        path: the file.
    """

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_bytes())

    @property
    def package(self) -> str:
        """The folder below the root; a leaf is its own package, `__main__` belongs to `cli`."""
        first = self.name.partition(".")[0]
        if first == "__main__":
            return "cli"
        return first if first in {*ORDER, *LEAVES, "pages"} else "root"

    @cached_property
    def code_lines(self) -> int:
        """The number of lines without blank lines, comments and docstrings."""
        docstrings: set[int] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0] if node.body else None
                if (
                    isinstance(first, ast.Expr)
                    and isinstance(first.value, ast.Constant)
                    and isinstance(first.value.value, str)
                ):
                    docstrings |= set(range(first.lineno, (first.end_lineno or 0) + 1))
        lines: set[int] = set()
        for token in tokenize.tokenize(io.BytesIO(self.path.read_bytes()).readline):
            if token.type not in _NO_CODE:
                lines |= set(range(token.start[0], token.end[0] + 1))
        return len(lines - docstrings)

    def classes(self) -> Iterator[str]:
        """Yield the names of the classes at the top level."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef):
                yield node.name


def modules() -> dict[str, Module]:
    """Return all modules of the package by name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path)
    return found


def imports(module: Module, known: Mapping[str, Module]) -> set[str]:
    """Return the names of the modules of the package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # What is imported from a package is a module of it, or else is defined by it.
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        inside = {name.removeprefix(f"{ROOT.name}.") for name in names if name != ROOT.name}
        modules = {name for name in inside if name in known}
        # A package counts only where nothing below it is meant.
        found |= {a for a in modules if not any(b.startswith(f"{a}.") for b in modules)}
    return found - {module.name}


@dataclass(frozen=True)
class Structure:
    """The modules and the imports between them, `from -> to`, by name."""

    modules: Mapping[str, Module]
    edges: Mapping[str, set[str]]

    @property
    def arrows(self) -> set[tuple[str, str]]:
        """The pairs of packages of which the first imports the second."""
        of = {name: module.package for name, module in self.modules.items()}
        pairs = {(of[a], of[b]) for a, targets in self.edges.items() for b in targets}
        return {(a, b) for a, b in pairs if a != b}

    @property
    def counted_pairs(self) -> set[tuple[str, str]]:
        """The pairs that count: without the leaves that all may import, and the root."""
        free = {*LEAVES, "root"}
        return {(a, b) for a, b in self.arrows if a not in free and b not in free}

    @property
    def circles(self) -> list[list[str]]:
        """The groups of packages that import each other."""
        return _circles({p for pair in self.arrows for p in pair}, self.arrows)

    @property
    def module_circles(self) -> list[list[str]]:
        """The groups of modules that import each other."""
        arrows = {(a, b) for a, targets in self.edges.items() for b in targets if a and b}
        return _circles(set(self.modules), arrows)

    @property
    def upward(self) -> list[tuple[str, str]]:
        """The pairs of packages whose import goes against `ORDER`."""
        rank = {name: number for number, name in enumerate(ORDER)}
        return sorted((a, b) for a, b in self.arrows if a in rank and b in rank and
                      rank[a] > rank[b])  # fmt: skip

    @property
    def same_file_names(self) -> dict[str, list[str]]:
        """File names that several modules have, other than `cli/X.py` and `verbs/X.py`."""
        names = _twice((name.rpartition(".")[2], name) for name, m in self.modules.items()
                       if m.path.stem not in ("__init__", "__main__"))  # fmt: skip
        return {name: modules for name, modules in names.items()
                if modules != [f"cli.{name}", f"verbs.{name}"]}  # fmt: skip

    @property
    def same_class_names(self) -> dict[str, list[str]]:
        """Class names that are defined several times."""
        return _twice((c, name) for name, m in self.modules.items() for c in m.classes())


def _twice(named: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for key, place in named:
        found[key].append(place)
    return {key: places for key, places in sorted(found.items()) if len(places) > 1}


def _circles(nodes: set[str], arrows: set[tuple[str, str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node."""
    after: dict[str, set[str]] = {node: {b for a, b in arrows if a == node} for node in nodes}
    reach = {}
    for node in nodes:
        seen: set[str] = set()
        todo = [node]
        while todo:
            for each in after[todo.pop()] - seen:
                seen.add(each)
                todo.append(each)
        reach[node] = seen
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in nodes}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def structure() -> Structure:
    """Read the package."""
    known = modules()
    return Structure(known, {name: imports(module, known) for name, module in known.items()})


def main() -> None:
    found = structure()
    lines: Counter[str] = Counter()
    for module in found.modules.values():
        lines[module.package] += module.code_lines
    for package, count in lines.most_common():
        print(f"{count:7,} {package}")
    print(f"{lines.total():7,} code lines in {len(found.modules)} modules")
    print(f"{len(found.counted_pairs):7,} pairs of packages with an import between them")
    for title, group in (
        ("circles of packages", [" <-> ".join(each) for each in found.circles]),
        ("circles of modules", [" <-> ".join(each) for each in found.module_circles]),
        ("imports against the order", [f"{a} -> {b}" for a, b in found.upward]),
        ("files of more than 400 lines", [
            f"{name} ({count})" for name, m in found.modules.items()
            if (count := len(m.path.read_text().splitlines())) > 400
        ]),
        ("file names of several modules", [
            f"{key}: {', '.join(places)}" for key, places in found.same_file_names.items()
        ]),
        ("class names defined several times", [
            f"{key}: {', '.join(places)}" for key, places in found.same_class_names.items()
        ]),
    ):  # fmt: skip
        print(f"{len(group):7,} {title}")
        for each in group:
            print(f"          {each}")


if __name__ == "__main__":
    main()
