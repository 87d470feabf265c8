"""The tasks of the benchmarks and the contenders of each task."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.goals import Goal, Quantity
from benchmarks.measure import PROGRAMS
from benchmarks.payloads import MEGATRON, Grown, Many, Payload, Sample, Saved

GB: Final = 10**9
UNITS: Final = (("TB", 10**12), ("GB", GB), ("MB", 10**6))
FLOOR: Final = "floor: read, write, fsync what it changes"
INERT_LOAD: Final = "inert load: the C unpickler alone"
METADATA_FLOOR: Final = "floor: read, write, fsync `.metadata`"
UNVERIFIED: Final = "read, change, write, fsync `.metadata`, unverified (no verb does that)"
VERIFIED: Final = "read, change, verify, write, fsync `.metadata`"
INSPECT: Final = "`ckptmigrate inspect`"
VERIFY: Final = "`ckptmigrate verify`"
IN_PLACE: Final = "`ckptmigrate downgrade --in-place`"
# Reasons why a goal is missed.
_LEXED: Final = (
    "before anything is believed of a pickle, every row of it is read and held against what "
    "picklers write, at the speed of `re` and not of a disk"
)
_CHECKED: Final = "each row is read as by `inspect`, then compared with those of other tables"
_TWICE: Final = (
    "the file is read row by row twice, before the change and after it, and what starts and "
    "surrounds that weighs more where the file is small"
)
_WHOLE: Final = "the file, its new bytes and where each row stands are in memory at once"
_NOISE: Final = "both do the same, as the bytes and calls beside them show: this is noise"
# The values of --jobs for `--all`.
JOBS: Final = (1, 2)


@dataclass(frozen=True)
class Place:
    """The paths of one run of a contender.

    Attributes:
        root: a copy of the payload, which the contender can change.
        out: the path for its output, which does not exist.
    """

    root: Path
    out: Path

    @property
    def checkpoint(self) -> Path:
        """Return the newest checkpoint of the root."""
        return max(self.root.glob("iter_*"))


Command = Callable[[Place], list[str]]


@dataclass(frozen=True)
class Contender:
    """One way to do a task: a process.

    Attributes:
        name: its name in the table.
        payload: the root that it works on.
        command: returns the command line for a place.
        environment: additional environment variables.
    """

    name: str
    payload: Payload
    command: Command
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A task with its contenders; each is compared with the first.

    Attributes:
        name: its name in the table.
        repetitions: how often the contenders run, in turn.
        bytes_needed: the largest disk space that the task uses.
        per: the number of checkpoints, by which time and bytes are divided.
    """

    name: str
    contenders: tuple[Contender, ...]
    repetitions: int
    bytes_needed: int = GB
    per: int = 1


@dataclass(frozen=True)
class Scale:
    """The sizes and repetitions of a run of the benchmarks.

    Attributes:
        payloads: bytes of tensors -> repetitions.
        counts: checkpoints in one root -> repetitions.
        entries: keys of a large `.metadata` -> repetitions.
        largest: bytes of the sparse data files.
        repetitions: repetitions of all small tasks.
    """

    payloads: Mapping[int, int]
    counts: Mapping[int, int]
    entries: Mapping[int, int]
    largest: int
    repetitions: int


