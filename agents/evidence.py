"""What was measured: curves read from run directories, and rows of evidence files (CSV)."""

import csv
import glob
import itertools
import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.cli import UserError, suggest
from agents.config import essentials
from agents.durable import CorruptError, disk_errors
from agents.provenance import spell_commit
from agents.rundir import find_run, read_record

COLUMNS = ("experiment", "env", "method", "seed", "frames", "metric", "value", "wall_s", "commit", "command")
ELAPSED = "speed/elapsed_s"
COUNTERS = {"frames", "decisions", "updates"}
LONGEST = 2**20  # bytes of a line of metrics; ours are a thousand


@dataclass
class Curve:
    """One metric of one run, or of one seed in an evidence file: x and y have the same length."""

    env: str
    method: str
    seed: int
    frames: np.ndarray
    values: np.ndarray
    wall_s: np.ndarray

    @property
    def timed(self) -> bool:
        """Whether it is known of any point when it was reached."""
        return bool(np.isfinite(self.wall_s).any())


@dataclass
class RunRecord:
    """A run directory as it was written: who made it, and its metrics and wall times."""

    path: Path
    env: str
    seed: int
    config_hash: str
    config: dict[str, Any]
    commit: str
    command: str
    rows: list[dict[str, Any]] = field(repr=False, default_factory=list)
    timing: list[dict[str, Any]] = field(repr=False, default_factory=list)

    def metrics(self) -> set[str]:
        """Name every metric in the run that is a number."""
        return {name for row in self.rows for name, value in row.items() if _is_number(value)} - COUNTERS

    def curve(self, metric: str, method: str) -> Curve:
        """Pick one metric; rows without it, or where it is not a number, are left out."""
        kept = [row for row in self.rows if _is_number(row.get(metric)) and _is_number(row.get("frames"))]
        frames = np.array([row["frames"] for row in kept], dtype=np.float64)
        values = np.array([row[metric] for row in kept], dtype=np.float64)
        return Curve(self.env, method, self.seed, frames, values, self.seconds_at(frames))

    def seconds_at(self, frames: np.ndarray) -> np.ndarray:
        """Seconds of work until each frame count, over all resumptions; nan where no time was logged."""
        pairs = [(row["frames"], row[ELAPSED]) for row in self.timing if {"frames", ELAPSED} <= row.keys()]
        if not pairs:
            return np.full(len(frames), np.nan)
        stamps, seconds = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
        return np.interp(frames, stamps, seconds)


def read_runs(patterns: Sequence[str]) -> list[RunRecord]:
    """Read every run directory that the paths, the patterns or "last" name, in a stable order."""
    found: dict[Path, RunRecord] = {}
    for pattern in patterns:
        named = [find_run(pattern).run] if pattern == "last" else map(Path, sorted(glob.glob(pattern)))
        places = [place for place in named if place]
        for place in places:
            for record in (
                place / "run.json",
                *sorted(place.glob("*/run.json")),
                *sorted(place.glob("*/*/run.json")),
            ):
                if record.is_file():
                    found.setdefault(record.parent.resolve(), read_run(record.parent))
    if not found:
        text = f"no run directory matches {' '.join(patterns)}"
        raise UserError(text, "train one first: python -m agents.train experiment=smoke")
    return list(found.values())


def read_run(path: Path) -> RunRecord:
    """Read run.json, metrics.jsonl and timing.jsonl; a half-written last line is left out."""
    try:
        about = read_record(path)
        code = about.get("code") or {}
        commit = spell_commit(code)
        return RunRecord(
            path,
            str(about["env"]),
            int(about["seed"]),
            str(about["config_hash"]),
            about.get("config") or {},
            commit,
            _spell(about.get("command") or []),
            list(read_lines(path / "metrics.jsonl")),
            list(read_lines(path / "timing.jsonl")),
        )
    except CorruptError as error:
        raise UserError(str(error).splitlines()[0], "leave this run out") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path / 'run.json'} cannot be read: {error!r}", "leave this run out") from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON lines file; only the last line may be half-written."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(LONGEST + 1)
            if len(line) > LONGEST:
                raise UserError(f"line {number} of {path} is longer than any of ours", "leave this run out")
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                if not line.endswith(b"\n"):  # the writer is not done, or was killed
                    return
                raise UserError(
                    f"line {number} of {path} is damaged", "resume the run, which cuts the file back"
                ) from None
            if isinstance(row, dict):
                yield row
            if not line:
                return


