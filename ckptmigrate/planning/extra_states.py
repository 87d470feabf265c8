"""The change of the `_extra_state` of Transformer Engine as part of a migration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptmigrate.checkpoint import extra_state
from ckptmigrate.checkpoint.differences import Difference
from ckptmigrate.checkpoint.extra_state import SUFFIX
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.releases import transformer_engine
from ckptmigrate.releases.readers import Reader
from ckptmigrate.releases.transformer_engine import ADD, DROP
from ckptmigrate.text.printable import counted

_PARTS: Final = ("entry", "plan", "payload", "attribute")  # of differences that name keys


@dataclass(frozen=True)
class ExtraStateChange:
    """A change of the `_extra_state` of a checkpoint.

    Attributes:
        manifest: the result; the same object if nothing changes.
        how: DROP or ADD.
        engine: the version of Transformer Engine that the user named, or None.
        notes: what changes, as sentences.
        dropped, added, replaced: the number of objects.
        lossy: whether a dropped object may hold the state of FP8.
    """

    manifest: Manifest
    how: str
    engine: str | None
    notes: tuple[str, ...]
    dropped: int = 0
    added: int = 0
    replaced: int = 0
    lossy: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `upgrade --json`)."""
        return {
            "transformer_engine": self.engine,
            "dropped": self.dropped,
            "added": self.added,
            "replaced": self.replaced,
            "from_source": bool(self.added or self.replaced),
        }


def target_name(how: str) -> str:
    """Return what a migration that only changes the `_extra_state` has as its target."""
    return f"{how}-extra-state"


def words(how: str, engine: str | None) -> tuple[str, ...]:
    """Return the command-line options for a change; () for none.

    Args:
        engine: the version of Transformer Engine; None or empty if it is not known.
    """
    if how not in (DROP, ADD):
        return ()
    return ("--extra-state", how, *((transformer_engine.OPTION, engine) if engine else ()))


def changed(
    found: Manifest, how: str, reader: Reader | None, engine: str | None
) -> ExtraStateChange:
    """Drop what a job does not request, or add what it requests.

    Args:
        how: DROP or ADD.
        reader: the release of the job; None for any.
        engine: its version of Transformer Engine, or `none`. If it is None, DROP drops all objects,
            and ADD adds those that any version requests.

    Raises:
        RefusedError: `engine` is not a version.
    """
    make = _dropped if how == DROP else _added
    return make(found, transformer_engine.requested(found, reader, engine), engine)


def remaining(found: Manifest, reader: Reader, engine: str, strictness: str) -> tuple[str, ...]:
    """Return what a job cannot load of the `_extra_state` of a result, as sentences."""
    return tuple(
        each.why if each.change is None else f"{each.why}: pass --extra-state {each.change}"
        for each in transformer_engine.problems(found, reader, engine, strictness)
    )


def summarized(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """Return differences with one line for all added objects, and one for all dropped ones."""
    kept: list[Difference] = []
    counts: dict[str, int] = {}
    for each in differences:
        if each.part in _PARTS and f".{SUFFIX}/" in each.name:
            counts[each.sign] = counts.get(each.sign, 0) + (each.part in ("entry", "payload"))
        else:
            kept.append(each)
    lines = (
        Difference(sign, "entry", SUFFIX, counted(count, "object"))
        for sign, count in counts.items()
        if count
    )
    return (*kept, *lines)


def _dropped(
    found: Manifest, wanted: transformer_engine.Requested, engine: str | None
) -> ExtraStateChange:
    here = extra_state.stored(found.metadata)
    keys = [*here] if engine is None else transformer_engine.surplus(wanted, here)
    notes = [f"{counted(len(keys), f'{SUFFIX} object')} dropped"]
    if not keys:
        notes = [f"the checkpoint has no {SUFFIX} to drop"]
    elif engine is None:
        notes.append(
            f"layers of Transformer Engine and of Megatron-Core request an {SUFFIX}: run the job "
            f"with {transformer_engine.SKIP}"
        )
    return ExtraStateChange(
        found.with_metadata(found.metadata.without(frozenset(keys))),
        DROP,
        engine,
        tuple(notes),
        dropped=len(keys),
        lossy=extra_state.has_state(found, keys),
    )


def _added(
    found: Manifest, wanted: transformer_engine.Requested, engine: str | None
) -> ExtraStateChange:
    """Add "no state" where it is missing, and where it has a value that the job does not load."""
    here = extra_state.stored(found.metadata)
    added = {key: rank for key, rank in wanted.keys.items() if key not in here}
    unusable = () if engine is None else transformer_engine.unusable(found, wanted, engine)
    replaced = [key for key, _ in unusable]
    job = "any job" if engine is None else f"a job {transformer_engine.described(engine)}"
    if not added and not replaced:
        notes = (f"the checkpoint has every {SUFFIX} that {job} requests",)
        return ExtraStateChange(found, ADD, engine, notes)
    content = extra_state.new_object(transformer_engine.no_state(engine))
    blob = Blob(found.new_payload_file, len(found.new_payload), len(content))
    edited = found.metadata.relocated(dict.fromkeys(replaced, blob))
    edited = edited.with_blobs({key: (rank, blob) for key, rank in added.items()})
    counts = ((len(added), "added"), (len(replaced), "replaced"))
    what = ", ".join(f"{counted(n, f'{SUFFIX} object')} {verb}" for n, verb in counts if n)
    return ExtraStateChange(
        replace(found, metadata=edited, new_payload=found.new_payload + content),
        ADD,
        engine,
        (
            f"{what}, without a state, for {job} (from source, not run)",
            "a job with FP8 starts with new scaling factors",
        ),
        added=len(added),
        replaced=len(replaced),
    )
