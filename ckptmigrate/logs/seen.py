"""A checkpoint, read for the errors of a log with what `inspect` and `verify` use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ckptmigrate import locate, verification
from ckptmigrate.access import places, storage
from ckptmigrate.access.places import Place
from ckptmigrate.checkpoint import metadata
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.inert.tree import Object
from ckptmigrate.releases import checking
from ckptmigrate.releases.checking import Job, Verdict
from ckptmigrate.releases.facts import compat
from ckptmigrate.releases.readers import readers
from ckptmigrate.verifying import roots
from ckptmigrate.verifying.findings import Finding
from ckptmigrate.versions.reading import Reading, read


class Seen:
    """A checkpoint, read once for every error of a log.

    Args:
        path: a checkpoint or a root.

    Raises:
        NotACheckpointError: it is not a directory.
    """

    def __init__(self, path: Place) -> None:
        self.path = places.absolute(path)
        self._verdicts: dict[Job, tuple[Verdict, ...]] = {}
        locate.require_directory(self.path)

    @cached_property
    def is_root(self) -> bool:
        """Whether the path is a root, with or without its tracker file."""
        return bool(locate.all_of(self.path)) or (self.path / locate.TRACKER_FILE).is_file()

    @cached_property
    def place(self) -> Place:
        """The directory of the checkpoint: of a root, the iteration that a job would load."""
        try:
            return roots.choose(self.path).checkpoints[0]
        except (CkptMigrateError, OSError):
            return self.path

    @cached_property
    def files(self) -> Mapping[str, int]:
        """The files of the checkpoint and their sizes in bytes."""
        return storage.directory(self.place).files()

    @cached_property
    def refusal(self) -> CkptMigrateError | None:
        """Why it cannot be verified; None where it was."""
        return self._verified if isinstance(self._verified, CkptMigrateError) else None

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """The problems that `verify` finds."""
        return () if isinstance(self._verified, CkptMigrateError) else self._verified.findings

    @cached_property
    def reading(self) -> Reading | None:
        """The checkpoint; None where it cannot be read as a whole."""
        try:
            return read(storage.directory(self.place))
        except (CkptMigrateError, OSError):
            return None

    @property
    def manifest(self) -> Manifest | None:
        """The metadata of the checkpoint; None where it cannot be read."""
        return None if self.reading is None else self.reading.manifest

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of `.metadata`; none where it cannot be read."""
        if self.manifest is not None:
            return tuple(self.manifest.metadata.entries)
        try:
            found = metadata.read(storage.directory(self.place).read(metadata.FILE))
        except (CkptMigrateError, OSError):
            return ()
        return tuple(found.entries)

    @cached_property
    def globals(self) -> tuple[str, ...]:
        """The names of classes and functions in its pickles, of one RNG state too."""
        found = self.manifest
        if found is None:
            return ()
        names = [*found.metadata.named, *found.common.torch_file.named]
        states = [key for key in found.metadata.blobs if key.startswith("rng_state")]
        for key in states[:1]:
            try:
                names += found.read_blob(key).named
            except CkptMigrateError:
                continue
        return tuple(dict.fromkeys(names))

    def argument(self, name: str) -> Any:
        """A value of the job that saved the checkpoint; None where it is not stored."""
        return None if self.manifest is None else self.manifest.common.argument(name)

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape that the checkpoint stores under a key; empty where there is none."""
        entry = None if self.manifest is None else self.manifest.metadata.entries.get(key)
        size = entry.attributes.get("size") if isinstance(entry, Object) else None
        if isinstance(size, Object) and len(size.args) == 1:
            size = size.args[0]
        is_shape = isinstance(size, tuple) and all(type(number) is int for number in size)
        return tuple(size) if is_shape and isinstance(size, tuple) else ()

    def verdicts(self, job: Job) -> tuple[Verdict, ...]:
        """What `check` predicts for a job of each release; none where it cannot be read."""
        if self.reading is None:
            return ()
        if job not in self._verdicts:
            self._verdicts[job] = tuple(
                checking.check(self.reading, each, job) for each in readers(compat())
            )
        return self._verdicts[job]

    @cached_property
    def _verified(self) -> verification.Verification | CkptMigrateError:
        try:
            return verification.verify(self.path)
        except CkptMigrateError as error:
            return error
