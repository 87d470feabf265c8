"""The findings of `verify`, and the table of their codes with severity, meaning and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.places import Place
from ckptmigrate.text.commands import filled
from ckptmigrate.text.printable import printable

_LONGEST: Final = 200  # characters; longer texts from a checkpoint are cut


class Severity(str, Enum):
    """Severity of a finding.

    error: a job fails or loads wrong data; warning: needs a look; note: for information.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Code:
    """A kind of finding.

    Attributes:
        code: its stable name.
        severity: its severity.
        meaning: its effect on a job, as a sentence.
        remedy: what to do; `{path}` stands for the checkpoint or root (see `commands.filled`), and
            `{repair}` for the command that repairs it, or for advice if no command does.
        source: the files of releases, or of torch, that define it.
        since: the releases that it affects.
        repair: the options that `repair` needs to remove it; None if `repair` cannot remove it.
    """

    code: str
    severity: Severity
    meaning: str
    remedy: str
    source: str
    since: str = "every release"
    repair: tuple[str, ...] | None = None

    def told(self, path: Place | str, repair: str | None) -> str:
        """Return the remedy for a path.

        Args:
            repair: the command that repairs it, or None.
        """
        command = f"run `{repair}`" if repair else _NO_REPAIR
        return command.join(filled(part, path) for part in self.remedy.split("{repair}"))


PAIR: Final = "tracker-pair"
_COPY: Final = "restore the file from a copy, or go back to an earlier iteration"
_REPORT: Final = "look with `ckptmigrate inspect {path}`; go back to an earlier iteration"
_REPAIR: Final = "{repair}"
_NO_REPAIR: Final = "restore one that is whole from a copy"

# The source of each code: a release or torch, a file of it, and a function or class there.
_CORE: Final = "megatron/core/dist_checkpointing"
_RERUN_FILE: Final = "megatron/core/rerun_state_machine.py"
_TRAINING: Final = "core_v0.9.0 to core_v0.19.0 megatron/training/checkpointing.py"
_TORCH: Final = "torch 2.13.0 torch/distributed/checkpoint"
_MARKER: Final = f"core_v0.9.0 to core_v0.19.0 {_CORE}/core.py maybe_load_config"
_COMMON: Final = (
    f"core_v0.9.0 to core_v0.18.2 {_CORE}/strategies/common.py load_common; "
    f"core_v0.19.0 {_CORE}/serialization.py load_common_state_dict"
)
_METADATA: Final = f"{_TORCH}/filesystem.py FileSystemReader.read_metadata"
_READ: Final = f"{_TORCH}/filesystem.py FileSystemReader.read_data"
_ROWS_OF_TORCH: Final = (
    f"{_TORCH}/metadata.py Metadata, TensorStorageMetadata, MetadataIndex; "
    f"{_TORCH}/filesystem.py _StorageInfo"
)
_PLANS: Final = (
    f"core_v0.11.0 to core_v0.19.0 {_CORE}/strategies/state_dict_saver.py "
    "save_state_dict_async_plan, verify_global_md_reuse"
)
_CHUNKS: Final = f"{_TORCH}/default_planner.py _validate_global_plan"
_NAMES: Final = (
    f"core_v0.9.0 to core_v0.19.0 {_CORE}/strategies/filesystem_async.py prepare_write_data"
)
_SYMBOLS: Final = (
    "the symbols of every sample; "
    "core_v0.14.0 to core_v0.19.0 megatron/core/safe_globals.py SAFE_GLOBALS"
)
_RERUN: Final = f"core_v0.10.0 to core_v0.19.0 {_RERUN_FILE} RerunStateMachine.state_dict"
_ASKED: Final = f"core_v0.14.0 to core_v0.19.0 {_RERUN_FILE} RerunStateMachine.validate_state_dict"
_TRACKER: Final = f"{_TRAINING} _load_base_checkpoint"
_BRIDGE: Final = (
    "Megatron-Bridge src/megatron/bridge/training/checkpointing.py _resolve_checkpoint_iteration"
)
_VALIDATION: Final = f"core_v0.17.1 to core_v0.19.0 {_CORE}/validation.py"
_VERIFIED: Final = f"{_VALIDATION} verify_integrity_manifest"
_OWN: Final = "ckptmigrate itself"
_SINCE_NON_PERSISTENT: Final = ">=0.9"
_SINCE_RERUN: Final = ">=0.10"
_SINCE_WORLD: Final = ">=0.14"
_SINCE_DIGESTS: Final = ">=0.17.1"
_SINCE_SENTINEL: Final = ">=0.18"
_SINCE_ENTRY: Final = ">=0.19"

