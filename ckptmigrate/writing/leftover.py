"""What an out-of-place migration leaves beside a destination while it is not complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint.lock_owner import Holder, Owner, holder
from ckptmigrate.places import Place
from ckptmigrate.text.commands import command

LOCK: Final = ".ckptmigrate-lock"  # `.NAME.ckptmigrate-lock` is the lock of a destination NAME


@dataclass(frozen=True)
class Leftover:
    """The lock of an out-of-place migration that is in progress or was interrupted."""

    destination: Place
    owner: Owner | None

    @classmethod
    def of(cls, lock: Place, owner: Owner | None) -> Leftover:
        """Return the leftover of a lock."""
        return cls(lock.with_name(lock.name.removeprefix(".").removesuffix(LOCK)), owner)

    @property
    def is_over(self) -> bool:
        """Return whether its process is known to have ended."""
        return holder(self.owner) is Holder.DEAD

    @property
    def fix(self) -> str:
        """Return the command that removes it."""
        return command("recover", self.destination)

    def __str__(self) -> str:
        who = self.owner or "an unknown process"
        return f"a migration to {self.destination} by {who} was interrupted: run `{self.fix}`"
