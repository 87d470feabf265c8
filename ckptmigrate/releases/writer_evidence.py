"""The releases that may have written a checkpoint, inferred from its contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.errors import CompatError
from ckptmigrate.releases import optimizer_state
from ckptmigrate.releases.facts import Compat, SignRow, matches


@dataclass(frozen=True)
class Sign:
    """One sign of the writer that was looked for in a checkpoint.

    Attributes:
        sign: its name in compat_matrix.yaml.
        found: whether the checkpoint has it.
        releases: specifier of the releases that this allows.
    """

    sign: str
    found: bool
    releases: str

    def __str__(self) -> str:
        kind, _, name = self.sign.partition(":")
        return f"{kind} {name} {'present' if self.found else 'absent'}: {self.releases}"


@dataclass(frozen=True)
class PossibleWriters:
    """The releases that may have written a checkpoint.

    Attributes:
        releases: the minor releases that all signs allow, oldest first; empty if the signs
            contradict each other.
        signs: the signs, in the order of compat_matrix.yaml.
        decisive: the signs that set the bounds; all signs if they contradict each other.
        torch: specifiers of the torch versions that the files allow.
    """

    releases: tuple[str, ...]
    signs: tuple[Sign, ...]
    decisive: tuple[Sign, ...]
    torch: tuple[str, ...]


def _attribute(manifest: Manifest, name: str) -> bool | None:
    return name in manifest.metadata.attributes


def _metadata_class(manifest: Manifest, name: str) -> bool | None:
    return manifest.metadata.class_path.endswith(f".{name}")


def _plan_class(manifest: Manifest, name: str) -> bool | None:
    plans = manifest.metadata.plans
    return type(plans[0]).path.endswith(f".{name}") if plans else None


def _backend(manifest: Manifest, name: str) -> bool | None:
    return name in manifest.marker


def _common(manifest: Manifest, name: str) -> bool | None:
    # A common state without args comes from another framework, so a key proves nothing.
    return name in manifest.common.values if manifest.common.arguments is not None else None


def _content(manifest: Manifest, name: str) -> bool | None:
    content = manifest.common.content
    return None if content is None else name in content


def _argument(manifest: Manifest, name: str) -> bool | None:
    arguments = manifest.common.arguments
    return None if arguments is None else name in arguments


def _optimizer(manifest: Manifest, name: str) -> bool | None:
    # Every release has optimizers of several types, so another type proves nothing.
    return optimizer_state.sharding_type(manifest) == name or None


# The test for each kind of sign; it returns None if the checkpoint cannot decide it.
_LOOK: Final[dict[str, Callable[[Manifest, str], bool | None]]] = {
    "attribute": _attribute,
    "metadata-class": _metadata_class,
    "plan-class": _plan_class,
    "backend": _backend,
    "common": _common,
    "content": _content,
    "argument": _argument,
    "optimizer": _optimizer,
}


def possible_writers(manifest: Manifest, compat: Compat) -> PossibleWriters:
    """Return the releases that may have written a checkpoint.

    Raises:
        CompatError: compat_matrix.yaml has a sign of an unknown kind.
    """
    signs, torch = (
        _looked_for(manifest, compat.writer_signs),
        _looked_for(manifest, compat.torch_signs),
    )
    fitting = {
        sign: {r for r in compat.known_releases if matches(r, sign.releases)} for sign in signs
    }
    left = set(compat.known_releases).intersection(*fitting.values())
    releases = tuple(r for r in compat.known_releases if r in left)
    return PossibleWriters(
        releases,
        tuple(signs),
        tuple(_decisive(releases, fitting, compat)),
        tuple(sign.releases for sign in torch),
    )


def _looked_for(manifest: Manifest, rows: tuple[SignRow, ...]) -> list[Sign]:
    signs = []
    for row in rows:
        kind, _, name = row.sign.partition(":")
        if kind not in _LOOK:
            raise CompatError(f"the kind of sign {row.sign!r} is not known")
        found = _LOOK[kind](manifest, name)
        if found is not None:
            signs.append(Sign(row.sign, found, row.present if found else row.absent))
    return signs


def _decisive(
    releases: tuple[str, ...], fitting: dict[Sign, set[str]], compat: Compat
) -> list[Sign]:
    """Return a sign that excludes the release before the range, and one for the release after."""
    if not releases:
        return list(fitting)
    known = compat.known_releases
    before, after = known.index(releases[0]) - 1, known.index(releases[-1]) + 1
    neighbours = [known[i] for i in (before, after) if 0 <= i < len(known)]
    found = (
        next(sign for sign, fits in fitting.items() if neighbour not in fits)
        for neighbour in neighbours
    )
    return list(dict.fromkeys(found))