_ROWS: Final = (
    Code(
        "not-verified", Severity.ERROR,
        "One checkpoint of several is of another format, or cannot be read at all.",
        "see what `ckptmigrate verify {path}` says of it alone",
        _OWN,
    ),
    Code(
        "marker-missing", Severity.ERROR,
        "Without metadata.json no release takes the directory for a torch_dist checkpoint.",
        _REPAIR,
        _MARKER, repair=(),
    ),
    Code(
        "marker-unreadable", Severity.ERROR,
        "metadata.json is not a JSON object, so no release recognises the checkpoint.",
        _REPAIR,
        _MARKER, repair=(),
    ),
    Code(
        "metadata-missing", Severity.ERROR,
        "Which bytes belong to which tensor is lost: no reader finds one.", _COPY,
        _METADATA,
    ),
    Code(
        "metadata-unreadable", Severity.ERROR,
        ".metadata is no pickle of checkpoint metadata that a writer wrote.", _COPY,
        _METADATA,
    ),
    Code(
        "entry-malformed", Severity.ERROR,
        "A row of .metadata is not what torch writes there; readers fail at it.", _COPY,
        _ROWS_OF_TORCH,
    ),
    Code(
        "table-mismatch", Severity.ERROR,
        "An entry is not in all tables of .metadata: a load or a later save goes wrong.", _COPY,
        f"{_READ}; {_PLANS}",
    ),
    Code(
        "common-missing", Severity.ERROR,
        "The args, the iteration, the optimizer settings and the learning rate schedule are lost.",
        "restore common.pt from a copy; it cannot be made up",
        _COMMON,
    ),
    Code(
        "common-unreadable", Severity.ERROR,
        "The common state is no torch file with a dict that can be read without executing it.",
        _COPY,
        _COMMON,
    ),
    Code(
        "common-twice", Severity.WARNING,
        "The common state is in common.pt and in an entry; every release reads common.pt.",
        "compare the two; where common.pt is right, nothing is to be done",
        _COMMON, _SINCE_ENTRY,
    ),
    Code(
        "payload-missing", Severity.ERROR,
        "A payload file that entries lie in is not there: their bytes are lost.", _COPY,
        _READ,
    ),
    Code(
        "payload-name", Severity.ERROR,
        "An entry lies in a file outside of the checkpoint; no writer does that.",
        "do not load it; find out who made it",
        f"{_READ}; {_NAMES}",
    ),
    Code(
        "byte-range-outside", Severity.ERROR,
        "An entry's bytes lie behind the end of its payload file, which was cut short.", _COPY,
        _READ,
    ),
    Code(
        "byte-ranges-overlap", Severity.ERROR,
        "Two entries claim the same bytes in part, so one of them loads wrong values.", _COPY,
        f"{_TORCH}/filesystem.py _write_item",
    ),
    Code(
        "chunk-outside", Severity.ERROR,
        "A chunk of a tensor lies outside of the tensor's global shape.", _COPY,
        _CHUNKS,
    ),
    Code(
        "chunks-do-not-tile", Severity.ERROR,
        "The chunks of a tensor overlap or leave gaps: a load leaves elements as they were, or "
        "takes them from either.",
        _COPY,
        _CHUNKS,
    ),
    Code(
        "chunks-not-compared", Severity.WARNING,
        "A tensor is cut in so many dimensions that only the volumes of its chunks were compared.",
        "find out who made it; no release of Megatron-Core cuts in more than a few",
        _OWN,
    ),
    Code(
        "plan-rank-unknown", Severity.ERROR,
        "A payload file was written by a rank that the plans or args do not know.", _REPORT,
        f"{_PLANS}; {_NAMES}",
    ),
    Code(
        "sizes-contradict", Severity.WARNING,
        "The parallel sizes that args, plans and files tell contradict each other.",
        "state the right ones to a migration with --world-size, --tensor-parallel and "
        "--pipeline-parallel",
        "core_v0.9.0 to core_v0.19.0 megatron/training/arguments.py validate_args; " + _PLANS,
    ),
    Code(
        "blob-unreadable", Severity.ERROR,
        "A sharded object is no torch zip that can be read without executing it.", _COPY,
        f"{_TORCH}/default_planner.py DefaultLoadPlanner.load_bytes",
    ),
    Code(
        "blob-not-read", Severity.NOTE,
        "A sharded object, or with --load a chunk of a tensor, is too large to be read whole; its "
        "place was checked all the same.",
        "nothing",
        _OWN,
    ),
    Code(
        "unknown-symbol", Severity.ERROR,
        "A pickle names something that no writer of Megatron-Core is known to write, and a job "
        "that loads it imports and may call that.",
        "do not load it before you know who wrote that; where you do, say so with "
        "`ckptmigrate verify {path} --known NAME`",
        _SYMBOLS,
    ),
    Code(
        "moved-module", Severity.WARNING,
        "A pickle names a module by the name that Python 3.13 alone gives it; a job on an older "
        "Python cannot load it.",
        _REPAIR,
        "compat_matrix.yaml moved_modules",
        repair=(),
    ),
    Code(
        "rerun-shards-missing", Severity.ERROR,
        "Rerun shards are not there, and a job that asks for them cannot load. What they held of a "
        "fault is gone; weights, optimizer and RNG are intact.",
        _REPAIR,
        f"{_RERUN}; {_TRAINING} load_checkpoint; sample 0.17.1-corrupt-tp2", _SINCE_RERUN,
        repair=(),
    ),
    Code(
        "rerun-not-resumable", Severity.ERROR,
        "No release resumes from this rerun state: a job loads it and fails at its first step. A "
        "job that exits with status 17 saves it, to be examined.",
        _REPAIR,
        f"core_v0.10.0 to core_v0.19.0 {_RERUN_FILE} should_run_forward_backward", _SINCE_RERUN,
        repair=("--drop-rerun",),
    ),
    Code(
        "optimizer-shapes-missing", Severity.ERROR,
        ".metadata has flattened optimizer states and no mcore_data, the table of their shapes, so "
        "no release that reads them can load the optimizer.",
        _REPAIR,
        f"core_v0.9.0 to core_v0.15.3 {_CORE}/strategies/torch.py get_reformulation_metadata; "
        "pytorch issue 178001", "<0.16",
        repair=(),
    ),
    Code(
        "rerun-contradictory", Severity.ERROR,
        "The common state and the rerun shards tell what no release writes together.", _REPORT,
        _RERUN, _SINCE_RERUN,
    ),
    Code(
        "rerun-shards-unclaimed", Severity.WARNING,
        "There are rerun shards and no rerun entry, so no release from 0.12 on asks for them.",
        "nothing, unless a job runs with --dist-ckpt-strictness raise_all",
        f"{_TRAINING} load_checkpoint", _SINCE_WORLD,
    ),
    Code(
        "rerun-sentinel-missing", Severity.WARNING,
        "An idle rerun entry without its sentinel shards; releases from 0.14 on resume from it.",
        _REPAIR,
        _ASKED, _SINCE_SENTINEL,
        repair=("--rebuild-sentinel",),
    ),
    Code(
        "orphan-payload", Severity.NOTE,
        "A payload file that no entry lies in.", "nothing; it takes space",
        _READ,
    ),
    Code(
        "orphan-bytes", Severity.NOTE,
        "Bytes of a payload file that belong to no entry.", "nothing; they take space",
        _READ,
    ),
    Code(
        "migration-unfinished", Severity.ERROR,
        "A migration in place did not finish, or is still running.",
        "if none is running, run `ckptmigrate recover {path}`",
        _OWN,
    ),
    Code(
        "sidecar-stale", Severity.WARNING,
        "The checkpoint was changed since its last migration: the kept originals are not used.",
        "nothing, unless you want the way back",
        _OWN,
    ),
    Code(
        "nested-linked", Severity.ERROR,
        "A folder is a link to a checkpoint, which no verb follows.",
        "put the folder itself there",
        _OWN,
    ),
    Code(
        "tracker-missing", Severity.ERROR,
        "A root without a tracker file: a job finds no checkpoint and starts from nothing.",
        _REPAIR,
        _TRACKER,
        repair=("--in-place",),
    ),
    Code(
        "tracker-unreadable", Severity.ERROR,
        "The tracker file names neither an iteration nor `release`.", _REPAIR,
        f"{_TRAINING} read_metadata",
        repair=("--in-place",),
    ),
    Code(
        "tracker-dangling", Severity.ERROR,
        "The tracker file names an iteration that is not there.", _REPAIR,
        _TRACKER,
        repair=("--in-place",),
    ),
    Code(
        "tracker-half-written", Severity.ERROR,
        "The tracker file names an iteration whose save did not finish.", _REPAIR,
        _TRACKER,
        repair=("--in-place",),
    ),
    Code(
        PAIR, Severity.ERROR,
        "latest_train_state.pt, which Megatron-Bridge reads first, does not name the iteration of "
        "the tracker file.",
        _REPAIR,
        _BRIDGE,
        repair=("--in-place",),
    ),
    Code(
        "tracker-behind", Severity.WARNING,
        "There is a newer iteration than the one the tracker file names.",
        "nothing, if its save was still running; else name it with --iteration",
        _TRACKER,
    ),
    Code(
        "non-persistent-newer", Severity.WARNING,
        "A non-persistent checkpoint is as new; a job with --non-persistent-ckpt-type global "
        "prefers it.",
        "verify that one too: `ckptmigrate verify {path}/non_persistent --all`",
        f"{_TRACKER}, _get_non_persistent_iteration", _SINCE_NON_PERSISTENT,
    ),
    Code(
        "integrity-unreadable", Severity.ERROR,
        "integrity.json holds no SHA-256 digests; a job with --verify-integrity fails.",
        "remove it, and run the job without --verify-integrity",
        _VERIFIED, _SINCE_DIGESTS,
    ),
    Code(
        "integrity-absent", Severity.NOTE,
        "There is no integrity.json, so --hash has nothing to compare with.",
        "save with --verify-integrity to have one",
        f"{_VALIDATION} save_integrity_manifest", _SINCE_DIGESTS,
    ),
    Code(
        "integrity-file-missing", Severity.ERROR,
        "A file that integrity.json has a digest of is not there.", _COPY,
        _VERIFIED, _SINCE_DIGESTS,
    ),
    Code(
        "integrity-mismatch", Severity.ERROR,
        "A file has other bytes than integrity.json says; a job with --verify-integrity fails.",
        f"restore it from a copy; where it was changed on purpose, {_REPAIR}",
        _VERIFIED, _SINCE_DIGESTS,
        repair=(),
    ),
    Code(
        "tensor-unreadable", Severity.ERROR,
        "torch cannot load the bytes of a chunk.", _COPY,
        _READ,
    ),
    Code(
        "tensor-mismatch", Severity.ERROR,
        "A chunk loads as a tensor of another dtype or shape than .metadata says.", _COPY,
        _READ,
    ),
)  # fmt: skip
CODES: Final = {row.code: row for row in _ROWS}


