"""The run directory: found or created, locked by one process, described in run.json, looked up by name."""

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from agents import checkpoint, durable
from agents.cli import UserError
from agents.config import essentials
from agents.provenance import describe_code, without_secrets

SCHEMA = 1
RECORD = "run.json"
_LOCK = ".lock"
_PACKAGES = (
    "jepa-agents",
    "torch",
    "torchrl",
    "tensordict",
    "mujoco",
    "dm-control",
    "gymnasium",
    "hydra-core",
    "numpy",
)
_held: set[Path] = set()


class Found(NamedTuple):
    """A run directory, and a checkpoint of it if one was asked for or exists."""

    run: Path | None
    checkpoint: Path | None


class Run:
    """A locked run directory; a context manager that gives the lock back."""

    def __init__(self, path: Path, resumed: bool, lock: int) -> None:
        """Take over an already locked directory."""
        self.path, self.resumed, self._lock = path, resumed, lock

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.path / "checkpoints"

    @property
    def replay(self) -> Path:
        """Where replay chunks go."""
        return self.path / "replay"

    def close(self) -> None:
        """Give the lock back."""
        if self.path in _held:
            _held.discard(self.path)
            os.close(self._lock)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_run(
    root: Path | str,
    env_name: str,
    seed: int,
    config_hash: str,
    *,
    config: dict[str, Any] | None = None,
    dir: Path | str | None = None,
    fresh: bool = False,
    command: list[str] | None = None,
    device: str = "cpu",
) -> Run:
    """Resume the newest run of the same environment, seed and configuration, or create one; lock it."""
    told: dict[str, Any] = without_secrets(config or {})
    home = Path(root) / slug(env_name)
    with durable.disk_errors(Path(dir) if dir else home):
        if dir is not None:
            path = Path(dir).resolve()
            _check_explicit(path, config_hash, told, seed, fresh)
            path.mkdir(parents=True, exist_ok=True)
        else:
            old = None if fresh else _newest(home, seed, config_hash)
            path = old or _create(home, seed, config_hash)
        lock = _acquire(path)
        for left in path.glob(".tmp-*"):  # a killed process was writing it; nobody else writes now
            left.unlink()
        checkpoint.settle(path / "checkpoints")
        resumed = (path / RECORD).exists()
        if not resumed:
            about = _describe(env_name, seed, config_hash, told, command or sys.argv, device)
            durable.replace_file(path / RECORD, json.dumps(about, indent=1, sort_keys=True).encode())
    return Run(path, resumed, lock)


def find_run(text: str | Path, root: Path | str = "runs") -> Found:
    """Resolve a run directory, one of its checkpoints, or "last" (the newest run under `root`)."""
    if str(text) == "last":
        runs = list_runs(root)
        if not runs:
            raise UserError(
                f"no run under {root}/",
                "train one first, e.g. python -m agents.train env=toy_ring trainer=debug",
            )
        # A start that failed leaves a run without a checkpoint, which nobody means by "last".
        run = next((run for run in runs if _newest_checkpoint(run)), runs[0])
        return Found(run, _newest_checkpoint(run))
    path = Path(text).resolve()
    if (path / RECORD).is_file():
        return Found(path, _newest_checkpoint(path))
    if (path / checkpoint.MANIFEST).is_file():
        run = path.parent.parent
        return Found(run if (run / RECORD).is_file() else None, path)
    if path.name == "checkpoints" and (path.parent / RECORD).is_file():
        return Found(path.parent, _newest_checkpoint(path.parent))
    what = "is neither a run directory nor a checkpoint" if path.exists() else "does not exist"
    known = "".join(f"\n    {run}" for run in list_runs(root)[:5])
    raise UserError(
        f"run={text} {what}", f"name one of these, or run=last:{known}" if known else "train a run first"
    )


def list_runs(root: Path | str) -> list[Path]:
    """Every run directory under the root, the one that wrote last first."""
    runs = [path.parent for path in Path(root).glob(f"*/*/{RECORD}")]

    def touched(run: Path) -> tuple[float, str]:
        newest = [run / "metrics.jsonl", run / "checkpoints", run / RECORD]
        return max(path.stat().st_mtime for path in newest if path.exists()), run.name

    return sorted(runs, key=touched, reverse=True)


