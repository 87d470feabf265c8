"""The sharding type and the release that an optimizer is converted for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from packaging.version import Version

from ckptmigrate.optimizer.source import FLATTENED, FULLY_RESHARDABLE

# The largest size of a new data file in bytes: the default, and the smallest that can be chosen.
PART_SIZE: Final = 1024**3
SMALLEST_PART: Final = 16 * 1024


@dataclass(frozen=True)
class OptimizerTarget:
    """A sharding type to convert to.

    Attributes:
        type: `fully_sharded_model_space` or `fully_reshardable`.
        release: the release that is to load the result; None for any that reads the type.
    """

    type: str
    release: Version | None = None

    @staticmethod
    def type_of(release: Version) -> str:
        """Return the type to convert to for a release."""
        return FLATTENED if release < Version("0.15.dev0") else FULLY_RESHARDABLE

    def is_before(self, release: str) -> bool:
        """Return whether the target is known to be older than a release."""
        return self.release is not None and self.release.release < Version(release).release
