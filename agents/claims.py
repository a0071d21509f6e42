"""The paper's claims beside what was measured here: python -m agents.claims runs=runs/pretrain.

examples:
  python -m agents.claims
  python -m agents.claims runs=runs/pretrain/objects_t1 out=report record=tests/evidence/claims.csv
"""

import csv
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.cli import UserError, option, run_command
from agents.judging import CLAIMS, Evidence, Found
from agents.pretrain import EXAMINATION


@dataclass
class Claims:
    """Print the claims C1 to C11 of seq-JEPA with ours beside the paper's numbers."""

    runs: str = option("runs/pretrain", "pre-training runs, or a folder that holds some")
    out: Path | None = option(None, "folder for claims.md and claims.png (default: no files)")
    record: Path | None = option(None, "evidence file (CSV) to add every answer to")


def claims(options: Claims) -> int:
    """Read finished runs, print the claims, and write what is asked for."""
    found = read(options.runs)
    if not found:
        fix = "python -m agents.pretrain experiment=objects"
        raise UserError(f"no finished pre-training run below {options.runs}", fix)
    for line in report([f.path for f in found]):
        print(line)
    if options.record:
        from agents.evidence import read_run

        print(f"{record(found, options.record, read_run)} new rows in {options.record}")
    if options.out:
        from agents.claims_report import write

        print(write(options.out, Evidence(found), report([f.path for f in found])))
    return 0


def read(place: str | Path) -> list[Found]:
    """Read every examination below a folder, in the order of their paths."""
    return [_read_one(path.parent) for path in sorted(Path(place).rglob(EXAMINATION))]


def _read_one(run: Path) -> Found:
    from agents.durable import DOCUMENT_LIMIT, parse_document, read_regular

    def load(name: str) -> dict[str, Any]:
        return parse_document(run / name, read_regular(run / name, DOCUMENT_LIMIT))

    try:
        answers, about = load(EXAMINATION), load("run.json")
        kind = about["config"]["data"]["kind"]
        return Found(
            run, kind, answers["variant"], answers["seed"], answers["frames"], dict(answers["metrics"])
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{run} holds no examination of a pre-training run: {error!r}", "leave it out"
        ) from None


def report(runs: Iterable[Path]) -> list[str]:
    """The claims as lines of a table."""
    found = [_read_one(run) for run in runs if (run / EXAMINATION).exists()]
    evidence = Evidence(found)
    seeds = {(f.kind, f.variant): sum(g[1:3] == f[1:3] for g in found) for f in found}
    lines = ["runs: " + ", ".join(f"{kind}/{variant} ×{n}" for (kind, variant), n in sorted(seeds.items()))]
    for claim in CLAIMS:
        try:
            ours, holds = claim.judge(evidence)
            verdict = "reported" if holds is None else "holds" if holds else "FAILS"
        except LookupError as missing:
            ours, verdict = f"not run: {missing}", "–"
        lines += [
            f"{claim.name:<4}{claim.statement}  [{verdict}]",
            f"      ours:  {ours}",
            f"      paper: {claim.paper}",
        ]
    return lines


def record(found: Sequence[Found], path: Path, read_run: Callable[[Path], Any]) -> int:
    """Append every answer to an evidence file, without repeating a row; return how many are new."""
    from agents.evidence import COLUMNS

    known: set[tuple[str, ...]] = set()
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            known = {
                (*tuple(row[name] for name in COLUMNS[:6]), row["commit"]) for row in csv.DictReader(file)
            }
    fresh, new = not path.exists(), 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        for one in found:
            run = read_run(one.path)
            wall = run.seconds_at(np.array([one.frames]))[0]
            for metric, value in sorted(one.metrics.items()):
                key = (one.kind, run.env, one.variant, str(one.seed), str(one.frames), metric)
                if (*key, run.commit) not in known and math.isfinite(value):
                    seconds = "" if math.isnan(wall) else f"{wall:.1f}"
                    writer.writerow([*key, f"{value:.5f}", seconds, run.commit, run.command])
                    new += 1
    return new


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("claims", claims, argv, options=Claims)


if __name__ == "__main__":
    sys.exit(main())
