"""What every verb that works on checkpoints takes and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

from ckptmigrate.checkpoint import nested
from ckptmigrate.checkpoint.manifest import METADATA_FILES
from ckptmigrate.checkpoint.sidecar import digest_of
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.storage.progress import Progress

if TYPE_CHECKING:
    from ckptmigrate.report.document import Document
    from ckptmigrate.writing.links import Link

CHANGING: Final = ("upgrade", "downgrade", "migrate", "repair", "undo")  # verbs that write
# Directory -> name of a metadata file in it -> its hash, None if the file does not exist.
Digests = Mapping[str, Mapping[str, str | None]]
# (what is done, number of bytes or None) -> a context with the callback that counts bytes.
Watch = Callable[[str, int | None], AbstractContextManager[Progress | None]]


def unwatched(what: str, total: int | None) -> AbstractContextManager[Progress | None]:
    """Show no progress."""
    return nullcontext(None)


class Status(str, Enum):
    """The status of a command on a PATH, or on one checkpoint of a batch."""

    OK = "ok"  # read, no problems
    DONE = "done"  # changed
    UNCHANGED = "unchanged"  # nothing had to be done
    PLANNED = "planned"  # a dry run
    SKIPPED = "skipped"  # finished by an earlier run, according to the ledger
    PROBLEMS = "problems"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # rolled back

    @property
    def good(self) -> bool:
        """Return whether the command succeeded."""
        return self not in (Status.PROBLEMS, Status.FAILED, Status.INTERRUPTED)


@dataclass(frozen=True)
class Written:
    """The checkpoint that a command wrote, or would write.

    Attributes:
        path: the resulting checkpoint, or the root of a repair; None if there is none.
        tracker: the text of a tracker file that names it; None if the command creates no root.
        link: how the data files were brought there, or None.
    """

    path: Place | None = None
    tracker: str | None = None
    link: Link | None = None


class Result(Protocol):
    """The result of a verb."""

    @property
    def status(self) -> Status:
        """Return the status."""

    @property
    def text(self) -> str:
        """Return a summary in a few words."""

    @property
    def written(self) -> Written:
        """Return what was written or planned."""

    @property
    def digests(self) -> Digests:
        """Return the hashes of the metadata files that were read and written."""

    def as_json(self) -> Any:
        """Return the documented JSON form (docs/json.md)."""

    def document(self) -> Document:
        """Return the document."""


class VerbRequest(Protocol):
    """What a user asks of a verb: the verb and its options."""

    @property
    def verb(self) -> str:
        """Return the name of the command."""

    @property
    def target(self) -> str | None:
        """Return the target, or None for a command without one."""

    def options(self) -> dict[str, Any]:
        """Return the options that affect the result, as JSON types."""

    def run(self, path: Place, *, reported: bool = False, watch: Watch = unwatched) -> Result:
        """Run the verb on a PATH.

        Args:
            reported: whether the document needs what the checkpoint contained before the change.
            watch: shows the progress.

        Raises:
            CkptMigrateError: it failed; the checkpoint is unchanged.
        """


def digests_of(path: Place, names: Mapping[str, Any] | None = None) -> dict[str, str | None]:
    """Return the hashes of metadata files of a checkpoint: those in `names`, else all metadata
    files of the checkpoint and of those nested in it."""
    directory = directories.directory(path)
    if names is None:
        starts = [start for start, _ in nested.parts(directory)]
        names = {f"{start}{name}": None for start in starts for name in METADATA_FILES}
    return {name: digest_of(directory, name) for name in names}
