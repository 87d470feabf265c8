"""What an out-of-place migration leaves beside a destination while it is not complete."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint.lock_owner import Holder, Owner, holder, owner_of
from ckptmigrate.places import Place
from ckptmigrate.text.commands import command

LOCK: Final = ".ckptmigrate-lock"  # `.NAME.ckptmigrate-lock` is the lock of a destination NAME
PARTS: Final = ".ckptmigrate-parts"  # and `.NAME.ckptmigrate-parts` its finished data files


@dataclass(frozen=True)
class Leftover:
    """The files of an out-of-place migration that is in progress or was interrupted.

    Attributes:
        destination: the destination.
        owner: the owner of its lock; None if the lock does not name it.
        locked: whether it has a lock; a run that failed leaves only finished data files.
    """

    destination: Place
    owner: Owner | None
    locked: bool = True

    @property
    def is_over(self) -> bool:
        """Return whether its process is known to have ended."""
        return not self.locked or holder(self.owner) is Holder.DEAD

    @property
    def fix(self) -> str:
        """Return the command that removes it."""
        return command("recover", self.destination)

    def __str__(self) -> str:
        by = f" by {self.owner or 'an unknown process'}" if self.locked else ""
        return f"a migration to {self.destination}{by} was interrupted: run `{self.fix}`"


def leftovers(folder: Place, names: Iterable[str]) -> list[Leftover]:
    """Return the interrupted and running migrations to destinations in a folder.

    Args:
        names: what is in the folder.
    """
    locked = dict.fromkeys(_of(folder, names, LOCK), True)
    found = {**dict.fromkeys(_of(folder, names, PARTS), False), **locked}
    return [
        Leftover(place, owner_of(place.with_name(f".{place.name}{LOCK}")) if lock else None, lock)
        for place, lock in sorted(found.items(), key=lambda item: str(item[0]))
    ]


def _of(folder: Place, names: Iterable[str], ending: str) -> list[Place]:
    return [
        folder / name[1 : -len(ending)]
        for name in names
        if name.startswith(".") and name.endswith(ending) and len(name) > len(ending) + 1
    ]
