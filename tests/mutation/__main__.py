"""`python tests/mutation`: measure how many small errors in the core packages the tests find.

python tests/mutation contexts -n 2 -m "not full"    run the tests once, record what each executes
python tests/mutation run --count 120                test a sample of mutants with them
"""

from __future__ import annotations

import argparse
import json
import queue
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from contexts import Contexts, record
from judging import Bench, Verdict
from points import Mutant, sample

STATUSES = ("killed", "survived", "unfinished", "unreached")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python tests/mutation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repository", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--contexts", type=Path, default=Path("build/mutation/contexts.json"))
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("contexts", help="other arguments are those of pytest", allow_abbrev=False)
    run = verbs.add_parser("run")
    run.add_argument("--count", type=int, default=120, help="mutants in the sample")
    run.add_argument("--seed", type=int, default=12)
    run.add_argument("--limit", type=float, default=120, help="CPU seconds of tests for each")
    run.add_argument("--workers", type=int, default=2, help="mutants at the same time")
    run.add_argument("--into", type=Path, default=Path("build/mutation/results.json"))
    given, rest = parser.parse_known_args()
    given.repository = given.repository.resolve()
    started = time.monotonic()
    if given.verb == "contexts":
        contexts = record(given.repository, rest)
        given.contexts.parent.mkdir(parents=True, exist_ok=True)
        given.contexts.write_text(contexts.dump())
        print(f"{len(contexts.seconds)} tests in {time.monotonic() - started:.0f} s")
        return
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    mutants = sample(given.repository, given.seed, given.count)
    verdicts = judged(mutants, given)
    given.into.parent.mkdir(parents=True, exist_ok=True)
    results = [asdict(m) | asdict(v) for m, v in zip(mutants, verdicts, strict=True)]
    given.into.write_text(json.dumps({"seed": given.seed, "mutants": results}, indent=1))
    print(summary(mutants, verdicts))
    print(f"{len(mutants)} mutants (seed {given.seed}) in {time.monotonic() - started:.0f} s")


def judged(mutants: list[Mutant], given: argparse.Namespace) -> list[Verdict]:
    """Return the verdict of each mutant, and print it as soon as it is known."""
    contexts = Contexts.load(given.contexts)
    benches: queue.SimpleQueue[Bench] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.workers) as pool:
        for number in range(given.workers):
            place = Path(folder, str(number))
            place.mkdir()
            benches.put(Bench(given.repository, place, contexts))

        def judge(mutant: Mutant) -> Verdict:
            bench = benches.get()
            try:
                verdict = bench.judge(mutant, given.limit)
            finally:
                benches.put(bench)
            change = " ".join(f"{mutant.old} -> {mutant.new or 'nothing'}".split())
            print(f"{verdict.status:10} {mutant.file}:{mutant.line}: {change[:100]}"
                  f" ({verdict.tests} tests, {verdict.seconds:.0f} s, {verdict.test})",
                  flush=True)  # fmt: skip
            return verdict

        return list(pool.map(judge, mutants))


def summary(mutants: list[Mutant], verdicts: list[Verdict]) -> str:
    """Return a table: package, count of each status, share that was killed."""
    counts = Counter(
        (m.file.split("/")[1], v.status) for m, v in zip(mutants, verdicts, strict=True)
    )
    rows = [f"{'package':12}" + "".join(f"{each:>12}" for each in (*STATUSES, "score"))]
    packages = sorted({package for package, _ in counts})
    for name, group in [*((p, [p]) for p in packages), ("all", packages)]:
        numbers = [sum(counts[package, status] for package in group) for status in STATUSES]
        score = f"{numbers[0] / sum(numbers):.1%}"
        rows.append(f"{name:12}" + "".join(f"{each:>12}" for each in (*numbers, score)))
    return "\n".join(rows)


if __name__ == "__main__":
    main()