def read_record(run: Path) -> dict[str, Any]:
    """Read run.json."""
    where = Path(run) / RECORD
    record = durable.parse_document(where, durable.read_regular(where, durable.DOCUMENT_LIMIT))
    if not isinstance(record, dict):
        raise UserError(f"{where} is not a run record", "choose another directory")
    return record


def slug(name: str) -> str:
    """Make any text a short, plain directory name; texts that had to change keep apart by a hash."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_").lower()[:60]
    if plain and plain == name and plain not in {"con", "nul", "aux", "prn"}:
        return plain
    return f"{plain or 'env'}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"


def _newest_checkpoint(run: Path) -> Path | None:
    return checkpoint.latest(run / "checkpoints")


def _newest(home: Path, seed: int, config_hash: str) -> Path | None:
    for path in sorted(home.glob(f"s{seed}-*-{config_hash[:8]}*"), reverse=True):
        with contextlib.suppress(UserError):
            record = read_record(path)
            if record.get("config_hash") == config_hash and record.get("seed") == seed:
                return path.resolve()
    return None


def _create(home: Path, seed: int, config_hash: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    home.mkdir(parents=True, exist_ok=True)
    for attempt in range(1000):
        path = home / f"s{seed}-{stamp}-{config_hash[:8]}{f'-{attempt}' if attempt else ''}"
        with contextlib.suppress(FileExistsError):  # somebody else started in the same second
            path.mkdir()
            return path.resolve()
    raise UserError(f"cannot find a free name under {home}", "give one with run.dir=…")


def _check_explicit(path: Path, config_hash: str, config: dict[str, Any], seed: int, fresh: bool) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"run.dir={path} is a file", "give a directory")
    ours = (path / RECORD).exists()
    strangers = [
        entry.name for entry in path.iterdir() if entry.name != _LOCK and not entry.name.startswith(".tmp-")
    ]
    if strangers and not ours:
        raise UserError(
            f"run.dir={path} holds other files ({sorted(strangers)[0]}, …)", "give a new or empty directory"
        )
    if not ours:
        return
    if fresh:
        raise UserError(
            f"run.dir={path} already holds a run and run.fresh=true", "give another run.dir or drop run.fresh"
        )
    record = read_record(path)
    if record.get("config_hash") == config_hash and record.get("seed") == seed:
        return
    odd = _differences(record.get("config", {}), config)
    if record.get("seed") != seed:
        odd.append(f"seed: {record.get('seed')} there, {seed} here")
    more = f"\n    … and {len(odd) - 5} more" if len(odd) > 5 else ""
    raise UserError(
        f"run.dir={path} holds a run of another configuration:"
        + "".join(f"\n    {line}" for line in odd[:5])
        + more,
        "repeat its settings to resume it, or give another run.dir",
    )


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    old, new = essentials(there), essentials(here)
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return [f"{key}: {_typed(old.get(key))} there, {_typed(new.get(key))} here" for key in keys]


def _typed(value: Any) -> str:
    """Say a setting as one would type it."""
    return repr(value) if isinstance(value, str) else json.dumps(value)


def _acquire(path: Path) -> int:
    """Lock the directory for this process; the system gives the lock back however the process dies."""
    if path in _held:
        raise UserError(
            f"{path} is already open in this process (pid {os.getpid()})", "close the other Run first"
        )
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # A record lock, not flock: workers forked from us would keep a flock alive after our death.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        owner = os.read(descriptor, 200).decode(errors="replace").strip() or "an unknown process"
        os.close(descriptor)
        raise UserError(
            f"{path} is in use by {owner}",
            "wait for it, stop it, or start beside it with run.fresh=true (or another run.dir)",
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    _held.add(path)
    return descriptor


def _describe(
    env_name: str, seed: int, config_hash: str, config: dict[str, Any], command: list[str], device: str
) -> dict[str, Any]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "schema": SCHEMA,
        "env": env_name,
        "seed": seed,
        "config_hash": config_hash,
        "config": config,
        "command": without_secrets(command),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "platform": platform.platform(),
        "versions": versions,
        "code": describe_code(),
    }
