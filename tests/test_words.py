"""What a file that may not be read is told as, and names that Markdown would notify."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from conftest import Run, checkpoint_of

import ckptmigrate
from ckptmigrate.errors import DamagedError
from ckptmigrate.report import markdown
from ckptmigrate.storage import local_files

Copy = Callable[[str], Path]


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Have the system refuse to open a file, as it does to all but root."""
    opened = local_files.opened

    def of(forbidden: Path) -> None:
        @contextlib.contextmanager
        def refusing(path: Path) -> Iterator[BinaryIO]:
            if path == forbidden:
                raise PermissionError(13, "Permission denied", str(path))
            with opened(path) as file:
                yield file

        monkeypatch.setattr(local_files, "opened", refusing)

    return of


# Sample, file, and the code that `verify` gives it.
CASES = [
    ("0.17.1-idle-w1", "common.pt", "common-unreadable"),
    ("0.17.1-idle-w1", ".metadata", "metadata-unreadable"),
    ("0.17.1-idle-w1", "metadata.json", "marker-unreadable"),
    ("0.19.0-idle-w1", "__0_0.distcp", "common-unreadable"),
    ("0.17.1-fault-w1", "__0_0.distcp", "blob-unreadable"),
]


@pytest.mark.parametrize(("sample", "name", "code"), CASES)
def test_a_file_that_may_not_be_read_is_not_called_broken(
    copy: Copy, forbid: Callable[[Path], None], sample: str, name: str, code: str
) -> None:
    checkpoint = checkpoint_of(copy(sample))
    assert (checkpoint / name).is_file()
    forbid(checkpoint / name)
    [finding] = [f for f in ckptmigrate.verify(checkpoint).findings if f.code == code]
    assert "make it readable" in finding.remedy
    assert "from a copy" not in finding.remedy
    with pytest.raises(DamagedError, match="Permission denied") as refused:
        ckptmigrate.migrate(checkpoint, to="universal", output=checkpoint.parent.with_name("out"))
    assert "make it readable" in str(refused.value)
    assert "from a copy" not in str(refused.value)


@pytest.mark.parametrize("text", ["@octocat", "see @org/team", "#1", "fixes #42", "GH-7", "a@b.c"])
def test_markdown_notifies_nobody(text: str) -> None:
    """GitHub and GitLab look for names in what is rendered, where a backslash is gone."""
    shown = markdown._text(text)
    for found in ("@octocat", "@org", "#1", "#42", "GH-7", "@b"):
        assert found not in shown
    assert shown.replace("<!-- -->", "").replace("\\", "") == text


def test_a_report_on_a_hostile_name(run: Run, copy: Copy, tmp_path: Path) -> None:
    root = copy("0.17.1-idle-w1").rename(tmp_path / "@octocat fixes #42")
    run("inspect", root / "nothing", "--report", "r.md")
    run("verify", root, "--report", "r.md")
    lines = (tmp_path / "r.md").read_text()
    outside = "".join(lines.split("`")[::2])  # what is code is not looked at
    assert "@octocat" not in outside
    assert "#42" not in outside