FULL: Final = Scale(
    payloads={3 * GB // 10: 5, 2 * GB: 3, 8 * GB: 3},
    counts={100: 5, 1000: 3},
    entries={100_000: 5, 1_000_000: 1},
    largest=1000 * GB,
    repetitions=15,
)
QUICK: Final = Scale({GB // 1000: 1}, {3: 1}, {200: 1}, GB, 1)


def tasks(scale: Scale) -> list[Task]:
    """Return all tasks, in the order of the table."""
    return [
        *(_migrating(size, repetitions) for size, repetitions in scale.payloads.items()),
        _inspecting(scale.repetitions),
        _starting(scale.repetitions),
        *(_sparse(where, scale.largest, scale.repetitions) for where in _SPARSE),
        *(_many(count, repetitions) for count, repetitions in scale.counts.items()),
        *(_large(entries, repetitions) for entries, repetitions in scale.entries.items()),
    ]


def _migrating(size: int, repetitions: int) -> Task:
    payload, to = Saved(size), "0.11.0"
    ways = (
        ("`ckptmigrate downgrade`", _downgrade_out(to)),
        (IN_PLACE, _downgrade_in_place(to)),
        (FLOOR, _floor(to)),
        ("torch: `read_metadata`, `pickle.dump`, fsync", _torch_metadata),
        ("`cp -r`", lambda place: ["cp", "-r", str(place.root), str(place.out)]),
        (
            "`cp -r --reflink=auto`",
            lambda place: ["cp", "-r", "--reflink=auto", str(place.root), str(place.out)],
        ),
        ("`cp -r`, then `sync -f`", _copy_and_sync),
        ("torch DCP: load, save", _program("dcp_copy")),
    )
    contenders = [Contender(name, payload, command) for name, command in ways]
    copy = _program("megatron_copy")
    contenders.append(
        Contender("megatron-core 0.16.1: `load_plain_tensors`, `save`", payload, copy, MEGATRON)
    )
    name = f"downgrade --to {to}, {_amount(size)} of payload"
    return Task(name, tuple(contenders), repetitions, bytes_needed=GB + 2 * size)


def _inspecting(repetitions: int) -> Task:
    return Task(
        "inspect, a sample of 61 entries",
        (
            Contender(INSPECT, Sample(), _inspect),
            Contender('`python -c "import torch"`', Sample(), _python("import torch")),
        ),
        repetitions,
    )


def _starting(repetitions: int) -> Task:
    return Task(
        "start, a sample of 61 entries",
        (
            Contender("`ckptmigrate --version`", Sample(), lambda _: _ckptmigrate("--version")),
            Contender("`ckptmigrate downgrade --dry-run`", Sample(), _dry_run("pre-rerun")),
            Contender('`python -c "import click"`', Sample(), _python("import click")),
            Contender('`python -c "pass"`', Sample(), _python("pass")),
        ),
        repetitions,
    )


def _sparse(where: str, largest: int, repetitions: int) -> Task:
    return Task(
        _sparse_task(where),
        tuple(
            Contender(_sparse_of(size), Sample(size), _SPARSE[where]("pre-rerun"))
            for size in (10**6, largest)
        ),
        repetitions,
    )


def _sparse_task(where: str) -> str:
    return f"downgrade --to pre-rerun, {where}, payload of holes (sparse)"


def _sparse_of(size: int) -> str:
    return f"`ckptmigrate downgrade`, {_amount(size)} of payload"


def _many(count: int, repetitions: int) -> Task:
    payload, to = Many(count), "pre-rerun"
    options = {jobs: ["--jobs", str(jobs)] if jobs > 1 else [] for jobs in JOBS}
    contenders = [
        Contender(
            f"`{' '.join(['ckptmigrate downgrade --all --in-place', *given])}`",
            payload,
            _downgrade_in_place(to, "--all", *given),
        )
        for given in options.values()
    ]
    contenders.append(Contender(FLOOR, payload, _floor(to)))
    name = f"downgrade --to {to} of {count} checkpoints, for each"
    return Task(name, tuple(contenders), repetitions, per=count)


def _large(entries: int, repetitions: int) -> Task:
    payload = Grown(entries)
    ways = (
        (INERT_LOAD, _program("inert_load")),
        (METADATA_FLOOR, _metadata_floor),
        (UNVERIFIED, _program("change_unverified")),
        (VERIFIED, _program("change_metadata")),
        ("torch: `read_metadata`, `pickle.dump`, fsync", _torch_metadata),
        (INSPECT, _inspect),
        (VERIFY, _verify),
        ("`ckptmigrate repair --dry-run`", _repair),
        (IN_PLACE, _downgrade_in_place("0.13.1")),
    )
    contenders = tuple(Contender(name, payload, command) for name, command in ways)
    return Task(_of_entries(entries), contenders, repetitions, bytes_needed=GB + 4000 * entries)


def _of_entries(entries: int) -> str:
    return f"a .metadata of {entries:,} entries, with plans"


def goals(scale: Scale) -> list[Goal]:
    """Return the goals: for large metadata, and that the size of data files costs no time."""
    found = []
    for task in map(_of_entries, scale.entries):
        found.append(Goal(task, UNVERIFIED, METADATA_FLOOR, Quantity.TIME, 3, _LEXED))
        found.append(Goal(task, VERIFIED, INERT_LOAD, Quantity.TIME, 1.5, _TWICE))
        found.append(Goal(task, VERIFY, INSPECT, Quantity.TIME, 2, _CHECKED))
    largest = _of_entries(max(scale.entries))
    found += [
        Goal(largest, VERIFIED, METADATA_FLOOR, Quantity.MEMORY, 8, _WHOLE),
        Goal(largest, IN_PLACE, METADATA_FLOOR, Quantity.MEMORY, 8, _WHOLE),
        Goal(largest, INSPECT, INERT_LOAD, Quantity.TIME, 1, _LEXED),
    ]
    for where in _SPARSE:
        small, large = (_sparse_of(size) for size in (10**6, scale.largest))
        found.append(Goal(_sparse_task(where), large, small, Quantity.TIME, 1.1, _NOISE))
    return found


# -- the processes


def _ckptmigrate(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ckptmigrate", *map(str, arguments)]


def _inspect(place: Place) -> list[str]:
    return _ckptmigrate("inspect", place.root)


def _verify(place: Place) -> list[str]:
    return _ckptmigrate("verify", place.root)


def _repair(place: Place) -> list[str]:
    return _ckptmigrate("repair", place.root, "--dry-run")


def _dry_run(to: str) -> Command:
    return lambda place: _ckptmigrate("downgrade", place.root, "--to", to, "--dry-run")


def _downgrade_out(to: str) -> Command:
    return lambda place: _ckptmigrate("downgrade", place.root, "--to", to, "-o", place.out)


def _downgrade_in_place(to: str, *options: str) -> Command:
    return lambda place: _ckptmigrate("downgrade", place.root, "--to", to, "--in-place", *options)


def _floor(to: str) -> Command:
    return lambda place: [
        *(sys.executable, "-I", "-S", str(PROGRAMS / "floor.py"), str(place.root)),
        *(f"{name}={size}" for name, size in changed_files(place.root, to).items()),
    ]


def _metadata_floor(place: Place) -> list[str]:
    size = (place.checkpoint / ".metadata").stat().st_size
    program = str(PROGRAMS / "floor.py")
    return [sys.executable, "-I", "-S", program, str(place.root), f".metadata={size}"]


def changed_files(root: Path, to: str) -> dict[str, int]:
    """Return the files of a checkpoint that a migration writes, with their sizes in bytes."""
    asked = _ckptmigrate("downgrade", root, "--to", to, "--dry-run", "--json")
    told = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    files = told["checkpoints"][-1]["files"]
    return {each["name"]: each["bytes"] for each in files if each["bytes"] is not None}


def _torch_metadata(place: Place) -> list[str]:
    return [sys.executable, str(PROGRAMS / "torch_metadata.py"), str(place.checkpoint)]


def _copy_and_sync(place: Place) -> list[str]:
    script = 'cp -r "$1" "$2" && sync -f "$2"'
    return ["sh", "-c", script, "sh", str(place.root), str(place.out)]


def _program(name: str) -> Command:
    program = str(PROGRAMS / f"{name}.py")
    return lambda place: [sys.executable, program, str(place.checkpoint), str(place.out)]


def _python(code: str) -> Command:
    return lambda _: [sys.executable, "-c", code]


_SPARSE: Final = {"out of place": _downgrade_out, "in place": _downgrade_in_place}


def _amount(size: int) -> str:
    unit, count = next(each for each in UNITS if size >= each[1] // 10)
    return f"{size / count:g} {unit}"