@dataclass(frozen=True)
class Finding:
    """One problem of a checkpoint or root.

    Attributes:
        code: a key of CODES.
        path: the checkpoint or root.
        what: a description with names and numbers.
        items: all affected keys, files or globals.
        options: options that `repair` needs in addition to those of the code.
        repair: the command that repairs it, or None.
        fix: a remedy that replaces that of the code, or None.
    """

    code: str
    path: Place
    what: str
    items: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    repair: str | None = None
    fix: str | None = None

    @property
    def severity(self) -> Severity:
        """The severity of its code."""
        return CODES[self.code].severity

    @property
    def remedy(self) -> str:
        """What to do, with the command if there is one."""
        return self.fix or CODES[self.code].told(self.path, self.repair)

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `verify --json`)."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "path": str(self.path),
            "what": self.what,
            "items": list(self.items),
            "meaning": CODES[self.code].meaning,
            "remedy": self.remedy,
        }


def fix_of(error: CkptMigrateError) -> str | None:
    """Return the fix of an error if the system could not read a file; None for other errors.

    Such a file can still be intact.
    """
    return error.fix if isinstance(error.__cause__, OSError) else None


def shown(text: str) -> str:
    """Return a text from a checkpoint, made printable and cut after _LONGEST characters."""
    return printable(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")


def number(value: int) -> str:
    """Return a number from a checkpoint as text, or its size if the number is very large.

    Python cannot convert an integer of thousands of digits to text.
    """
    return str(value) if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count and its noun, for example `1 entry` or `2 entries`."""
    return f"{count} {one if count == 1 else many or one + 's'}"
