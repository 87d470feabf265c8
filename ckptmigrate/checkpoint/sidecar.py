"""`ckptmigrate.json`: the migration history of a checkpoint, used to undo its migrations.

`.ckptmigrate/NNNN/` stores the original of every metadata file that step NNNN changed. A step is
trusted only while the hashes match, which shows that nobody has changed the checkpoint since. Then
the checkpoint *before the first such step* can be read (`original`). Every further migration starts
from it, so that data dropped by one migration is available to the next.

A repair is a step, too, and can be undone with its original files. But the next downgrade must not
start from the damaged checkpoint. Therefore a repaired checkpoint counts as an original, and no
migration uses the files from before the repair. The same applies if a step dropped the optimizer or
rewrote data files without their unused bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.storage.directories import Directory, Overlay, size_of
from ckptmigrate.storage.limits import LARGEST_JSON
from ckptmigrate.storage.link_rules import NAMES
from ckptmigrate.text.commands import shell

FILE: Final = "ckptmigrate.json"
FOLDER: Final = ".ckptmigrate"
REPAIR: Final = "repair"  # command of a step that is not a migration, see `original`
DROPPED: Final = "drop"
MOST_FOLDERS: Final = 2  # maximum folders between a checkpoint and the files of a nested checkpoint
_FORMAT: Final = 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileState:
    """SHA-256 hashes of a file before and after a step; None if the file did not exist."""

    before: str | None
    after: str | None


@dataclass(frozen=True)
class Step:
    """One migration or repair.

    Attributes:
        verb: `upgrade`, `downgrade` or REPAIR.
        source: the possible layouts before the step.
        target: the requested layout.
        version: version of ckptmigrate.
        time: ISO 8601 time in UTC.
        losses: the data losses that the user allowed.
        changes: the changes, one line each.
        files: name -> hashes, for every metadata file, changed or not, and for new data files.
        payload: the new data files, which may be large.
        in_place: whether the step changed this checkpoint in place; False if it was written as the
            result.
        optimizer: the sharding type that the optimizer was converted to, DROPPED, or "" if it was
            kept.
        compacts: whether data files were rewritten without their unused bytes.
        extra_state: how the step changed the `_extra_state` of Transformer Engine: `drop` or `add`;
            empty if it was kept.
        transformer_engine: the version that the user named; empty for none.
    """

    verb: str
    source: tuple[str, ...]
    target: str
    version: str
    time: str
    losses: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    files: Mapping[str, FileState] = field(default_factory=dict)
    payload: tuple[str, ...] = ()
    in_place: bool = True
    optimizer: str = ""
    compacts: bool = False
    extra_state: str = ""
    transformer_engine: str = ""

    @property
    def makes_original(self) -> bool:
        """Return whether later migrations start from the result of this step."""
        return self.verb == REPAIR or self.optimizer == DROPPED or self.compacts


def is_small_file(name: str) -> bool:
    """Return whether a migration may write a file of this name (`folder/file` if nested)."""
    *folders, file = name.split("/")
    inside = len(folders) <= MOST_FOLDERS and all(map(is_visible, folders)) and "\0" not in name
    return inside and file != FILE and NAMES.fullmatch(file) is not None


def is_visible(folder: str) -> bool:
    """Return whether a folder of this name can be a nested checkpoint; not if hidden or `..`."""
    return bool(folder) and not folder.startswith(".")


def digest(content: bytes | None) -> str | None:
    """Return the SHA-256 hash of a file's content, in hex; None if there is no file."""
    return None if content is None else hashlib.sha256(content).hexdigest()


def digest_of(directory: Directory, name: str) -> str | None:
    """Return the SHA-256 hash of `file` or `folder/file`; None if it does not exist."""
    if size_of(directory, name) is None:
        return None
    found = hashlib.sha256()
    for piece in directory.pieces(name):
        found.update(piece)
    return found.hexdigest()


def folder(step: int) -> str:
    """Return the folder of a step's original files in the checkpoint; steps start at 0."""
    return f"{FOLDER}/{step + 1:04d}"


def is_folder(name: str) -> bool:
    """Return whether a name in FOLDER is that of a step's original files."""
    return re.fullmatch(r"\d{4,}", name, re.ASCII) is not None


def dump(steps: tuple[Step, ...]) -> bytes:
    """Return the bytes of a migration history."""
    rows = [asdict(step) for step in steps]
    for row in rows:
        for name in ("payload", "optimizer", "compacts", "extra_state", "transformer_engine"):
            if not row[name]:
                del row[name]
    return (json.dumps({"format": _FORMAT, "steps": rows}, indent=1) + "\n").encode()


def out_of_place(content: bytes) -> bytes:
    """Return the migration history for an out-of-place result: no step was done in place."""
    steps = tuple(_step(row) for row in json.loads(content)["steps"])
    return dump(tuple(replace(step, in_place=False) for step in steps))


def with_files(
    content: bytes, files: Mapping[str, FileState], payload: tuple[str, ...] = ()
) -> bytes:
    """Return the migration history with more files in its last step, or other states of them.

    Args:
        payload: those of `files` that are new data files.
    """
    steps = tuple(_step(row) for row in json.loads(content)["steps"])
    files = {**steps[-1].files, **files}
    return dump((*steps[:-1], replace(steps[-1], files=files, payload=payload)))


