"""One module opens files, and it opens nothing that could wait forever or never end."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Run, checkpoint_of

import ckptmigrate
from ckptmigrate.storage import local_files

PACKAGE = Path(ckptmigrate.__file__).parent
OPENER = "storage/local_files.py"
# Programs that run inside of a real Megatron release, where this package is not.
APART = ("measuring/training_job/", "measuring/optimizer_job/")

# What opens a file, as the last part of a name that is called.
OPENING = {
    "open", "fdopen", "openat", "open_code", "FileIO", "read_text", "read_bytes", "write_text",
    "write_bytes", "touch", "copyfile", "copy2", "copytree", "copyfileobj", "move", "mmap", "File",
    "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "mkstemp", "ZipFile",
    "open_file", "fromfile", "memmap", "getline", "getlines", "FileInput", "FileHandler",
    "run_path",
}  # fmt: skip
# Calls of these names that open no file of this machine: (module, what is called).
OTHERS = {("storage/store.py", "self._fs.open"), ("cli/help.py", "super().write_text")}


def opens(source: str) -> Iterator[tuple[int, str]]:
    """Every call that opens a file, and every import of what does: line and text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                if name.name in OPENING:
                    yield node.lineno, f"{node.module}.{name.name}"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.rpartition(".")[2] in OPENING and not called.startswith("local_files."):
                yield node.lineno, called


def test_no_other_module_opens_files() -> None:
    found = [
        f"{name}:{line}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if (name := path.relative_to(PACKAGE).as_posix()) != OPENER and not name.startswith(APART)
        for line, text in opens(path.read_text())
        if (name, text) not in OTHERS
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "open('x')", "Path('x').read_bytes()", "path.open()", "os.open('x', 0)", "io.open('x')",
        "from os import open as o", "shutil.copyfile(a, b)", "f(g).read_text()",
        "click.File('r')", "(lambda: 0) or open('x')",
    ],
)  # fmt: skip
def test_the_lint_sees_it(source: str) -> None:
    assert list(opens(source))


def test_the_opener_is_what_opens() -> None:
    assert list(opens((PACKAGE / OPENER).read_text()))


# -- what it opens


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


KINDS = {"a FIFO": fifo, "a device": device, "a directory": folder}


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    KINDS[kind](path)
    for call in (lambda: local_files.read(path, 10), lambda: local_files.append(path)):
        with pytest.raises(local_files.NotRegularError):
            call()


def test_a_read_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="larger than 10 bytes"):
        local_files.read(path, 10)
    assert local_files.read(path, 11) == b"x" * 11
    assert local_files.read(Path("/proc/self/status"), 10**6)  # says that it is empty
    assert len(local_files.read(Path("/proc/self/pagemap"), 100)) == 100  # and has no end


# -- through the verbs

HANGING = (
    ".ckptmigrate/stage/journal.json", ".ckptmigrate/lock", ".ckptmigrate/stage",
    "ckptmigrate.json", "../latest_checkpointed_iteration.txt",
)  # fmt: skip
NAMES = (
    *HANGING, ".metadata", "common.pt", "metadata.json", "integrity.json", "__0_0.distcp",
    ".ckptmigrate/stage/journal.json.new", ".ckptmigrate/stage/.old",
    ".ckptmigrate/stage/common.pt",
    ".ckptmigrate/0001/common.pt", ".ckptmigrate/0001", ".ckptmigrate",
    "../.iter_0000005.ckptmigrate-lock", "../.iter_0000005.ckptmigrate-stage",
    "../.latest_checkpointed_iteration.txt.ckptmigrate-new",
)  # fmt: skip
CHANGING = {
    "recover": ("recover",),
    "undo": ("undo",),
    "downgrade": ("downgrade", "--to", "pre-rerun", "--in-place"),
    "repair": ("repair", "--in-place"),
}
READING = {
    "inspect": ("inspect",),
    "verify": ("verify", "--hash"),
    "check": ("check",),
    "copy": ("downgrade", "--to", "pre-rerun", "-o", "{out}"),
}


@pytest.mark.parametrize(
    ("name", "kind", "verbs"),
    [
        *((name, "a FIFO", CHANGING) for name in HANGING),
        *(
            pytest.param(name, kind, verbs, marks=pytest.mark.full)
            for name in NAMES
            for kind in KINDS
            for verbs in (CHANGING, READING)
            if (name, kind, verbs) not in [(each, "a FIFO", CHANGING) for each in HANGING]
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_no_verb_waits_or_reads_forever(
    run: Run,
    copy: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    kind: str,
    verbs: dict[str, tuple[str, ...]],
) -> None:
    root = copy("0.17.1-idle-w1")
    assert run("downgrade", root, "--to", "sharded-rerun", "--in-place").returncode == 0
    checkpoint = checkpoint_of(root)
    path = checkpoint / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rename(tmp_path / "away")
    else:
        path.unlink(missing_ok=True)
    KINDS[kind](path)
    for verb, (first, *options) in verbs.items():
        words = [each.format(out=tmp_path / "out") for each in options]
        result = run(first, checkpoint, *words)
        assert result.returncode in (0, 1), (verb, result.stderr)
        assert "internal error" not in result.stderr, (verb, result.stderr)
        assert "Traceback" not in result.stderr, (verb, result.stderr)
        if result.returncode and result.stderr:
            assert "; " in result.stderr or "`" in result.stderr, (verb, result.stderr)


def test_a_journal_that_is_none_is_named(run: Run, copy: Callable[[str], Path]) -> None:
    root = copy("0.17.1-idle-w1")
    stage = checkpoint_of(root) / ".ckptmigrate" / "stage"
    stage.mkdir(parents=True)
    os.mkfifo(stage / "journal.json")
    for verb in ("recover", "undo"):
        result = run(verb, checkpoint_of(root))
        assert result.returncode == 1
        assert "journal.json" in result.stderr and "regular file" in result.stderr
