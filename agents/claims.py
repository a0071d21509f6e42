"""The paper's claims beside what was measured here: python -m agents.claims runs=runs/pretrain.

examples:
  python -m agents.claims
  python -m agents.claims runs=runs/pretrain/objects_t1 out=report record=tests/evidence/claims.csv
  python -m agents.claims runs=tests/evidence/claims.csv
"""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.cli import UserError, option, run_command
from agents.judging import CLAIMS, Evidence, Found
from agents.pretrain import EXAMINATION
from agents.pretrain_schema import COLUMNS


@dataclass
class Claims:
    """Print the claims C1 to C11 of seq-JEPA with ours beside the paper's numbers."""

    runs: str = option(
        "runs/pretrain", "pre-training runs, a folder that holds some, or rows recorded before (CSV)"
    )
    out: Path | None = option(None, "folder for claims.md and claims.png (default: no files)")
    record: Path | None = option(None, "evidence file (CSV) to add every answer to")


def claims(options: Claims) -> int:
    """Read finished runs, print the claims, and write what is asked for."""
    found = read(options.runs)
    if not found:
        fix = "python -m agents.pretrain experiment=objects"
        raise UserError(f"no finished pre-training run below {options.runs}", fix)
    if Path(options.runs).is_file() and options.record:
        raise UserError(
            "record= takes what runs have answered, and runs= is a file of rows", "leave out record"
        )
    pictures = [one for one in found if one.kind not in COLUMNS]
    mixed = sorted({one.env for one in pictures})
    if len(mixed) > len({one.kind for one in pictures}):
        text = f"runs on {', '.join(mixed)} cannot be judged as one"
        raise UserError(text, f"name one folder, such as runs={options.runs}/{mixed[0]}")
    lines = report(found)
    print("\n".join(lines))
    if options.record:
        from agents.evidence import append_rows

        print(f"{append_rows(options.record, rows_of(found))} new rows in {options.record}")
    if options.out:
        from agents.claims_report import write

        print(write(options.out, Evidence(found), lines))
    return 0


def read(place: str | Path) -> list[Found]:
    """Read every examination below a folder, in the order of their paths, or what was recorded of some."""
    if Path(place).is_file():
        return read_recorded(Path(place))
    found = [read_one(path.parent) for path in sorted(Path(place).rglob(EXAMINATION))]
    _refuse_mixtures(found)
    return found


def _refuse_mixtures(found: Sequence[Found]) -> None:
    """Raise UserError where a variant has learned with one seed in two ways: which of them would count?"""
    from agents.evidence import label_runs, read_run

    same: dict[tuple[str, str, int], list[Found]] = {}
    for one in found:
        same.setdefault((one.env, one.variant, one.seed), []).append(one)
    for (env, variant, seed), several in same.items():
        labels = label_runs([read_run(one.path) for one in several]) if len(several) > 1 else {}
        if len(labels) > 1:
            ways = " and ".join(sorted(labels.values()))
            text = f"{env}, {variant or 'one run'}, seed {seed} was learned in two ways: {ways}"
            raise UserError(text, f"move one of {' and '.join(str(one.path) for one in several)} elsewhere")


def read_one(run: Path) -> Found:
    """Read the examination of a finished run."""
    from agents.durable import DOCUMENT_LIMIT, parse_document, read_regular

    def load(name: str) -> dict[str, Any]:
        return parse_document(run / name, read_regular(run / name, DOCUMENT_LIMIT))

    try:
        answers, about = load(EXAMINATION), load("run.json")
        variant, seed, frames = (answers[name] for name in ("variant", "seed", "frames"))
        return Found(run, about["env"], variant, seed, frames, dict(answers["metrics"]))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{run} holds no examination of a pre-training run: {error!r}", "leave it out"
        ) from None


def read_recorded(path: Path) -> list[Found]:
    """Read the rows of an evidence file, one examination for each variant and seed; later rows count."""
    from agents.evidence import read_rows

    examinations: dict[tuple[str, str, int], Found] = {}
    for row in read_rows(path):
        try:
            env, variant, seed, frames = row["env"], row["method"], int(row["seed"]), int(row["frames"])
            one = examinations.setdefault((env, variant, seed), Found(path, env, variant, seed, frames, {}))
            one.metrics[row["metric"]] = float(row["value"])
        except ValueError:
            raise UserError(f"{path} has a row that is not a number: {row}", "record it again") from None
    return list(examinations.values())


def report(found: Sequence[Found]) -> list[str]:
    """The claims, and what was found on tables, as lines."""
    tables = [one for one in found if one.kind in COLUMNS]
    pictures = [one for one in found if one.kind not in COLUMNS]
    return [*(_claims(pictures) if pictures else ()), *(_tables(tables) if tables else ())]


def _tables(found: Sequence[Found]) -> Iterator[str]:
    """What latents of columns are worth beside raw ones: mean and spread over seeds, by table and variant."""
    names = list(dict.fromkeys(name for one in found for name in sorted(one.metrics)))
    for env, variant in dict.fromkeys((one.env, one.variant) for one in found):
        mine = [one.metrics for one in found if (one.env, one.variant) == (env, variant)]
        scores = "scores: share of classes found, or error of numbers"
        yield f"{env}, {variant or 'one run'}, {len(mine)} seeds ({scores})"
        for name in names:
            values = [metrics[name] for metrics in mine if name in metrics]
            if values:
                spread = f" ±{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
                yield f"      {name:<24} {np.mean(values):.4f}{spread}"


def _claims(found: Sequence[Found]) -> list[str]:
    evidence = Evidence(found)
    seeds = {(f.kind, f.variant): sum(g[1:3] == f[1:3] for g in found) for f in found}
    lines = ["runs: " + ", ".join(f"{kind}/{variant} ×{n}" for (kind, variant), n in sorted(seeds.items()))]
    for claim in CLAIMS:
        ours, verdict = claim.verdict(evidence)
        lines += [
            f"{claim.name:<4}{claim.statement}  [{verdict}]",
            f"      ours:  {ours}",
            f"      paper: {claim.paper}",
        ]
    return lines


def rows_of(found: Iterable[Found]) -> Iterator[dict[str, str]]:
    """Every answer as a row of evidence."""
    from agents.evidence import read_run, row_of

    for one in found:
        run = read_run(one.path)
        wall = run.seconds_at(np.array([one.frames]))[0]
        for metric, value in sorted(one.metrics.items()):
            if math.isfinite(value):
                yield row_of(run, one.kind, one.variant, one.frames, metric, f"{value:.5f}", wall)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("claims", claims, argv, options=Claims)


if __name__ == "__main__":
    sys.exit(main())