def label_runs(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Name each configuration by the settings in which it differs from the others: hash -> label."""
    known = {run.config_hash: essentials(run.config) for run in runs}
    keys = sorted({key for settings in known.values() for key in settings} - {"env.task", "env.id"})
    different = [k for k in keys if len({str(s.get(k)) for s in known.values()}) > 1]
    labels = {}
    for config_hash, settings in known.items():
        parts = [f"{key.rpartition('.')[2]}={settings.get(key)}" for key in different[:3]]
        labels[config_hash] = ", ".join(parts) or "jepa-agents"
    if len(set(labels.values())) < len(labels) and len({run.env for run in runs}) == 1:
        labels = {config_hash: f"{label} ({config_hash[:6]})" for config_hash, label in labels.items()}
    return labels


def curves_of(runs: Sequence[RunRecord], metric: str, method: str = "") -> list[Curve]:
    """Collect one metric of several runs; a metric that no run has raises UserError."""
    known = sorted({name for run in runs for name in run.metrics()})
    if metric not in known:
        fix = f"choose one of {', '.join(known)}" if known else "wait until the runs have logged something"
        raise UserError(f"no run has the metric {metric}{suggest(metric, known)}", fix)
    labels = label_runs(runs)
    curves = [run.curve(metric, method or labels[run.config_hash]) for run in runs]
    return [curve for curve in curves if len(curve.frames)]


def read_evidence(path: Path, metric: str = "") -> list[Curve]:
    """Read the rows of an evidence file, one curve per env, method and seed."""
    rows = [row for row in read_rows(path) if not metric or row["metric"] == metric]
    if not rows:
        known = sorted({row["metric"] for row in read_rows(path)})
        text = f"{path} has no rows of {metric or 'any metric'}{suggest(metric, known)}"
        raise UserError(text, f"choose one of {', '.join(known)}" if known else "record some runs first")
    groups: dict[tuple[str, str, int], dict[float, tuple[float, float]]] = {}
    for row in rows:
        try:
            group = groups.setdefault((row["env"], row["method"], int(row["seed"])), {})
            group[float(row["frames"])] = (
                float(row["value"]),
                float(row["wall_s"] or "nan"),
            )  # the last one counts
        except ValueError:
            raise UserError(
                f"{path} has a row that is not a number: {row}", "record it again from its run"
            ) from None
    curves = []
    for (env, method, seed), points in groups.items():
        frames, values, wall = np.array([(at, *point) for at, point in sorted(points.items())]).T
        curves.append(Curve(env, method, seed, frames, values, wall))
    return curves


def record_runs(runs: Sequence[RunRecord], path: Path, *, metric: str, method: str, experiment: str) -> int:
    """Append what the runs measured to an evidence file, without repeating a row; return how many are new."""
    return append_rows(path, _rows_of(runs, metric, method, experiment))


def append_rows(path: Path, rows: Iterable[dict[str, str]]) -> int:
    """Append rows to an evidence file, leaving out those it has; return how many are new."""
    known = {_identity(row) for row in read_rows(path)} if path.exists() else set()
    new = [row for row in rows if _identity(row) not in known]
    fresh = not path.exists()
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if fresh:
                writer.writerow(COLUMNS)
            writer.writerows([row[name] for name in COLUMNS] for row in new)
    return len(new)


def _rows_of(
    runs: Iterable[RunRecord], metric: str, method: str, experiment: str
) -> Iterator[dict[str, str]]:
    for run in runs:
        curve = run.curve(metric, method)
        for frames, value, wall in zip(curve.frames, curve.values, curve.wall_s, strict=True):
            yield row_of(run, experiment, method, int(frames), metric, repr(float(value)), wall)


def row_of(
    run: RunRecord, experiment: str, method: str, frames: int, metric: str, value: str, wall_s: float
) -> dict[str, str]:
    """One number of a run as a row of evidence; nan seconds are left empty."""
    return {
        "experiment": experiment,
        "env": run.env,
        "method": method,
        "seed": str(run.seed),
        "frames": str(frames),
        "metric": metric,
        "value": value,
        "wall_s": "" if np.isnan(wall_s) else f"{wall_s:.1f}",
        "commit": run.commit,
        "command": run.command,
    }


def _identity(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(
        row[name] for name in ("experiment", "env", "method", "seed", "frames", "metric", "commit", "command")
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of an evidence file as they are."""
    if not path.is_file():
        raise UserError(f"there is no evidence file {path}", "make one with record=… from some runs")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path} lacks the columns {', '.join(missing)}", f"its header must be {','.join(COLUMNS)}"
            )
        return [row for row in reader if None not in row.values()]


def _spell(command: Sequence[str]) -> str:
    words = [str(word) for word in command]
    if words and words[0].endswith(".py") and Path(words[0]).parent.name == "agents":
        words[:1] = ["python", "-m", f"agents.{Path(words[0]).stem}"]
    return shlex.join(words)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
