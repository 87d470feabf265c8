"""`ckptmigrate.json`: what was done to a checkpoint, and the way back.

Beside it, `.ckptmigrate/NNNN/` keeps the original of every small file that step NNNN changed.
A step is believed only while the digests say that nobody changed the checkpoint since; then
the checkpoint *as it was before the first such step* can be read (`original`), and every
further migration starts from there, so that nothing dropped on the way is lost to the next.

A repair is a step, too, and can be taken back by its originals like any other. But nobody repairs
a checkpoint to have the next downgrade start from the broken one: a repaired checkpoint is an
original of its own, and no migration looks behind it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from ckptmigrate.access.storage import LARGEST_JSON, NAMES, Directory, Overlay, size_of
from ckptmigrate.errors import DamagedError
from ckptmigrate.inert.short import short
from ckptmigrate.text.commands import shell

FILE: Final = "ckptmigrate.json"
FOLDER: Final = ".ckptmigrate"
REPAIR: Final = "repair"  # the verb of a step that is no migration, see `original`
MOST_FOLDERS: Final = 2  # between a checkpoint and the files of one that is nested in it
_FORMAT: Final = 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileState:
    """SHA-256 digests of a file before and after a step; None where it did not exist."""

    before: str | None
    after: str | None


@dataclass(frozen=True)
class Step:
    """One migration.

    Attributes:
        verb: `upgrade`, `downgrade` or REPAIR.
        source: the layouts the checkpoint could have had before.
        target: the layout asked for.
        version: of ckptmigrate.
        time: when, ISO 8601 in UTC.
        losses: the losses that the user allowed.
        changes: what changed, a line each.
        files: name -> digests, for every small file, changed or not.
        in_place: whether this very checkpoint was changed, and not written as the result.
    """

    verb: str
    source: tuple[str, ...]
    target: str
    version: str
    time: str
    losses: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    files: Mapping[str, FileState] = field(default_factory=dict)
    in_place: bool = True


def is_small_file(name: str) -> bool:
    """Whether a name is of a file that a migration may have written, `folder/file` in a nested
    checkpoint."""
    *folders, file = name.split("/")
    inside = len(folders) <= MOST_FOLDERS and all(map(is_visible, folders)) and "\0" not in name
    return inside and file != FILE and NAMES.fullmatch(file) is not None


def is_visible(folder: str) -> bool:
    """Whether a folder of this name can be a nested checkpoint: no hidden one, nor `..`."""
    return bool(folder) and not folder.startswith(".")


def digest(content: bytes | None) -> str | None:
    """The SHA-256 of a file's content, in hex; None for no file."""
    return None if content is None else hashlib.sha256(content).hexdigest()


def digest_of(directory: Directory, name: str) -> str | None:
    """The digest of `file` or `folder/file`; None where there is none."""
    if size_of(directory, name) is None:
        return None
    found = hashlib.sha256()
    for piece in directory.pieces(name):
        found.update(piece)
    return found.hexdigest()


def folder(step: int) -> str:
    """Where the originals of a step lie, relative to the checkpoint; steps count from 0."""
    return f"{FOLDER}/{step + 1:04d}"


def is_folder(name: str) -> bool:
    """Whether a name in FOLDER is that of the originals of a step."""
    return re.fullmatch(r"\d{4,}", name, re.ASCII) is not None


def dump(steps: tuple[Step, ...]) -> bytes:
    """The bytes of a sidecar."""
    rows = [asdict(step) for step in steps]
    return (json.dumps({"format": _FORMAT, "steps": rows}, indent=1) + "\n").encode()


def out_of_place(content: bytes) -> bytes:
    """The bytes of a sidecar for a result out of place: of its steps none was done there."""
    steps = tuple(_step(row) for row in json.loads(content)["steps"])
    return dump(tuple(replace(step, in_place=False) for step in steps))


