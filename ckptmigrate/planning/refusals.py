"""Refusals of a migration during planning, each with a command that works."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from ckptmigrate import versions
from ckptmigrate.checkpoint import integrity
from ckptmigrate.checkpoint.locate import words
from ckptmigrate.checkpoint.rerun import STATES, Kind
from ckptmigrate.errors import CorruptError, RefusedError, Retry
from ckptmigrate.places import Place
from ckptmigrate.planning.conversion import Converted
from ckptmigrate.planning.losses import (
    FAULT_CONTEXT,
    FOREIGN_SYMBOLS,
    INTEGRITY,
    OPTIMIZER_STATE,
    RNG_STATE,
)
from ckptmigrate.planning.targets import Target
from ckptmigrate.releases import optimizer_state, rng
from ckptmigrate.text.commands import command
from ckptmigrate.text.printable import few
from ckptmigrate.versions import sharded_rerun
from ckptmigrate.versions.detection import Reading


def no_integrity(path: Place, damaged: list[str]) -> RefusedError:
    """Return the error for files whose hash differs from integrity.json."""
    return RefusedError(
        f"does not have the digest that {integrity.FILE} has for {few(damaged)}",
        losses=(INTEGRITY,),
        path=path,
        fix=f"bring back a good copy, or use what is there with --allow-loss {INTEGRITY}",
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
            f"{target.name} is {age} than {names}, which this checkpoint is",
            path=current.manifest.path,
            layout=target.layout.ID,
            fix=f"run `{command(other, current.manifest.path, '--to', target.name)}`",
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
        f"is corrupt: {begin.record.promise}, and the checkpoint lacks {few(missing)}",
        missing=missing,
        path=begin.manifest.path,
        fix="no release of its layout can load it; to have it resume as idle run "
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
    begin: Reading, target: Target, result: Converted, agreed: Collection[str], verb: str
) -> None:
    """Raise if a result has a data loss that is not allowed.

    Raises:
        RefusedError: gives the reason for each such data loss, and the command that allows it.
    """
    refused = tuple(loss for loss in result.losses if loss not in agreed)
    if not refused:
        return
    path = begin.manifest.path
    whys = [_WHY[loss](begin, target, result) for loss in refused]
    allow = [word for loss in refused for word in ("--allow-loss", loss)]
    raise RefusedError(
        ", and ".join(whys),
        losses=refused,
        path=path,
        layout=target.layout.ID,
        fix=f"to go without it run `{command(verb, path, '--to', target.name, *allow)}`",
    )


def _why_fault(begin: Reading, target: Target, result: Converted) -> str:
    record = begin.record
    state = STATES[record.state or 0]
    if record.stuck:
        return f"holds a fault in state {state}, from which no release resumes"
    names = " or ".join(found.ID for found in begin.layouts)
    return (
        f"holds a fault context (state {state}, iteration {record.iteration}) that means something "
        f"only to the release that wrote it, and cannot move from {names} to {target.name}"
    )


def _why_foreign(begin: Reading, target: Target, result: Converted) -> str:
    return (
        f"names {', '.join(result.foreign)} in its common state, which release {target.name} "
        "cannot load and no enum of Megatron is"
    )


def _why_optimizer(begin: Reading, target: Target, result: Converted) -> str:
    assert target.reader is not None  # only a release target checks the optimizer
    whys = [problem.why for problem in optimizer_state.problems(begin.manifest, target.reader)]
    return (
        f"has an optimizer that release {target.name} cannot read: {', and '.join(whys)} (the job "
        f"resumes with {optimizer_state.FLAG})"
    )


def _why_rng(begin: Reading, target: Target, result: Converted) -> str:
    return (
        "has RNG states for every rank, as 0.16 writes them with expert parallelism, and release "
        f"{target.name} has one for all data and context parallel ranks of a (PP, TP): that of the "
        f"first, which is not that of the others (or resume from the original with {rng.FLAG}, "
        "without any, where nothing else is in the way)"
    )


_WHY: Final = {
    FAULT_CONTEXT: _why_fault,
    FOREIGN_SYMBOLS: _why_foreign,
    OPTIMIZER_STATE: _why_optimizer,
    RNG_STATE: _why_rng,
}
