"""The verb `check`: predict whether releases can resume from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ckptmigrate.checkpoint import locate
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.places import Place
from ckptmigrate.releases import prediction
from ckptmigrate.releases.check_answer import CheckAnswer
from ckptmigrate.releases.environment import USUAL, Environment
from ckptmigrate.releases.facts import compat
from ckptmigrate.releases.job import Job, saved_parallelism
from ckptmigrate.releases.prediction import Verdict
from ckptmigrate.releases.readers import reader, readers
from ckptmigrate.report.document import CommandOutcome, Document, Facts, NextStep, Predicted
from ckptmigrate.storage import directories
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import command
from ckptmigrate.verbs.result import Digests, Status, Watch, Written, digests_of, unwatched
from ckptmigrate.versions.detection import Reading, read

if TYPE_CHECKING:
    from ckptmigrate.planning.fixes import Advice


_ANSWERS: Final = {
    CheckAnswer.YES: "{release} can resume from",
    CheckAnswer.LIKELY: "{release} can likely resume from",
    CheckAnswer.CONDITIONAL: "{release} can resume only under a condition from",
    CheckAnswer.UNKNOWN: "It is not known whether {release} can resume from",
    CheckAnswer.NO: "{release} cannot resume from",
}


_GOOD: Final = (CheckAnswer.YES, CheckAnswer.LIKELY)


@dataclass(frozen=True)
class CheckRequest:
    """A request to predict whether a job resumes from the checkpoint of a PATH.

    Attributes:
        release: the release of the job; None for every known release.
        job: the parallelism and flags of the job.
        torch: the torch version of the job; None for the usual one of its release.
        environment: the Python and NumPy versions of the job.
        iteration: the iteration of a root to use instead of the one in the tracker file.
        every: whether to check every iteration of a root.
        advise: whether to find a fix if the release cannot resume.
    """

    release: str | None = None
    job: Job = field(default_factory=Job)
    torch: str | None = None
    environment: Environment = USUAL
    iteration: int | None = None
    every: bool = False
    advise: bool = True
    verb: str = "check"

    @property
    def target(self) -> str | None:
        """Return the release."""
        return self.release

    def options(self) -> dict[str, Any]:
        """Return the versions and the flags of the job."""
        return {"torch": self.torch, **asdict(self.environment), **asdict(self.job)}

    def run(self, path: Place, *, reported: bool = False, watch: Watch = unwatched) -> CheckResult:
        """Predict whether the job resumes from the checkpoint of a PATH."""
        located, found, verdicts = self._predicted(path)
        advice: tuple[Advice, ...] = ()
        if self.release is not None and self.advise:
            with watch("reading", None) as progress:
                advice = self._advice(located, found, verdicts, progress)
        facts = None
        if reported:
            from ckptmigrate.verbs.inspect import inspect

            facts = inspect(found.manifest.path).facts
        notes = tuple(_assumptions(located, found))
        return CheckResult(found.manifest.path, verdicts, self.release, advice, facts, notes)

    def checked(self, path: Place) -> Iterator[tuple[Verdict, Advice]]:
        """Yield the verdict on each release and its fix."""
        located, found, verdicts = self._predicted(path)
        yield from zip(verdicts, self._advice(located, found, verdicts), strict=True)

    def _predicted(self, path: Place) -> tuple[Located, Reading, tuple[Verdict, ...]]:
        located = locate.only(path, iteration=self.iteration)
        found = read(directories.directory(located.checkpoints[0]))
        if self.release is None:
            asked = readers(compat(), self.torch, self.environment)
        else:
            asked = [reader(self.release, compat(), self.torch, self.environment)]
        return located, found, tuple(prediction.check(found, each, self.job) for each in asked)

    def _advice(
        self,
        located: Located,
        found: Reading,
        verdicts: tuple[Verdict, ...],
        progress: Progress | None = None,
    ) -> tuple[Advice, ...]:
        from ckptmigrate.planning import fixes  # a check of all releases does not need it

        named = located.words(self.iteration)
        return tuple(fixes.advise(found, each, self.job, named, progress) for each in verdicts)


def _why_not(found: Advice) -> str:
    return f"{'' if found.needs_sizes else 'no single command or flag helps: '}{found.reason}"


def _assumptions(located: Located, found: Reading) -> Iterator[str]:
    """Yield what the prediction assumes about a checkpoint of a framework."""
    if located.kind.own_loader:
        yield (
            f"{located.kind.framework} loads checkpoints with code of its own; the answer is about "
            "load_checkpoint of Megatron-LM"
        )
    unknown = saved_parallelism(found.manifest).unknown
    if unknown:
        yield (
            f"the checkpoint does not contain {', '.join(unknown)}; the answer is for a job with "
            "the same sizes as the one that wrote it"
        )


@dataclass(frozen=True)
class CheckResult:
    """The result of `check`.

    Attributes:
        path: the checkpoint.
        verdicts: the prediction for each release, oldest first.
        release: the requested release, or None for every known one.
        advice: the fix for the requested release; empty if there is none, or not requested.
        facts: the facts of the checkpoint, or None if not requested.
        assumptions: what the prediction assumes, one sentence each.
    """

    path: Place
    verdicts: tuple[Verdict, ...]
    release: str | None
    advice: tuple[Advice, ...] = ()
    facts: Facts | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """Return the status; a list of all releases is a success, whatever it says."""
        good = self.release is None or self.verdicts[0].answer in _GOOD
        return Status.OK if good else Status.PROBLEMS

    @property
    def text(self) -> str:
        """Return a summary in a few words."""
        if self.release is None:
            good = sum(verdict.resumes for verdict in self.verdicts)
            return f"{good} of {len(self.verdicts)} releases resume"
        [verdict] = self.verdicts
        caveat = f" ({verdict.reader.caveat})" if verdict.reader.caveat else ""
        if verdict.obstacles:
            return f"no: {verdict.obstacles[0].error}{caveat}"
        if not verdict.resumes:
            return f"{verdict.answer.value}: {verdict.conditions[0]}{caveat}"
        return f"Megatron-Core {self.release} resumes{caveat}"

    @property
    def written(self) -> Written:
        """Return an empty value: nothing is written."""
        return Written()

    @property
    def digests(self) -> Digests:
        """Return the hashes of the metadata files."""
        return {str(self.path): digests_of(self.path)}

    def as_json(self) -> Any:
        """Return the documented JSON form (docs/json.md, `check --json`)."""
        shown = [verdict.as_json() for verdict in self.verdicts]
        if not self.advice:
            return shown
        [fix] = self.advice
        return {**shown[0], "after_conversion": fix.converts, "fix": fix.as_json()}

    def document(self) -> Document:
        """Return the document."""
        return Document(
            CommandOutcome.PASSED if self.status.good else CommandOutcome.FAILED,
            self._answer if self.release else f"{self.path}: {self.text}",
            found=() if self.facts is None else (self.facts,),
            predictions=tuple(Predicted(str(self.path), each) for each in self.verdicts),
            steps=tuple(self._steps()),
            warnings=(
                *self.assumptions,
                *(_why_not(each) for each in self.advice if each.reason),
                *dict.fromkeys(each.damage for each in self.verdicts if each.damage),
            ),
        )

    @property
    def _answer(self) -> str:
        [verdict] = self.verdicts
        without = f" without {', '.join(verdict.without)}" if verdict.without else ""
        found = verdict.reader
        like = "" if found.measured is None else f" and {found.measured}"
        like += "" if found.like is None else f" and that it loads like {found.like}"
        answer = _ANSWERS[verdict.answer].format(release=f"Megatron-Core {found.release}")
        return f"{answer} {self.path}{without} (assuming torch {found.torch}{like})"

    def _steps(self) -> Iterator[NextStep]:
        if self.release is None and not all(verdict.resumes for verdict in self.verdicts):
            yield NextStep("ask", command("check", self.path, "--reader", "RELEASE"))
        for each in self.advice:
            if each.command:
                yield NextStep("fix", each.command)
            if each.flags:
                yield NextStep("job", " ".join(each.flags))
