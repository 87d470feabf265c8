"""The commands that only read a checkpoint, as `work.Work` on one checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ckptmigrate import report
from ckptmigrate.batch.tasks import Done, Status, Task, digests_of
from ckptmigrate.releases.environment import Environment
from ckptmigrate.releases.job import Job
from ckptmigrate.report.document import Report
from ckptmigrate.storage.urls import place


def _done(task: Task, good: bool, text: str, detail: Any, report: Report | None = None) -> Done:
    status = Status.DONE if good else Status.WANTING
    digests = {task.path: digests_of(task.path)}
    detail = detail if task.detail else None
    return Done(status, text, digests=digests, detail=detail, report=report)


@dataclass(frozen=True)
class Inspect:
    """The work of `inspect`."""

    verb: str = "inspect"
    target: None = None

    def matters(self) -> dict[str, Any]:
        """Return no options: the result depends only on the checkpoint."""
        return {}

    def do(self, task: Task) -> Done:
        """Summarize the layout, the rerun state and the first problem of a checkpoint."""
        from ckptmigrate.checkpoint import migration_state
        from ckptmigrate.verbs import inspect

        path = place(task.path)
        migration_state.check_complete(path)
        found = inspect.inspect(path)
        text = f"{found.likely[0]}, {found.rerun.kind.value}"
        text += f": {found.anomalies[0]}" if found.anomalies else ""
        return _done(task, found.healthy, text, found.as_json())


@dataclass(frozen=True)
class Verify:
    """The work of `verify`.

    Attributes:
        load, hashed, known: arguments of `verification.verify`.
        tracker: whether to check the tracker file of the parent directory too.
    """

    load: bool = False
    hashed: bool = False
    known: tuple[str, ...] = ()
    tracker: bool = False
    verb: str = "verify"
    target: None = None

    def matters(self) -> dict[str, Any]:
        """Return the options that decide what is read and which globals are trusted."""
        return {"load": self.load, "hash": self.hashed, "known": sorted(self.known)}

    def do(self, task: Task) -> Done:
        """Count the problems of a checkpoint and name the first one."""
        from ckptmigrate.checks import root_checks, verification
        from ckptmigrate.checks.codes import Severity
        from ckptmigrate.text.printable import counted

        path = place(task.path)
        found = verification.verify(path, load=self.load, hashed=self.hashed, known=self.known)
        if self.tracker:
            found = found.beside(root_checks.choose(path.parent, every=True).findings)
        counts = [counted(n, s.value) for s in Severity if (n := found.count(s))]
        text = ", ".join(counts) or "clean"
        text += f": {found.findings[0].what}" if found.findings else ""
        told = task.report(lambda document: report.build.of_verify(document, found))
        return _done(task, found.clean, text, found.as_json(), told)


@dataclass(frozen=True)
class Check:
    """The work of `check`.

    Attributes:
        target: the release to check; None for all known releases.
        torch: the torch version of the job; None for the usual one.
        environment: the Python and NumPy versions of the job.
        job: the parallelism and flags of the job.
    """

    target: str | None
    torch: str | None
    environment: Environment
    job: Job
    verb: str = "check"

    def matters(self) -> dict[str, Any]:
        """Return the versions and the flags of the job."""
        return {"torch": self.torch, **asdict(self.environment), **asdict(self.job)}

    def do(self, task: Task) -> Done:
        """Predict whether the job resumes from a checkpoint."""
        from ckptmigrate.checkpoint import locate
        from ckptmigrate.releases import prediction
        from ckptmigrate.releases.facts import compat
        from ckptmigrate.releases.readers import reader, readers
        from ckptmigrate.storage.directories import directory
        from ckptmigrate.versions.detection import read

        [path] = locate.locate(place(task.path)).checkpoints
        found = read(directory(path))
        if self.target is None:
            asked = readers(compat(), self.torch, self.environment)
        else:
            asked = [reader(self.target, compat(), self.torch, self.environment)]
        verdicts = [prediction.check(found, each, self.job) for each in asked]
        good = [verdict for verdict in verdicts if verdict.resumes]
        text = f"{len(good)} of {len(verdicts)} releases resume"
        if self.target is not None:
            [verdict] = verdicts
            obstacles, caveat = verdict.obstacles, verdict.reader.caveat
            text = f"no: {obstacles[0].error}" if obstacles else f"release {self.target} resumes"
            text += f" ({caveat})" if caveat else ""

        def tell(document: Report) -> Report:
            from ckptmigrate.planning import fixes

            advised = None if self.target is None else fixes.advise(found, verdicts[0], self.job)
            return report.build.of_check(document, found.manifest.path, verdicts, advised)

        detail = [verdict.as_json() for verdict in verdicts]
        # Without a target, the list of releases is a success even if none of them resumes.
        return _done(task, self.target is None or bool(good), text, detail, task.report(tell))
