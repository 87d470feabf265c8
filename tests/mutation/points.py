"""Mutation points of the core packages: found in the syntax tree, applied to the text."""

from __future__ import annotations

import ast
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("planning", "versions", "releases", "checkpoint", "writing")
_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "//"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: (r"\*\*", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
}
# The change of such an operator is the negation of the test that it makes.
_NEGATED_BY_OPERATOR = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
# Node, statement around it, first and last offset of the old text, new text.
_Point = tuple[ast.expr | ast.stmt, ast.stmt, int, int, str]


@dataclass(frozen=True)
class Mutant:
    """One change of a source file.

    Attributes:
        file: path, relative to the repository.
        line: number of the line where the change starts, from 1.
        lines: the first and last line of the expression or statement.
        statement: the first and last line of the statement around it, without its block.
        start: offset of `old` in the file, in bytes.
        old, new: the text and its replacement.
        occurrence: how many times the same change of an equal line precedes it in the file.
    """

    file: str
    line: int
    lines: tuple[int, int]
    statement: tuple[int, int]
    start: int
    old: str
    new: str
    occurrence: int

    def apply(self, source: bytes) -> bytes:
        """Return the source with the change."""
        end = self.start + len(self.old.encode())
        assert source[self.start : end] == self.old.encode()
        return source[: self.start] + self.new.encode() + source[end:]


def sample(repository: Path, seed: int, count: int) -> list[Mutant]:
    """Return a random sample of the mutants of the core packages.

    A mutant keeps its random number as long as its file name, its line and its change stay the
    same: lines that are added or moved elsewhere do not change the sample.
    """
    ranked = []
    for package in PACKAGES:
        for path in sorted((repository / "ckptmigrate" / package).rglob("*.py")):
            source = path.read_bytes()
            text = source.decode().splitlines()
            for m in _Finder(str(path.relative_to(repository)), source).mutants():
                name = f"{seed} {m.file} {text[m.line - 1].strip()} {m.old} {m.new} {m.occurrence}"
                ranked.append((random.Random(name).random(), m.file, m.start, m.new, m))
    return sorted((each[-1] for each in sorted(ranked, key=lambda each: each[:4])[:count]),
                  key=lambda m: (m.file, m.start))  # fmt: skip


class _Finder:
    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source = file, source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def mutants(self) -> Iterator[Mutant]:
        seen: Counter[tuple[bytes, str, str]] = Counter()
        for node, statement, start, end, new in self._in_block(ast.parse(self.source)):
            old = self.source[start:end].decode()
            line = self.source.count(b"\n", 0, start) + 1
            identity = (self.source[self.starts[line - 1] : self.starts[line]].strip(), old, new)
            body = [n.lineno for n in ast.iter_child_nodes(statement) if isinstance(n, ast.stmt)]
            last = min([n - 1 for n in body] or [statement.end_lineno or 0])
            lines = (node.lineno, node.end_lineno or node.lineno)
            around = (statement.lineno, max(last, statement.lineno))
            yield Mutant(self.file, line, lines, around, start, old, new, seen[identity])
            seen[identity] += 1

    def _in_block(self, tree: ast.AST) -> Iterator[_Point]:
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, ast.stmt):
                if not _skipped(node):
                    yield from self._in_statement(node)
            elif isinstance(node, (ast.ExceptHandler, ast.match_case)):
                yield from self._in_block(node)

    def _in_statement(self, node: ast.stmt) -> Iterator[_Point]:
        start, end = self._span(node)
        deleted = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        if deleted or isinstance(node, (ast.Raise, ast.Continue)):
            yield node, node, start, end, "pass"
        if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
            yield node, node, start, end, "return None"
        if isinstance(node, (ast.If, ast.While)):
            yield from self._negation(node.test, node)
        if isinstance(node, ast.AugAssign):
            old, new = _ARITHMETIC[type(node.op)]
            yield self._between(node, node, node.target, node.value, old, new)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(
                    child, (ast.stmt, ast.ExceptHandler)
                ):
                    yield from self._in_expression(child, node)
        yield from self._in_block(node)

    def _in_expression(self, node: ast.AST, within: ast.stmt) -> Iterator[_Point]:
        if isinstance(node, (ast.JoinedStr, ast.stmt)):
            return
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for op, left, right in zip(node.ops, sides, sides[1:], strict=False):
                yield self._between(node, within, left, right, *_COMPARISONS[type(op)])
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield self._between(node, within, left, right, old, new)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start, _ = self._span(node)
            yield node, within, start, start + len("not"), ""
        elif isinstance(node, ast.BinOp) and not (_is_text(node.left) or _is_text(node.right)):
            old, new = _ARITHMETIC[type(node.op)]
            yield self._between(node, within, node.left, node.right, old, new)
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int)):
            new = str(not node.value if isinstance(node.value, bool) else node.value + 1)
            yield node, within, *self._span(node), new
        elif isinstance(node, ast.IfExp):
            yield from self._negation(node.test, within)
        for field, value in ast.iter_fields(node):
            if field != "annotation":
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        yield from self._in_expression(child, within)

    def _negation(self, test: ast.expr, within: ast.stmt) -> Iterator[_Point]:
        if isinstance(test, ast.Constant) or (
            isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        ):
            return
        ops = test.ops if isinstance(test, ast.Compare) else []
        if len(ops) == 1 and isinstance(ops[0], _NEGATED_BY_OPERATOR):
            return
        start, end = self._span(test)
        yield test, within, start, end, f"not ({self.source[start:end].decode()})"

    def _between(
        self,
        node: ast.expr | ast.stmt,
        within: ast.stmt,
        left: ast.AST,
        right: ast.AST,
        old: str,
        new: str,
    ) -> _Point:
        start, end = self._span(left)[1], self._span(right)[0]
        found = re.search(old.encode(), self.source[start:end])
        assert found is not None, (self.file, start)
        return node, within, start + found.start(), start + found.end(), new

    def _span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, (ast.expr, ast.stmt)) and node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )


def import_lines(source: bytes) -> set[int]:
    """Return the lines of a module that are executed when it is imported."""
    tree = ast.parse(source)
    inside = {
        line
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1)
    }
    return set(range(1, source.count(b"\n") + 2)) - inside


def imported_modules(source: bytes) -> set[str]:
    """Return the files that a module may import from, relative to the repository."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                found |= {name.replace(".", "/") + ".py", name.replace(".", "/") + "/__init__.py"}
    return found


def _skipped(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(each, ast.Name) and each.id == "__all__" for each in targets)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
