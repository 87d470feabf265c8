"""Mutants of a `.metadata` with many rows, and what reading by rows must come to.

`bulk.load` may decline whatever it likes: then the file is read whole. What it reads has to be what
reading whole comes to, in every view, and after an edit what Python's own pickle then finds.
"""

from __future__ import annotations

import itertools
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from fuzz import mutations, oracle

from ckptmigrate.checkpoint import metadata
from ckptmigrate.checkpoint.large import view
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.pickles import bounds
from ckptmigrate.pickles.equality import equal

_REPOSITORY = Path(__file__).parents[2]
# Python's own pickler with batches of 70 items instead of 1,000: a kind of row is learned from the
# first one, and met in the next ones.
_MAKE = """
import pickle, sys
from benchmarks import synthetic
content = next(synthetic.SAMPLE.glob("iter_*/.metadata")).read_bytes()
pickle._Pickler._BATCHSIZE = 70
for path, plans in zip(sys.argv[1:], (False, True)):
    with open(path, "wb") as file:
        made = synthetic._metadata(content, 300, plans, 8192)
        pickle._Pickler(file, 4).dump(pickle.loads(made))
"""
_NAMES = (b"state_dict_metadata", b"storage_data", b"all_local_plans", b"planner_data", b"fqn",
          b"offset", b"length", b"relative_path", b"items", b"type", b"index", b"args", b"sizes",
          b"chunks", b"properties", b"tensor_data")  # fmt: skip


class Rows(mutations.Pickle):
    """A pickle, and where the rows of its batches stand."""

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """Rows of `storage_data` and the like: from the end of one to the end of the next."""
        ends = [found.end() for found in re.finditer(rb"ub(?=[\x8chj])", self.data)]
        pairs = itertools.pairwise(ends)
        return [(a, b) for a, b in pairs if b - a < 600]


def originals() -> list[bytes]:
    """Files with several hundred rows, with plans and without."""
    with tempfile.TemporaryDirectory() as place:
        made = [Path(place) / name for name in ("bare", "plans")]
        subprocess.run([sys.executable, "-c", _MAKE, *map(str, made)], cwd=_REPOSITORY, check=True)
        return [path.read_bytes() for path in made]


# -- mutations of rows


def _duplicate(pickle: Rows, random: Random) -> bytes:
    start, end = random.choice(pickle.rows)
    return pickle.data[:end] + pickle.data[start:end] * random.choice((1, 2)) + pickle.data[end:]


def _drop(pickle: Rows, random: Random) -> bytes:
    start, end = random.choice(pickle.rows)
    return pickle.data[:start] + pickle.data[end:]


def _exchange(pickle: Rows, random: Random) -> bytes:
    (a, b), (c, d) = sorted((random.choice(pickle.rows), random.choice(pickle.rows)))
    data = pickle.data
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:] if b <= c else data


def _renamed(pickle: Rows, random: Random) -> bytes:
    """An attribute of another name, everywhere: what rows are then no longer is."""
    old, new = random.sample(_NAMES, 2)
    return pickle.data.replace(
        b"\x8c" + bytes([len(old)]) + old + b"\x94", b"\x8c" + bytes([len(new)]) + new + b"\x94", 1
    )


def _index(pickle: Rows, random: Random) -> bytes:
    """Other memo indexes, in one row or in all that refer to the same."""
    gets = [found.start() for found in re.finditer(rb"j..\0\0", pickle.data, re.DOTALL)]
    if not gets:
        return pickle.data
    at = random.choice(gets)
    [old] = struct.unpack_from("<I", pickle.data, at + 1)
    new = max(
        0, random.choice((old - 1, old + 1, old + random.randrange(-60, 60), 5, 2**31, 2**17))
    )
    if random.random() < 0.6:
        return pickle.data[: at + 1] + struct.pack("<I", new) + pickle.data[at + 5 :]
    return pickle.data.replace(pickle.data[at : at + 5], b"j" + struct.pack("<I", new))


def _everywhere(pickle: Rows, random: Random) -> bytes:
    """The same change to the opcodes of every row that has them."""
    start, end = random.choice(pickle.rows)
    at = random.randrange(start, end - 3)
    old = pickle.data[at : at + random.choice((2, 3, 4, 6))]
    place = random.randrange(len(old) + 1)
    atom = random.choice(mutations._ATOMS)
    cut = random.choice((0, 0, 1, 2))
    return pickle.data.replace(old, old[:place] + atom + old[place + cut :])


def _number(pickle: Rows, random: Random) -> bytes:
    start, end = random.choice(pickle.rows)
    numbers = list(re.finditer(rb"[KMJ]", pickle.data[start:end]))
    if not numbers:
        return pickle.data
    at = start + random.choice(numbers).start()
    new = random.choice(
        (b"K\0", b"J\xff\xff\xff\xff", b"M\1\0", b"J\1\0\0\0", b"\x8a\1\1", b"\x88")
    )
    width = {ord("K"): 2, ord("M"): 3, ord("J"): 5}[pickle.data[at]]
    return pickle.data[:at] + new + pickle.data[at + width :]


