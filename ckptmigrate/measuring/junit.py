"""JUnit XML of a measurement, which CI services show: a test suite per reader."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from xml.etree import ElementTree

from ckptmigrate.text.printable import printable


@dataclass(frozen=True)
class MeasuredCase:
    """One test case.

    Attributes:
        reader: the release.
        name: what it loaded.
        outcome: the outcomes and error messages.
        problems: the differences from the expected outcomes.
    """

    reader: str
    name: str
    outcome: str
    problems: tuple[str, ...]


def xml(cases: Iterable[MeasuredCase]) -> str:
    """Return the text of a JUnit file."""
    root = ElementTree.Element("testsuites", name="ckptmigrate matrix run")
    ordered = sorted(cases, key=lambda case: (case.reader, case.name))
    for reader, of_reader in groupby(ordered, key=lambda case: case.reader):
        mine = list(of_reader)
        failed = sum(bool(case.problems) for case in mine)
        suite = ElementTree.SubElement(
            root, "testsuite", name=f"megatron-core {printable(reader)}",
            tests=str(len(mine)), failures=str(failed), errors="0",
        )  # fmt: skip
        for case in mine:
            test = ElementTree.SubElement(
                suite, "testcase", classname=f"megatron-core {printable(reader)}",
                name=printable(case.name),
            )  # fmt: skip
            if case.problems:
                message = printable("; ".join(case.problems))
                ElementTree.SubElement(test, "failure", message=message).text = message
            ElementTree.SubElement(test, "system-out").text = printable(case.outcome)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, "unicode")}\n'
