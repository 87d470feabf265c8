"""The verb `verify`: validate checkpoints and list every problem with its fix."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from ckptmigrate.checkpoint.manifest import PAYLOAD
from ckptmigrate.checks import root_checks, verification
from ckptmigrate.checks.code import Severity
from ckptmigrate.checks.torch_load import require_torch
from ckptmigrate.checks.verification import Verification, Verified
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.places import Place
from ckptmigrate.report.document import CommandOutcome, Document, Facts
from ckptmigrate.storage import directories
from ckptmigrate.text.printable import counted
from ckptmigrate.text.sizes import data_files, size
from ckptmigrate.verbs.result import Digests, Status, Watch, Written, digests_of, unwatched
from ckptmigrate.versions.detection import read


@dataclass(frozen=True)
class VerifyRequest:
    """A request to verify the checkpoints of a PATH.

    Attributes:
        load: whether to read every tensor with torch too.
        hashed: whether to hash the data files too and compare them with integrity.json.
        optimizer: whether to compare the main parameters of the optimizer with the weights too.
        sample: compare only this number of parts of the main parameters; None for all.
        known: dotted names of globals in the pickles to trust.
        iteration, every: this iteration, or every iteration, of a root instead of the one in the
            tracker file.
        with_root: whether to check the tracker file of the parent directory too.
    """

    load: bool = False
    hashed: bool = False
    optimizer: bool = False
    sample: int | None = None
    known: tuple[str, ...] = ()
    iteration: int | None = None
    every: bool = False
    with_root: bool = False
    verb: str = "verify"
    target: None = None

    def options(self) -> dict[str, Any]:
        """Return the options that decide what is read and which globals are trusted."""
        return {
            "load": self.load,
            "hash": self.hashed,
            "optimizer": self.optimizer,
            "sample": self.sample,
            "known": sorted(self.known),
        }

    def run(self, path: Place, *, reported: bool = False, watch: Watch = unwatched) -> VerifyResult:
        """Verify the checkpoints of a PATH."""
        if self.load:
            require_torch()
        with watch("verifying", self._bytes(path)) as progress:
            found = verification.verify(
                path,
                load=self.load,
                hashed=self.hashed,
                optimizer=self.optimizer,
                sample=self.sample,
                iteration=self.iteration,
                every=self.every,
                known=self.known,
                progress=progress if self.load or self.hashed or self.optimizer else None,
            )
        if self.with_root:
            found = found.beside(root_checks.findings(root_checks.root_of(path)))
        return VerifyResult(found)

    def _bytes(self, path: Place) -> int:
        """Return the number of bytes of data files to read; some are read twice."""
        passes = self.load + self.hashed
        if not passes and not self.optimizer:
            return 0
        chosen = root_checks.choose(path, iteration=self.iteration, every=self.every)
        total = 0
        for each in chosen.checkpoints:
            directory = directories.directory(each)
            sizes = directory.files().items()
            total += passes * sum(size for name, size in sizes if PAYLOAD.fullmatch(name))
            if self.optimizer and self.sample is None:
                from ckptmigrate.optimizer.comparison import read_size

                with contextlib.suppress(CkptMigrateError):  # `verify` reports it
                    total += read_size(read(directory).manifest)
        return total


@dataclass(frozen=True)
class VerifyResult:
    """The result of `verify`."""

    found: Verification

    @property
    def status(self) -> Status:
        """Return the status."""
        return Status.OK if self.found.clean else Status.PROBLEMS

    @property
    def text(self) -> str:
        """Return the number of problems of each severity, and the first problem."""
        first = f": {self.found.findings[0].what}" if self.found.findings else ""
        return f"{self._counts}{first}"

    @property
    def written(self) -> Written:
        """Return an empty value: nothing is written."""
        return Written()

    @property
    def digests(self) -> Digests:
        """Return the hashes of the metadata files."""
        return {str(each.path): digests_of(each.path) for each in self.found.checkpoints}

    @property
    def _counts(self) -> str:
        counts = [counted(n, s.value) for s in Severity if (n := self.found.count(s))]
        if not counts:
            return "no problems found"
        return ", ".join(["no errors", *counts] if self.found.clean else counts)

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `verify --json`)."""
        return self.found.as_json()

    def document(self) -> Document:
        """Return the document."""
        found = self.found
        read = found.checkpoints
        held = data_files(
            sum(each.payload_files for each in read), sum(each.payload_bytes for each in read)
        )
        unused = sum(each.unused_bytes for each in read)
        held += f", {size(unused)} of them unused" if unused else ""
        keys = counted(sum(each.entries for each in read), "key")
        many = f"{len(read)} checkpoints, " if len(read) > 1 else ""
        about = read[0].path if len(read) == 1 else found.path
        return Document(
            CommandOutcome.PASSED if found.clean else CommandOutcome.FAILED,
            f"{about}: {self._counts} ({many}{keys}, {held})",
            found=tuple(
                Facts(
                    str(each.path),
                    {
                        "keys": (str(each.entries),),
                        "data files": (f"{each.payload_files} ({size(each.payload_bytes)})",),
                        "unused bytes": (size(each.unused_bytes),),
                        "errors": (str(len(each.errors)),),
                        **_compared(each),
                    },
                )
                for each in read
            ),
            problems=found.findings,
        )


def _compared(found: Verified) -> dict[str, tuple[str, ...]]:
    """Return the fact about the comparison of the optimizer; empty if there was none."""
    about = found.compared
    if about is None:
        return {}
    parts = f"{about.compared} of {about.cells} parts of the main parameters"
    differ = sum(about.differing.values())
    return {"optimizer": (f"{parts} compared with the weights, {differ} differ",)}