def _changed_later(pickle: Rows, random: Random) -> bytes:
    """Something memoized, a row's perhaps, is changed at the end of the pickle."""
    index = struct.pack("<I", random.randrange(pickle.data.count(b"\x94") + 5))
    key = random.choice(_NAMES)
    pair = b"\x8c" + bytes([len(key)]) + key + random.choice((b"K\1", b"N", b"]", b"}"))
    change = random.choice((pair + b"s", b"}" + pair + b"sb", b"(" + pair + b"u", b"Na"))
    at = random.choice((len(pickle.data) - 1, random.choice(pickle.rows)[1]))
    return pickle.data[:at] + b"j" + index + change + b"0" + pickle.data[at:]


_ROWS: tuple[Callable[[Rows, Random], bytes], ...] = (
    _duplicate, _drop, _exchange, _renamed, _index, _index, _everywhere, _everywhere, _number,
    _changed_later, _changed_later,
)  # fmt: skip


def mutate(original: Rows, other: Rows, random: Random) -> bytes:
    """One mutant, in frames as a pickler makes them more often than not."""
    original = Rows(original.unframed.data)
    if random.random() < 0.3 or not original.rows:
        return framed(mutations.pickle(original, other, random), random)
    mutant = random.choice(_ROWS)(original, random)
    if random.random() < 0.1:
        mutant = random.choice(mutations._ANY)(mutant, random)
    return framed(mutant, random)


def framed(data: bytes, random: Random) -> bytes:
    """In one frame or two, seldom at the wrong place."""
    if random.random() < 0.1 or len(data) < 8 or data[2] == 0x95:
        return data
    cuts = [2]
    if random.random() < 0.3:
        cuts.append(random.randrange(3, len(data)))
    parts = [data[a:b] for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True)]
    return data[:2] + b"".join(b"\x95" + struct.pack("<Q", len(part)) + part for part in parts)


# -- the judge


def judge(data: bytes) -> bool:
    """Whether a mutant was read by rows, rightly; False where it was left to who reads it whole.

    Raises:
        Wrong: the two ways come to different things.
    """
    found = view.load(data)
    if found is None:
        return False
    try:
        bounds.check(data)
        whole = metadata.load(data)
    except CkptMigrateError as error:
        raise oracle.Wrong(f"read by rows, and whole: {error}") from error
    _check_views(found, whole)
    changes = random_edit(found, Random(len(data)))
    one, two = (_after(view, changes) for view in (found, whole))
    if isinstance(one, str) or isinstance(two, str):
        if one != two:
            raise oracle.Wrong(f"edited by rows {one!r:.300}, whole {two!r:.300}")
    elif not oracle.same(one, two, sharing=False):
        raise oracle.Wrong("edited by rows it is something else")
    return True


def _check_views(found: Metadata, whole: Metadata) -> None:
    def views(of: Metadata) -> dict[str, Any]:
        some = [*list(whole.entries)[::7], "no such key"]
        return {
            "entries": list(of.entries),
            "objects": [of.is_object_entry(key) for key in of.entries],
            "count": of.count_objects(),
            "chunks": of.chunks,
            "blobs": of.blobs,
            "ends": of.ends,
            "class": of.class_path,
            "named": of.named,
            "plans": of.planned,
            "damage": of.damage,
            "some of the chunks": of.chunks_of(some),
        }

    told, wanted = views(found), views(whole)
    for name, value in wanted.items():
        if told[name] != value:
            raise oracle.Wrong(f"{name}: by rows {told[name]!r:.300}, whole {value!r:.300}")
    for key in list(wanted["entries"])[::3]:
        if not equal(found.entries[key], whole.entries[key]):
            raise oracle.Wrong(f"another entry {key!r}")


Change = Callable[[Metadata], Metadata]


def random_edit(found: Metadata, random: Random) -> list[Change]:
    """Edits as migrations make them: entries dropped, moved and added, another class."""
    keys = list(found.entries)
    dropped = random.sample(keys, min(len(keys), random.choice((0, 1, 4))))
    objects = [key for key in found.blobs if key not in dropped]
    moved = {key: Blob("__0_0.distcp", 7, 9) for key in objects[: random.randrange(3)]}
    ranks = max(1, len(found.plans or ()))
    added = {
        f"rerun_state_machine_state/shard_{n}_{random.randrange(9, 10**9)}": (
            n % ranks,
            Blob("__9_9.distcp", n, 5),
        )
        for n in range(random.choice((0, 1, 3)))
    }
    changes: list[Change] = [
        lambda view: view.without(dropped),
        lambda view: view.relocated(moved),
        lambda view: view.with_blobs(added),
    ]
    if random.random() < 0.3:
        changes.append(lambda view: view.with_class(metadata.TORCH_CLASS))
    return changes


def _after(view: Metadata, changes: list[Change]) -> Any:
    """What Python's own pickle finds in an edited file, or the error."""
    try:
        for change in changes:
            view = change(view)
        return oracle.unpickled(view.dump(), storages=False)
    except CkptMigrateError as error:
        return str(error)
