"""A checkpoint that `inspect` and `verify` examine to explain the errors of a log."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ckptmigrate import places
from ckptmigrate.checkpoint import locate, metadata, metadata_file, root_reading
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checks import root_checks, verification
from ckptmigrate.checks.findings import Finding
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.pickles.tree import Object
from ckptmigrate.places import Place
from ckptmigrate.releases import prediction
from ckptmigrate.releases.facts import compat
from ckptmigrate.releases.job import Job
from ckptmigrate.releases.prediction import Verdict
from ckptmigrate.releases.readers import readers
from ckptmigrate.storage import directories
from ckptmigrate.versions.detection import Reading, read


class Seen:
    """A checkpoint, read once for all errors of a log.

    Args:
        path: a checkpoint or a root.

    Raises:
        NotACheckpointError: the path is not a directory.
    """

    def __init__(self, path: Place) -> None:
        self.path = places.absolute(path)
        self._verdicts: dict[Job, tuple[Verdict, ...]] = {}
        locate.require_directory(self.path)

    @cached_property
    def is_root(self) -> bool:
        """Return whether the path is a root, with or without its tracker file."""
        root = root_reading.find(self.path)
        return root is not None and (bool(root.numbers) or root.has_tracker)

    @cached_property
    def place(self) -> Place:
        """Return the checkpoint; for a root, the one that a job would load."""
        try:
            return root_checks.choose(self.path).checkpoints[0]
        except (CkptMigrateError, OSError):
            return self.path

    @cached_property
    def files(self) -> Mapping[str, int]:
        """Return the files of the checkpoint and their sizes in bytes."""
        return directories.directory(self.place).files()

    @cached_property
    def refusal(self) -> CkptMigrateError | None:
        """Return the error that prevents `verify`, or None."""
        return self._verified if isinstance(self._verified, CkptMigrateError) else None

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Return the problems that `verify` reports."""
        return () if isinstance(self._verified, CkptMigrateError) else self._verified.findings

    @cached_property
    def reading(self) -> Reading | None:
        """Return the checkpoint, or None if it cannot be read."""
        try:
            return read(directories.directory(self.place))
        except (CkptMigrateError, OSError):
            return None

    @property
    def manifest(self) -> Manifest | None:
        """Return the metadata of the checkpoint, or None if it cannot be read."""
        return None if self.reading is None else self.reading.manifest

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of `.metadata`; empty if it cannot be read."""
        if self.manifest is not None:
            return tuple(self.manifest.metadata.entries)
        try:
            found = metadata_file.read(directories.directory(self.place).read(metadata.FILE))
        except (CkptMigrateError, OSError):
            return ()
        return tuple(found.entries)

    @cached_property
    def globals(self) -> tuple[str, ...]:
        """Return the globals of the metadata files and of one RNG state."""
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
        """Return an argument of the job that saved the checkpoint; None if it is not stored."""
        return None if self.manifest is None else self.manifest.common.argument(name)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape that the checkpoint stores for a key; empty if there is none."""
        entry = None if self.manifest is None else self.manifest.metadata.entries.get(key)
        size = entry.attributes.get("size") if isinstance(entry, Object) else None
        if isinstance(size, Object) and len(size.args) == 1:
            size = size.args[0]
        is_shape = isinstance(size, tuple) and all(type(number) is int for number in size)
        return tuple(size) if is_shape and isinstance(size, tuple) else ()

    def verdicts(self, job: Job) -> tuple[Verdict, ...]:
        """Return the predictions of `check` per release; empty if the checkpoint is unreadable."""
        if self.reading is None:
            return ()
        if job not in self._verdicts:
            self._verdicts[job] = tuple(
                prediction.check(self.reading, each, job) for each in readers(compat())
            )
        return self._verdicts[job]

    @cached_property
    def _verified(self) -> verification.Verification | CkptMigrateError:
        try:
            return verification.verify(self.path)
        except CkptMigrateError as error:
            return error
