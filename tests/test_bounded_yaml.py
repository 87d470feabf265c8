"""A compat_matrix.yaml of anybody: each mistake is an error that names its line, soon."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

import forked
import pytest
from conftest import Run, refused

from ckptmigrate import clock
from ckptmigrate.compat import bounded_yaml, compilation
from ckptmigrate.errors import CompatError

FACTS = Path(__file__).parent.parent / "compat_matrix.yaml"
SECONDS = 10.0  # of CPU, for the largest; a file of 100 kB takes 1
BAD = {
    "digits": (2, "# a comment\nschema: " + "9" * 100_000),
    "sexagesimal": (2, "%YAML 1.1\n--- {a: 190:20:30}"),
    "hexadecimal without digits": (1, "schema: 0x_"),
    "infinite": (1, "schema: .inf"),
    "brackets": (1, "[" * 100_000),
    "braces": (1, "{a: " * 100_000),
    "nested keys": (20, "".join(f"{' ' * n}k:\n" for n in range(700))),
    "nested lists": (1, "- " * 100_000),
    "equal keys": (15_000, "a: 1\n" * 80_000),
    "values": (1, f"[{'a,' * 200_000}]"),
    "equal key": (2, "schema: 1\nschema: 1"),
    "omap": (2, "\n!!omap [a: 1]"),
    "set": (1, "!!set {a, b}"),
    "date": (2, "a: b\nc: 2001-99-99"),
    "real date": (1, "schema: 2001-01-01"),
    "binary": (1, "a: !!binary xx"),
    "object": (1, "a: !!python/object/apply:os.system [touch X]"),
    "alias of itself": (1, "a: &x [*x]"),
    "alias of nothing": (1, "a: *x"),
    "merge": (1, "a: {<<: {b: 1}}"),
    "list as a key": (1, "? [a]\n: b"),
    "two documents": (2, "a: 1\n--- {b: 2}"),
    "NUL": (3, "a: 1\n\nb: \0"),
    "escape": (2, '\na: "\\UFFFFFFFF"'),
    "nothing": (1, ""),
    "comments": (1, "#\n" * 250_000),
    "not UTF-8": (3, b"a: 1\n\n\xff: 2"),
    "UTF-16": (1, "a: 1".encode("utf-16")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_names_its_line(name: str, run: Run, tmp_path: Path) -> None:
    line, content = BAD[name]
    facts = tmp_path / "facts.yaml"
    facts.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = facts.read_bytes()
    start = forked.spent
    result = run("matrix", "add", "9.9.0", "--facts", facts)
    refused(result, f"{facts}: line {line}: ")
    assert forked.spent - start < SECONDS
    assert facts.read_bytes() == before


def test_what_is_too_large_is_not_read(run: Run, tmp_path: Path) -> None:
    facts = tmp_path / "facts.yaml"
    with facts.open("wb") as file:
        file.truncate(1024**4)
    refused(
        run("matrix", "add", "9.9.0", "--facts", facts), "facts.yaml", "larger than 524288 bytes"
    )
    there = ("--readers", tmp_path, "--samples", tmp_path)
    refused(run("matrix", "run", *there, "--facts", facts), "larger than 524288 bytes")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('  - release: "0.11.0"\n', '  - release: "newest"\n'),
        ('  - writer: "0.11.0"\n', '  - writer: "newest"\n'),
        ('known_releases: ["0.8", ', 'known_releases: ["newest", '),
    ],
)
def test_a_release_is_one(old: str, new: str) -> None:
    text = FACTS.read_text()
    line = text[: text.index(old)].count("\n") + 1
    with pytest.raises(CompatError, match=f"line {line}: 'newest' is not a release"):
        compilation.compiled(text.replace(old, new, 1))


def test_no_rows_to_follow(run: Run, tmp_path: Path) -> None:
    facts = tmp_path / "facts.yaml"
    text = FACTS.read_text()
    facts.write_text(re.sub(r"(?s)\nmatrix:\n.*", "\nmatrix: []\nalike: []\n", text))
    refused(run("matrix", "add", "9.9.0", "--facts", facts), "no rows that the new rows can follow")


def test_there_is_room_for_four_times_the_file() -> None:
    text = FACTS.read_text()
    assert 4 * len(text.encode()) < bounded_yaml._LARGEST


@pytest.mark.parametrize(
    "seconds", [-62_135_596_800, -86_400.5, -1, 0, 1_796_000_000.7, 253_402_300_799]
)
def test_times_that_python_has(seconds: float) -> None:
    expected = datetime.fromtimestamp(seconds // 1, timezone.utc).isoformat(timespec="seconds")
    assert clock.in_utc(seconds // 1) == expected


def test_years_of_other_than_four_digits() -> None:
    """ISO 8601 has them with a sign and six digits, as far as Python's own dates do not reach."""
    assert clock.in_utc(253_402_300_800) == "+010000-01-01T00:00:00+00:00"
    assert clock.in_utc(-62_167_219_201) == "-000001-12-31T23:59:59+00:00"