def load(directory: Directory) -> tuple[Step, ...]:
    """The steps of a checkpoint's sidecar, oldest first; none where there is no sidecar.

    Raises:
        DamagedError: it is no sidecar.
    """
    if FILE not in directory.files():
        return ()
    path = directory.path / FILE
    remove = shell("rm", "-rf", path, directory.path / FOLDER)
    fix = f"to go on without the way back that it describes run `{remove}`"
    if directory.files()[FILE] > LARGEST_JSON:
        raise DamagedError("is too large to be a sidecar", path=path, fix=fix)
    try:
        content = json.loads(directory.read(FILE))
        if type(content["format"]) is not int or content["format"] != _FORMAT:
            raise ValueError(f"format {short(content['format'])}")
        if not isinstance(content["steps"], list):
            raise TypeError("its steps are no list")
        return tuple(_step(row) for row in content["steps"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"is no sidecar ({error})", path=path, fix=fix) from error


def _step(row: Mapping[str, Any]) -> Step:
    files = {}
    for name, state in row["files"].items():
        if not is_small_file(name):
            raise ValueError(f"it names the file {name!r}")
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
        in_place=row.get("in_place") is not False,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{short(value)} is no text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{short(value)} is no list")
    return tuple(_text(each) for each in value)


def file_state(row: Mapping[str, Any]) -> FileState:
    """The digests of a file in JSON.

    Raises:
        ValueError, KeyError, TypeError: they are none.
    """
    before, after = row["before"], row["after"]
    for value in (before, after):
        if value is not None and not _DIGEST.fullmatch(_text(value)):
            raise ValueError(f"{short(value)} is no SHA-256")
    return FileState(before, after)


@dataclass(frozen=True)
class Original:
    """A checkpoint as it was before the migrations that its sidecar vouches for.

    Attributes:
        directory: to read it from; the checkpoint itself where there is no such migration.
        steps: all steps of the sidecar.
        first: the index of the first step undone; len(steps) where none is.
        files: what the original has otherwise than the checkpoint: name -> bytes, None for
            a file that was not there.
        stale: why the newest step is not believed, or None.
    """

    directory: Directory
    steps: tuple[Step, ...]
    first: int
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    stale: str | None = None

    @property
    def undone(self) -> tuple[Step, ...]:
        """The steps between the original and the checkpoint, oldest first."""
        return self.steps[self.first :]


def original(directory: Directory) -> Original:
    """The checkpoint before the migrations that its sidecar vouches for, or after the last repair.

    Raises:
        DamagedError: the sidecar cannot be read.
    """
    steps = load(directory)
    now: dict[str, bytes | None] = {}
    first = len(steps)
    stale = None
    while first and steps[first - 1].verb != REPAIR:
        step = steps[first - 1]
        before, stale = _before(directory, step, folder(first - 1), now)
        if before is None:
            break
        now.update(before)
        first -= 1
    if first == len(steps):
        return Original(directory, steps, first, stale=stale)
    return Original(Overlay(directory, now), steps, first, now)


def before_last(directory: Directory) -> tuple[Step, dict[str, bytes | None] | None, str | None]:
    """The last step, and the files that it changed as they were; or None and why not.

    Raises:
        DamagedError: the sidecar cannot be read.
        IndexError: there is no step.
    """
    steps = load(directory)
    return steps[-1], *_before(directory, steps[-1], folder(len(steps) - 1), {})


def _before(
    directory: Directory, step: Step, place: str, now: Mapping[str, bytes | None]
) -> tuple[dict[str, bytes | None] | None, str | None]:
    """The files that a step changed, as they were; or None and why they cannot be believed."""
    before: dict[str, bytes | None] = {}
    for name, state in step.files.items():
        found = digest(now[name]) if name in now else digest_of(directory, name)
        if found != state.after:
            return None, f"{name} was changed since"
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
            return None, f"{place}/{name} was changed since"
        before[name] = kept
    return before, None
