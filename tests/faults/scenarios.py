"""What is cut short: each scenario makes a place, runs one command in it, and may be repeated."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ckptmigrate

SAMPLES = Path(__file__).parent.parent / "samples"
OPTIMIZERS = Path(__file__).parent.parent / "optimizer"
CASES = Path(__file__).parent.parent / "cases"
# Going down, common.pt comes and .metadata and metadata.json change; 2 payload files stay.
SAMPLE = "0.19.0-idle-tp2"


@dataclass(frozen=True)
class Scenario:
    """One command on one place.

    Attributes:
        name: for people.
        make: fills an empty place.
        command: the arguments of the command line; `{place}` stands for the place.
        recovery: what is given to `recover` afterwards.
        cut: where a first run of `cut_command` is killed, before the command is run; as a share
            of its writing calls.
        cut_command: that run.
        goes_on: whether the command, run again, does what is left; what it did stays done.
        at_once: with `goes_on`, whether it is run again before `recover`, not after.
    """

    name: str
    make: Callable[[Path], None]
    command: str
    recovery: str = "{place}/run"
    cut: float | None = None
    cut_command: str = ""
    goes_on: bool = False
    at_once: bool = False

    def arguments(self, place: Path) -> list[str]:
        return self.command.format(place=place).split()


def _sample(place: Path) -> None:
    shutil.copytree(SAMPLES / SAMPLE, place / "run", symlinks=True)


def _with_extras(place: Path) -> None:
    """A folder, a link and digests beside the files, as releases from 0.17.1 on write them."""
    _sample(place)
    checkpoint = place / "run" / "iter_0000005"
    (checkpoint / "tokenizer").mkdir()
    (checkpoint / "tokenizer" / "vocabulary.json").write_text("{}")
    (checkpoint / "run_config.yaml").symlink_to("tokenizer/vocabulary.json")
    names = [".metadata", "__0_0.distcp", "__1_0.distcp", "metadata.json"]
    digests = {n: hashlib.sha256((checkpoint / n).read_bytes()).hexdigest() for n in names}
    content = {"algorithm": "sha256", "files": digests}
    (checkpoint / "integrity.json").write_text(json.dumps(content))


def _two_iterations(place: Path) -> None:
    shutil.copytree(SAMPLES / "0.17.1-corrupt-tp2" / "iter_0000004", place / "run/iter_0000004")
    shutil.copytree(SAMPLES / "0.16.1-idle-tp2" / "iter_0000005", place / "run/iter_0000005")
    (place / "run" / "latest_checkpointed_iteration.txt").write_text("5")


def _corrupt(place: Path) -> None:
    shutil.copytree(SAMPLES / "0.17.1-corrupt-tp2", place / "run", symlinks=True)


def _astray(place: Path) -> None:
    """The tracker names an iteration that is not there; the one before it is good."""
    _sample(place)
    (place / "run" / "latest_checkpointed_iteration.txt").write_text("9")


def _nested(place: Path) -> None:
    shutil.copytree(CASES / "modelopt" / "run", place / "run", symlinks=True)


def _pair_astray(place: Path) -> None:
    """Both tracker files name an iteration whose save did not finish."""
    shutil.copytree(CASES / "bridge-died" / "run", place / "run", symlinks=True)


def _migrated(place: Path) -> None:
    _with_extras(place)
    ckptmigrate.migrate(place / "run", to="split-rerun", in_place=True)


def _migrated_twice(place: Path) -> None:
    _migrated(place)
    ckptmigrate.migrate(place / "run", to="pre-rerun", in_place=True)


def _optimizer(place: Path) -> None:
    shutil.copytree(OPTIMIZERS / "0.13.1-optim-dp2", place / "run", symlinks=True)


def _weights(place: Path) -> None:
    """A checkpoint without its optimizer, whose old data files are kept for `undo`."""
    _optimizer(place)
    ckptmigrate.migrate(place / "run", optimizer="drop", compact=True, in_place=True)


def _converted(place: Path) -> None:
    _optimizer(place)
    ckptmigrate.migrate(place / "run", to="0.16", optimizer="convert", in_place=True)


_OUT = "downgrade {place}/run --to pre-rerun -o {place}/out"
_IN = "downgrade {place}/run --to pre-rerun --in-place"
_CONVERT = "migrate {place}/run --to 0.16 --optimizer convert"
_DROP = "migrate {place}/run --optimizer drop --compact"

SCENARIOS = (
    Scenario("out of place", _sample, _OUT, "{place}/out"),
    Scenario("payload copied", _with_extras, f"{_OUT} --link copy", "{place}/out"),
    Scenario(
        "a root of two iterations",
        _two_iterations,
        "upgrade {place}/run --all -o {place}/out --ledger {place}/ledger.jsonl",
        "{place}/out",
        goes_on=True,
    ),
    Scenario("with a history, out of place", _migrated, _OUT, "{place}/out"),
    Scenario("in place", _sample, _IN),
    Scenario("in place with integrity.json", _with_extras, _IN),
    Scenario("in place with a history", _migrated, _IN),
    Scenario("in place, back to the original", _migrated, "upgrade {place}/run --in-place"),
    Scenario("undo", _migrated, "undo {place}/run"),
    Scenario("undo of the second of two", _migrated_twice, "undo {place}/run"),
    *(
        Scenario(f"recover, cut at {cut:.0%}", _migrated, "recover {place}/run", "{place}/run", *on)
        for cut in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
        for on in [(cut, _IN)]
    ),
    Scenario("recover of a stage", _with_extras, "recover {place}/out", "{place}/out", 0.5, _OUT),
    Scenario("repair of a corrupt checkpoint", _corrupt, "repair {place}/run --in-place"),
    Scenario("repair of a tracker", _astray, "repair {place}/run --in-place"),
    Scenario("repair of a pair of trackers", _pair_astray, "repair {place}/run --in-place"),
    Scenario("with a nested checkpoint, out of place", _nested, _OUT, "{place}/out"),
    Scenario("with a nested checkpoint, in place", _nested, _IN),
    Scenario("conversion, out of place", _optimizer, f"{_CONVERT} -o {{place}}/out", "{place}/out"),
    Scenario("conversion, in place", _optimizer, f"{_CONVERT} --in-place"),
    *(
        Scenario(
            f"conversion in parts, {how}, run again",
            _optimizer,
            f"{_CONVERT} --part-size 64k {words}",
            place,
            goes_on=True,
            at_once=True,
        )
        for how, words, place in (
            ("out of place", "-o {place}/out", "{place}/out"),
            ("in place", "--in-place", "{place}/run"),
        )
    ),
    Scenario("undo of a conversion", _converted, "undo {place}/run"),
    Scenario("undo of a conversion, forgotten", _converted, "undo {place}/run --forget"),
    *(
        Scenario(
            f"recover of a conversion, cut at {cut:.0%}",
            _optimizer,
            "recover {place}/run",
            "{place}/run",
            cut,
            f"{_CONVERT} --in-place",
        )
        for cut in (0.3, 0.7, 0.9)
    ),
    Scenario(
        "drop and compact, out of place", _optimizer, f"{_DROP} -o {{place}}/out", "{place}/out"
    ),
    Scenario("drop and compact, in place", _optimizer, f"{_DROP} --in-place"),
    Scenario("undo of drop and compact, forgotten", _weights, "undo {place}/run --forget"),
    Scenario("in place after one that was cut", _migrated, _IN, "{place}/run", 0.6, _IN),
)

_TIME = re.compile(rb'("time": )"[^"]*"')


Snapshot = dict[str, tuple[object, ...]]
LONG_AGO = 1_700_000_000 * 10**9  # when payload was written, in ns since the epoch


def make(scenario: Scenario, place: Path) -> None:
    """The place of a scenario, before its command."""
    place.mkdir(parents=True)
    scenario.make(place)
    for path in place.rglob("*.distcp"):
        os.utime(path, ns=(LONG_AGO, LONG_AGO))


def snapshot(place: Path) -> Snapshot:
    """Every name below a place with all that must not change, to compare.

    Of a sidecar all but the time; of payload that `make` left its time, too.
    """
    found: Snapshot = {}
    for path in sorted(place.rglob("*")):
        if path.suffix == ".jsonl":  # a ledger tells how long it took, and what failed
            continue
        name, status = str(path.relative_to(place)), path.lstat()
        mode = oct(status.st_mode)
        if path.is_symlink():
            found[name] = (mode, os.readlink(path))
        elif path.is_dir():
            found[name] = (mode,)
        else:
            content = path.read_bytes()
            if path.name == "ckptmigrate.json":
                content = _TIME.sub(rb"\1-", content)
            digest = hashlib.sha256(content).hexdigest()
            found[name] = (mode, digest, status.st_mtime_ns == LONG_AGO)
    return found


def differences(one: Snapshot, two: Snapshot) -> str:
    """Names that differ between two snapshots, for a message."""
    names = sorted(n for n in {*one, *two} if one.get(n) != two.get(n))
    return ", ".join(
        f"{n} ({'missing' if n not in two else 'stray' if n not in one else 'other'})"
        for n in names
    )
