"""The structure of the package gets no worse; `make structure` prints it.

Each limit is what the package has today. A change that improves one lowers it here.
"""

from __future__ import annotations

import pytest
import structure

PAIRS = 83
UPWARD: set[tuple[str, str]] = set()
LARGE: set[str] = set()
CIRCLES = 0
IN_CIRCLES = 0  # modules
SAME_FILE_NAMES = 0
SAME_CLASS_NAMES = 0


@pytest.fixture(scope="module")
def found() -> structure.Structure:
    return structure.structure()


def test_no_new_import_between_packages(found: structure.Structure) -> None:
    assert len(found.counted_pairs) <= PAIRS
    assert set(found.upward) <= UPWARD


def test_no_new_circle(found: structure.Structure) -> None:
    circles = found.module_circles
    assert len(circles) <= CIRCLES
    assert sum(map(len, circles)) <= IN_CIRCLES


def test_no_new_large_file(found: structure.Structure) -> None:
    lengths = {name: len(m.path.read_text().splitlines()) for name, m in found.modules.items()}
    assert {name for name, length in lengths.items() if length > 400} <= LARGE


def test_no_new_name_for_two_things(found: structure.Structure) -> None:
    assert len(found.same_file_names) <= SAME_FILE_NAMES
    assert len(found.same_class_names) <= SAME_CLASS_NAMES


def test_what_is_counted() -> None:
    """Every package has its place in the order, and a module that imports nothing has no arrow."""
    known = structure.modules()
    assert {m.package for m in known.values()} <= {*structure.ORDER, *structure.LEAVES, "pages"}
    assert structure.imports(known["version"], known) == set()
    assert "errors" in structure.imports(known["checkpoint.locate"], known)
    assert known["version"].code_lines == 1


def test_the_reader_of_large_files_is_behind_one_module(found: structure.Structure) -> None:
    users = {a for a, targets in found.edges.items() for b in targets if "checkpoint.large" in b}
    outside = {name for name in users if not name.startswith("checkpoint.large")}
    assert outside == {"checkpoint.metadata_file"}
