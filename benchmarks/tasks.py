"""The tasks of the benchmarks and the contenders of each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks import commands, optimizer_tasks
from benchmarks.contenders import Contender, Task
from benchmarks.goals import Goal, Quantity
from benchmarks.payloads import MEGATRON, Grown, Many, Sample, Saved
from benchmarks.table import amount

GB: Final = 10**9
FLOOR: Final = "floor: read, write, fsync what it changes"
INERT_LOAD: Final = "inert load: the C unpickler alone"
METADATA_FLOOR: Final = "floor: read, write, fsync `.metadata`"
UNVERIFIED: Final = "read, change, write, fsync `.metadata`, unverified (no verb does that)"
VERIFIED: Final = "read, change, verify, write, fsync `.metadata`"
INSPECT: Final = "`ckptmigrate inspect`"
VERIFY: Final = "`ckptmigrate verify`"
OLDER: Final = "0.11.0"
MIGRATION: Final = f"downgrade --to {OLDER}, "  # the start of the name of a task
OUT_OF_PLACE: Final = "`ckptmigrate downgrade`"
COPY_AND_SYNC: Final = "`cp -r`, then `sync -f`"
DCP: Final = "torch DCP: load, save"
MEGATRON_COPY: Final = "megatron-core 0.16.1: `load_plain_tensors`, `save`"
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
_OUT: Final = "out of place"
_SPARSE: Final = {
    _OUT: commands.downgrade_out,
    "in place": commands.downgrade_in_place,
}


@dataclass(frozen=True)
class Scale:
    """The sizes and repetitions of a run of the benchmarks.

    Attributes:
        payloads: bytes of tensors -> repetitions.
        states: bytes of optimizer states -> repetitions.
        counts: checkpoints in one root -> repetitions.
        entries: keys of a large `.metadata` -> repetitions.
        largest: bytes of the sparse data files.
        repetitions: repetitions of all small tasks.
    """

    payloads: Mapping[int, int]
    states: Mapping[int, int]
    counts: Mapping[int, int]
    entries: Mapping[int, int]
    largest: int
    repetitions: int


FULL: Final = Scale(
    payloads={3 * GB // 10: 5, 2 * GB: 3, 16 * GB: 3},
    states={2 * GB: 5, 8 * GB: 3},
    counts={100: 5, 1000: 3},
    entries={100_000: 5, 1_000_000: 1},
    largest=1000 * GB,
    repetitions=15,
)
QUICK: Final = Scale({GB // 1000: 1}, {GB // 1000: 1}, {3: 1}, {200: 1}, GB, 1)


def tasks(scale: Scale) -> list[Task]:
    """Return all tasks, in the order of the table."""
    return [
        *(_migrating(size, repetitions) for size, repetitions in scale.payloads.items()),
        *optimizer_tasks.tasks(scale.states),
        _inspecting(scale.repetitions),
        _starting(scale.repetitions),
        *(_sparse(where, scale.largest, scale.repetitions) for where in _SPARSE),
        *(_many(count, repetitions) for count, repetitions in scale.counts.items()),
        *(_large(entries, repetitions) for entries, repetitions in scale.entries.items()),
    ]


def _migrating(size: int, repetitions: int) -> Task:
    payload, to = Saved(size), OLDER
    ways = (
        (OUT_OF_PLACE, commands.downgrade_out(to)),
        (IN_PLACE, commands.downgrade_in_place(to)),
        (FLOOR, commands.floor(to)),
        ("torch: `read_metadata`, `pickle.dump`, fsync", commands.torch_metadata),
        ("`cp -r`", lambda place: ["cp", "-r", str(place.root), str(place.out)]),
        (
            "`cp -r --reflink=auto`",
            lambda place: ["cp", "-r", "--reflink=auto", str(place.root), str(place.out)],
        ),
        (COPY_AND_SYNC, commands.copy_and_sync),
        (DCP, commands.program("dcp_copy")),
    )
    contenders = [Contender(name, payload, command) for name, command in ways]
    copy = commands.program("megatron_copy")
    contenders.append(Contender(MEGATRON_COPY, payload, copy, MEGATRON))
    name = f"{MIGRATION}{amount(size)} of payload"
    return Task(name, tuple(contenders), repetitions, bytes_needed=GB + 2 * size)


def _inspecting(repetitions: int) -> Task:
    return Task(
        "inspect, a sample of 61 entries",
        (
            Contender(INSPECT, Sample(), commands.inspect),
            Contender('`python -c "import torch"`', Sample(), commands.python("import torch")),
        ),
        repetitions,
    )


def _starting(repetitions: int) -> Task:
    version = commands.ckptmigrate("--version")
    return Task(
        "start, a sample of 61 entries",
        (
            Contender("`ckptmigrate --version`", Sample(), lambda _: version),
            Contender("`ckptmigrate downgrade --dry-run`", Sample(), commands.dry_run("pre-rerun")),
            Contender('`python -c "import click"`', Sample(), commands.python("import click")),
            Contender('`python -c "pass"`', Sample(), commands.python("pass")),
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


SPARSE_OUT: Final = _sparse_task(_OUT)


def _sparse_of(size: int) -> str:
    return f"{OUT_OF_PLACE}, {amount(size)} of payload"


def _many(count: int, repetitions: int) -> Task:
    payload, to = Many(count), "pre-rerun"
    options = {jobs: ["--jobs", str(jobs)] if jobs > 1 else [] for jobs in JOBS}
    contenders = [Contender(FLOOR, payload, commands.floor(to))]
    contenders += [
        Contender(
            f"`{' '.join(['ckptmigrate downgrade --all --in-place', *given])}`",
            payload,
            commands.downgrade_in_place(to, "--all", *given),
        )
        for given in options.values()
    ]
    name = f"downgrade --to {to} of {count} checkpoints, for each"
    return Task(name, tuple(contenders), repetitions, per=count)


def _large(entries: int, repetitions: int) -> Task:
    payload = Grown(entries)
    ways = (
        (INERT_LOAD, commands.program("inert_load")),
        (METADATA_FLOOR, commands.metadata_floor),
        (UNVERIFIED, commands.program("change_unverified")),
        (VERIFIED, commands.program("change_metadata")),
        ("torch: `read_metadata`, `pickle.dump`, fsync", commands.torch_metadata),
        (INSPECT, commands.inspect),
        (VERIFY, commands.verify),
        ("`ckptmigrate repair --dry-run`", commands.repair),
        (IN_PLACE, commands.downgrade_in_place("0.13.1")),
    )
    contenders = tuple(Contender(name, payload, command) for name, command in ways)
    return Task(_of_entries(entries), contenders, repetitions, bytes_needed=GB + 4000 * entries)


def _of_entries(entries: int) -> str:
    return f"a .metadata of {entries:,} entries, with plans"


def goals(scale: Scale) -> list[Goal]:
    """Return the goals: for large metadata, and that the size of data files costs no time."""
    found = optimizer_tasks.goals(scale.states)
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
