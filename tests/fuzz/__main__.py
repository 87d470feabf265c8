"""Mutate every file of the samples, and judge the outcome. In the folder `tests`:

python -m fuzz --count 100000                     every kind
python -m fuzz --kind blob --seed 7 --case 1234   one case again
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fuzz import workers

TESTS = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--kind", choices=workers.KINDS, action="append", help="default: each")
    parser.add_argument("--count", type=int, default=100_000, help="mutations of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="stop each kind after so many")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samples", type=Path, default=TESTS / "samples")
    parser.add_argument("--failures", type=Path, default=TESTS.parent / "fuzz-failures")
    parser.add_argument(
        "--verbs-every", type=int, default=48, help="one accepted mutation in N goes through a verb"
    )
    parser.add_argument("--case", type=int, help="run this one alone, here")
    given = parser.parse_args()
    kinds = given.kind or workers.KINDS
    if given.case is not None:
        failures = [
            f for kind in kinds
            if (f := workers.replay(
                kind, given.samples, seed=given.seed, number=given.case,
                verbs_every=given.verbs_every,
            ))
        ]  # fmt: skip
        for failure in failures:
            print(failure.what)
        return bool(failures)
    bad = 0
    for kind in kinds:
        until = None if given.minutes is None else time.monotonic() + 60 * given.minutes
        found = workers.fuzz(
            kind, given.samples, seed=given.seed, count=given.count,
            processes=given.processes, until=until, verbs_every=given.verbs_every,
        )  # fmt: skip
        print(
            f"{kind}: {found.judged} mutations (seed {given.seed}) in {found.seconds:.0f} s, "
            f"{found.judged / found.seconds:.0f}/s, {found.accepted} accepted and right, "
            f"{found.through_verbs} through a verb, at most {found.memory // 1000} MB, "
            f"{len(found.failures)} failures",
            flush=True,
        )
        for failure in found.failures:
            given.failures.mkdir(exist_ok=True)
            path = given.failures / f"{kind}-{given.seed}-{failure.number}"
            path.write_bytes(failure.data)
            path.with_name(path.name + ".txt").write_text(failure.what)
            print(f"  {failure.sample}: {failure.what.strip().splitlines()[-1]}")
            print(f"    {path}; again: python -m fuzz --kind {kind} --seed {given.seed} "
                  f"--case {failure.number} --verbs-every {given.verbs_every}")  # fmt: skip
        bad += len(found.failures) + (found.judged == 0)
    return bool(bad)


sys.exit(main())
