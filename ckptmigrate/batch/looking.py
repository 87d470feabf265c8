"""The verbs that look at a checkpoint and change nothing, as work on one (`work.Work`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ckptmigrate import reporting
from ckptmigrate.access.places import place
from ckptmigrate.batch.work import Done, Status, Task, digests_of
from ckptmigrate.releases.checking import Job
from ckptmigrate.releases.environment import Environment
from ckptmigrate.reporting.report import Report


def _done(task: Task, good: bool, text: str, detail: Any, report: Report | None = None) -> Done:
    status = Status.DONE if good else Status.WANTING
    digests = {task.path: digests_of(task.path)}
    detail = detail if task.detail else None
    return Done(status, text, digests=digests, detail=detail, report=report)


@dataclass(frozen=True)
class Inspect:
    """`inspect`."""

    verb: str = "inspect"
    target: None = None

    def matters(self) -> dict[str, Any]:
        """Nothing but the checkpoint."""
        return {}

    def do(self, task: Task) -> Done:
        """Say what it is, in a few words."""
        from ckptmigrate import inspection
        from ckptmigrate.writing.writer import writer

        path = place(task.path)
        writer(path).check_whole()
        found = inspection.inspect(path)
        text = f"{found.likely[0]}, {found.rerun.kind.value}"
        text += f": {found.anomalies[0]}" if found.anomalies else ""
        return _done(task, found.healthy, text, found.as_json())


@dataclass(frozen=True)
class Verify:
    """`verify`.

    Attributes:
        load, hashed, known: arguments of `verification.verify_one`.
        tracker: look at the tracker file of the root around it, too.
    """

    load: bool = False
    hashed: bool = False
    known: tuple[str, ...] = ()
    tracker: bool = False
    verb: str = "verify"
    target: None = None

    def matters(self) -> dict[str, Any]:
        """How much was read, and who vouches for what."""
        return {"load": self.load, "hash": self.hashed, "known": sorted(self.known)}

    def do(self, task: Task) -> Done:
        """Say how much is wrong with it, and what comes first."""
        from ckptmigrate import verification
        from ckptmigrate.verifying import roots
        from ckptmigrate.verifying.findings import Severity, counted

        path = place(task.path)
        found = verification.verify(path, load=self.load, hashed=self.hashed, known=self.known)
        if self.tracker:
            found = found.beside(roots.choose(path.parent, every=True).findings)
        counts = [counted(n, s.value) for s in Severity if (n := found.count(s))]
        text = ", ".join(counts) or "clean"
        text += f": {found.findings[0].what}" if found.findings else ""
        told = task.report(lambda report: reporting.building.of_verify(report, found))
        return _done(task, found.clean, text, found.as_json(), told)


@dataclass(frozen=True)
class Check:
    """`check`.

    Attributes:
        target: the release that is asked; None for all of them.
        torch: the reader's torch; None for the usual one.
        environment: the Python and the NumPy of the job.
        job: the job that is to resume.
    """

    target: str | None
    torch: str | None
    environment: Environment
    job: Job
    verb: str = "check"

    def matters(self) -> dict[str, Any]:
        """The reader and the job."""
        return {"torch": self.torch, **asdict(self.environment), **asdict(self.job)}

    def do(self, task: Task) -> Done:
        """Say whether the job resumes from it."""
        from ckptmigrate import locate
        from ckptmigrate.access.storage import directory
        from ckptmigrate.releases import checking
        from ckptmigrate.releases.facts import compat
        from ckptmigrate.releases.readers import reader, readers
        from ckptmigrate.versions.reading import read

        [path] = locate.locate(place(task.path)).checkpoints
        found = read(directory(path))
        if self.target is None:
            asked = readers(compat(), self.torch, self.environment)
        else:
            asked = [reader(self.target, compat(), self.torch, self.environment)]
        verdicts = [checking.check(found, each, self.job) for each in asked]
        good = [verdict for verdict in verdicts if verdict.resumes]
        text = f"{len(good)} of {len(verdicts)} releases resume"
        if self.target is not None:
            [verdict] = verdicts
            obstacles, caveat = verdict.obstacles, verdict.reader.caveat
            text = f"no: {obstacles[0].error}" if obstacles else f"release {self.target} resumes"
            text += f" ({caveat})" if caveat else ""

        def tell(report: Report) -> Report:
            from ckptmigrate.planning import advice

            advised = None if self.target is None else advice.advise(found, verdicts[0], self.job)
            return reporting.building.of_check(report, found.manifest.path, verdicts, advised)

        detail = [verdict.as_json() for verdict in verdicts]
        # A list of releases is an answer, whatever is in it.
        return _done(task, self.target is None or bool(good), text, detail, task.report(tell))
