"""Refusals of a migration during planning, each with a command that works."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

from ckptmigrate import versions
from ckptmigrate.checkpoint import integrity
from ckptmigrate.checkpoint.locate import words
from ckptmigrate.checkpoint.rerun import STATES, Kind
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.errors import CkptMigrateError, CorruptError, RefusedError, Retry
from ckptmigrate.places import Place
from ckptmigrate.planning import optimizers
from ckptmigrate.planning.conversion import Converted
from ckptmigrate.planning.losses import (
    EXTRA_STATE,
    FAULT_CONTEXT,
    FOREIGN_SYMBOLS,
    INTEGRITY,
    OPTIMIZER_STATE,
    REPLICA_DIFFERENCE,
    RNG_STATE,
)
from ckptmigrate.planning.results import reached
from ckptmigrate.planning.targets import CONVERT, Target
from ckptmigrate.releases import optimizer_state, rng
from ckptmigrate.text.commands import command
from ckptmigrate.text.printable import few
from ckptmigrate.text.sizes import size
from ckptmigrate.versions import sharded_rerun
from ckptmigrate.versions.detection import Reading

# Bytes of an optimizer whose conversion is planned before its command is printed. Of a larger one,
# only what the metadata shows is checked.
_PLANNED: Final = 2**28


def no_integrity(path: Place, damaged: list[str]) -> RefusedError:
    """Return the error for files whose hash differs from integrity.json."""
    return RefusedError(
        f"has another SHA-256 hash than {integrity.FILE} records for {few(damaged)}",
        losses=(INTEGRITY,),
        path=path,
        fix=f"restore the file from a copy, or use it with --allow-loss {INTEGRITY}",
        retry=Retry(add=("--allow-loss", INTEGRITY)),
    )


def check_direction(current: Reading, target: Target, verb: str) -> None:
    """Raise if the target of `upgrade` is older, or the target of `downgrade` newer.

    Raises:
        RefusedError: the direction is wrong; names the other command.
    """
    if target.name == versions.UNIVERSAL:
        return
    wanted = versions.order(target.layout)
    places = [versions.order(found) for found in current.layouts]
    fits = min(places) <= wanted if verb == "upgrade" else max(places) >= wanted
    if not fits:
        other = "downgrade" if verb == "upgrade" else "upgrade"
        names = " or ".join(found.ID for found in current.layouts)
        age = "older" if verb == "upgrade" else "newer"
        raise RefusedError(
            f"the target {target.name} is {age} than the layout of the checkpoint ({names})",
            path=current.manifest.path,
            layout=target.layout.ID,
            fix=f"run `{command(other, current.manifest.path, *target.words)}`",
        )


def check_corrupt(begin: Reading) -> None:
    """Raise if rerun shards are missing that the common state requires.

    Raises:
        CorruptError: shards are missing.
    """
    missing = begin.record.missing
    if begin.record.kind is not Kind.CORRUPT:
        return
    raise CorruptError(
        f"has a corrupt rerun state: {begin.record.promise}, but rerun shards are missing: "
        f"{few(missing)}",
        missing=missing,
        path=begin.manifest.path,
        fix="to drop the fault and resume as idle, run "
        f"`{command('repair', *words(begin.manifest.path), *rebuild_options(begin))}`",
    )


def rebuild_options(begin: Reading) -> tuple[str, ...]:
    """Return the options that `repair` needs.

    A checkpoint of 0.10 or 0.11 needs new idle shards, because these releases always request them.
    """
    if all(layout is sharded_rerun for layout in begin.layouts):
        return ("--rebuild-sentinel",)
    return ()


def check_allowed(
    begin: Reading,
    target: Target,
    result: Converted,
    allowed: Collection[str],
    earlier: Collection[str],
    verb: str,
    given: Given | None,
) -> None:
    """Raise if a result has a data loss that is not allowed.

    Args:
        allowed: names of the data losses that the user allows.
        earlier: those of earlier steps, which need no permission again.

    Raises:
        RefusedError: gives the reason for each such data loss, and the command that allows it.
    """
    needed = tuple(loss for loss in result.losses if loss not in earlier)
    refused = tuple(loss for loss in needed if loss not in allowed)
    if not refused:
        return
    path = begin.manifest.path
    whys = [_WHY[loss](begin, target, result) for loss in refused]
    fixes = [f"to drop it, run `{command(verb, path, *target.words, *_allow(needed))}`"]
    if OPTIMIZER_STATE in refused and target.optimizer != CONVERT:
        wanted = replace(target, optimizer=CONVERT)
        try:
            stored = optimizers.convertible_size(begin.manifest)
            if stored <= _PLANNED:
                made = reached(begin, wanted, given)
                needed = tuple(loss for loss in made.losses if loss not in earlier)
            else:
                needed = tuple(loss for loss in needed if loss != OPTIMIZER_STATE)
            words = command(verb, path, *wanted.words, *_allow(needed))
            convert = f"to convert it, which reads and writes about {size(stored)}, run `{words}`"
            fixes.insert(0, convert)
        except CkptMigrateError as error:
            whys.append(f"it cannot be converted: {error.reason}")
    raise RefusedError(
        ", and ".join(whys),
        losses=refused,
        path=path,
        layout=target.layout.ID,
        fix=" or ".join(fixes),
    )


def _allow(losses: Iterable[str]) -> list[str]:
    return [word for loss in losses for word in ("--allow-loss", loss)]


def _why_fault(begin: Reading, target: Target, result: Converted) -> str:
    record = begin.record
    state = STATES[record.state or 0]
    if record.is_unresumable:
        return f"contains a fault in state {state}, from which no release can resume"
    names = " or ".join(found.ID for found in begin.layouts)
    return (
        f"contains a fault context (state {state}, iteration {record.iteration}) that cannot be "
        f"converted from {names} to {target.name}"
    )


def _why_foreign(begin: Reading, target: Target, result: Converted) -> str:
    return (
        f"names {', '.join(result.foreign)} in the common state, which release {target.name} "
        "cannot load"
    )


def _why_optimizer(begin: Reading, target: Target, result: Converted) -> str:
    assert target.reader is not None  # only a release target checks the optimizer
    whys = [problem.why for problem in optimizer_state.problems(result.manifest, target.reader)]
    return (
        f"has optimizer state that release {target.name} cannot load: {', and '.join(whys)} (the "
        f"job can resume with {optimizer_state.FLAG})"
    )


def _why_rng(begin: Reading, target: Target, result: Converted) -> str:
    return (
        f"has an RNG state for every rank (a (PP, TP, DP x CP) grid), but release {target.name} "
        "loads one per (PP, TP) rank, and the states of its data and context "
        "parallel ranks differ (if nothing else prevents the load, the job can resume from the "
        f"unmigrated checkpoint with {rng.FLAG})"
    )


def _why_replicas(begin: Reading, target: Target, result: Converted) -> str:
    assert result.optimizer is not None  # only its conversion compares copies
    return (
        "has optimizer states of parameters whose copies on several ranks differ, and the result "
        f"keeps the first copy: {optimizers.differing_copies(result.optimizer)}"
    )


def _why_extra_state(begin: Reading, target: Target, result: Converted) -> str:
    return "has FP8 state of Transformer Engine in the _extra_state that would be dropped"


_WHY: Final = {
    EXTRA_STATE: _why_extra_state,
    FAULT_CONTEXT: _why_fault,
    FOREIGN_SYMBOLS: _why_foreign,
    OPTIMIZER_STATE: _why_optimizer,
    RNG_STATE: _why_rng,
    REPLICA_DIFFERENCE: _why_replicas,
}