def load(directory: Directory) -> tuple[Step, ...]:
    """Return the steps of a checkpoint's migration history, oldest first; () if there is none.

    Raises:
        DamagedError: ckptmigrate.json is not a valid migration history.
    """
    if FILE not in directory.files():
        return ()
    path = directory.path / FILE
    remove = shell("rm", "-rf", path, directory.path / FOLDER)
    fix = f"to delete the migration history and its original files, run `{remove}`"
    if directory.files()[FILE] > LARGEST_JSON:
        raise DamagedError("is too large for a migration history", path=path, fix=fix)
    try:
        content = json.loads(directory.read(FILE))
        if type(content["format"]) is not int or content["format"] != _FORMAT:
            raise ValueError(f"format {short_repr(content['format'])}")
        if not isinstance(content["steps"], list):
            raise TypeError("steps is not a list")
        return tuple(_step(row) for row in content["steps"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"is not a migration history ({error})", path=path, fix=fix) from error


def _step(row: Mapping[str, Any]) -> Step:
    files = {}
    for name, state in row["files"].items():
        if not is_small_file(name):
            raise ValueError(f"it refers to the file {name!r}")
        files[name] = file_state(state)
    return Step(
        verb=_text(row["verb"]),
        source=_texts(row["source"]),
        target=_text(row["target"]),
        version=_text(row["version"]),
        time=_text(row["time"]),
        losses=_texts(row["losses"]),
        changes=_texts(row["changes"]),
        files=files,
        payload=_texts(row.get("payload", [])),
        in_place=row.get("in_place") is not False,
        optimizer=_text(row.get("optimizer", "")),
        compacts=row.get("compacts") is True,
        extra_state=_text(row.get("extra_state", "")),
        transformer_engine=_text(row.get("transformer_engine", "")),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{short_repr(value)} is not text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{short_repr(value)} is not a list")
    return tuple(_text(each) for each in value)


def file_state(row: Mapping[str, Any]) -> FileState:
    """Return the hashes of a file from JSON.

    Raises:
        ValueError, KeyError, TypeError: the JSON is not a valid file state.
    """
    before, after = row["before"], row["after"]
    for value in (before, after):
        if value is not None and not _DIGEST.fullmatch(_text(value)):
            raise ValueError(f"{short_repr(value)} is not a SHA-256 hash")
    return FileState(before, after)


@dataclass(frozen=True)
class Original:
    """A checkpoint before the migrations that its history can undo.

    Attributes:
        directory: directory to read it from; the checkpoint itself if there is no such migration.
        steps: all steps of the history.
        first: the index of the first undone step; len(steps) if there is none.
        files: the files of the original that differ from the checkpoint: name -> bytes, None for a
            file that did not exist.
        payload: the data files that the undone steps wrote -> their hashes.
        stale: why the newest step is not trusted, or None.
    """

    directory: Directory
    steps: tuple[Step, ...]
    first: int
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    payload: Mapping[str, str | None] = field(default_factory=dict)
    stale: str | None = None

    @property
    def undone(self) -> tuple[Step, ...]:
        """Return the steps between the original and the checkpoint, oldest first."""
        return self.steps[self.first :]


def original(directory: Directory) -> Original:
    """Return the checkpoint from which a migration starts.

    It is the checkpoint before the migrations that can be undone, or after the last step that makes
    an original.

    Raises:
        DamagedError: the migration history cannot be read.
    """
    return _original(directory, lambda step: step.makes_original)


def oldest(directory: Directory) -> Original:
    """Return the checkpoint before all steps that can be undone, or after the last repair.

    It is also the result of a step that omitted data files of the checkpoint before it.
    """
    return _original(
        directory,
        lambda step: step.verb == REPAIR or (step.compacts and not step.in_place),
    )


def _original(directory: Directory, ends: Callable[[Step], bool]) -> Original:
    """Return the checkpoint before the steps that can be undone, or after the last that `ends`."""
    steps = load(directory)
    now: dict[str, bytes | None] = {}
    payload: dict[str, str | None] = {}
    first = len(steps)
    stale = None
    while first and not ends(steps[first - 1]):
        step = steps[first - 1]
        before, stale = _before(directory, step, folder(first - 1), now)
        if before is None:
            break
        payload |= {name: step.files[name].after for name in step.payload}
        now.update({name: content for name, content in before.items() if name not in payload})
        first -= 1
    if first == len(steps):
        return Original(directory, steps, first, stale=stale)
    return Original(Overlay(directory, now), steps, first, now, payload)


def before_last(directory: Directory) -> tuple[Step, dict[str, bytes | None] | None, str | None]:
    """Return the last step, and the original contents of its changed files or None and the reason.

    Raises:
        DamagedError: the migration history cannot be read.
        IndexError: there is no step.
    """
    steps = load(directory)
    return steps[-1], *_before(directory, steps[-1], folder(len(steps) - 1), {})


def _before(
    directory: Directory, step: Step, place: str, now: Mapping[str, bytes | None]
) -> tuple[dict[str, bytes | None] | None, str | None]:
    """Return the original contents of a step's changed files, or None and the reason."""
    before: dict[str, bytes | None] = {}
    for name, state in step.files.items():
        found = digest(now[name]) if name in now else digest_of(directory, name)
        if found != state.after:
            return None, f"{name} changed after the migration"
        if state.before == state.after:
            continue
        if state.before is None:
            before[name] = None
            continue
        try:
            kept = directory.read(f"{place}/{name}")
        except DamagedError:
            return None, f"{place}/{name} is missing"
        if digest(kept) != state.before:
            return None, f"{place}/{name} changed after the migration"
        before[name] = kept
    return before, None
