"""Metrics to a reproducible JSONL file, wall times to another, and to TensorBoard or Weights & Biases."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from agents import durable
from agents.cli import UserError

COUNTERS = ("frames", "decisions", "updates")


class Sink(Protocol):
    """Somewhere else that metrics go."""

    def log(self, frames: int, metrics: Mapping[str, float]) -> None:
        """Take one row."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class Logger:
    """Append metrics rows; metrics.jsonl holds no wall time, so that equal runs have equal bytes."""

    def __init__(
        self,
        dir: Path,
        sinks: Sequence[str] = ("tensorboard",),
        wandb: Mapping[str, Any] | None = None,
        resume: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the files, cut back to the state that `resume` holds (or to nothing, which is a new run)."""
        self.dir = Path(dir)
        self.frames = int(resume["frames"]) if resume else 0
        with durable.disk_errors(self.dir):
            self.dir.mkdir(parents=True, exist_ok=True)
            truncate_to(self.dir, resume or {"bytes": 0, "frames": -1})
            self._metrics: BinaryIO = open(self.dir / "metrics.jsonl", "ab")  # noqa: SIM115 - closed in close()
            self._timing: BinaryIO = open(self.dir / "timing.jsonl", "ab")  # noqa: SIM115
        self._sinks: list[Sink] = []
        self._wandb: _Wandb | None = None
        if "tensorboard" in sinks:
            self._sinks.append(_TensorBoard(self.dir / "tb", self.frames + 1 if resume else None))
        if wandb is not None:
            self._wandb = _Wandb(self.dir, wandb, (resume or {}).get("wandb_id"))
            self._sinks.append(self._wandb)

    def log(self, counters: Mapping[str, int], metrics: Mapping[str, Any]) -> None:
        """Append one row of metrics `area/name`, numbers or lists; what is not finite becomes null."""
        values = {name: _plain(metrics[name]) for name in sorted(metrics)}
        self._write(self._metrics, counters, values)
        self.frames = int(counters["frames"])
        scalars = {
            name: math.nan if v is None else v for name, v in values.items() if not isinstance(v, list)
        }
        for sink in self._sinks:
            sink.log(self.frames, scalars)

    def time(self, counters: Mapping[str, int], timings: Mapping[str, Any]) -> None:
        """Append one row of speeds and durations, stamped with the wall clock."""
        values = {name: _plain(timings[name]) for name in sorted(timings)}
        self._write(self._timing, counters, {"wall": time.time(), **values})

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps to continue these files bytewise; everything before it is on the disk."""
        with durable.disk_errors(self.dir):
            for file in (self._metrics, self._timing):
                file.flush()
                os.fsync(file.fileno())
        state: dict[str, Any] = {"bytes": self._metrics.tell(), "frames": self.frames}
        return {**state, "wandb_id": self._wandb.id} if self._wandb else state

    def close(self) -> None:
        """Close every file and sink."""
        for sink in self._sinks:
            sink.close()
        self._sinks = []
        with durable.disk_errors(self.dir):
            self._metrics.close()
            self._timing.close()

    def _write(self, file: BinaryIO, counters: Mapping[str, int], values: Mapping[str, Any]) -> None:
        row = {**{name: int(counters[name]) for name in COUNTERS}, **values}
        with durable.disk_errors(self.dir / file.name):
            file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            file.flush()  # a reader (plot, a crash) sees whole lines


def _plain(value: Any) -> float | list[float | None] | None:
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return _finite(value)


def _finite(value: Any) -> float | None:
    number = float(value)  # JSON has no spelling for nan and inf
    return number if math.isfinite(number) else None


def truncate_to(dir: Path, state: Mapping[str, Any]) -> None:
    """Cut metrics.jsonl to the bytes, and timing.jsonl to the frames, of a logger state."""
    metrics, timing = Path(dir) / "metrics.jsonl", Path(dir) / "timing.jsonl"
    if metrics.exists():
        if metrics.stat().st_size < state["bytes"]:
            raise durable.CorruptError(
                f"{metrics} has {metrics.stat().st_size:,} bytes, {state['bytes']:,} at its checkpoint",
                "restore the file from a copy, or start anew with run.fresh=true",
            )
        os.truncate(metrics, state["bytes"])
    if timing.exists():
        rows = [
            line for line in timing.read_bytes().splitlines(keepends=True) if _frames(line) <= state["frames"]
        ]
        durable.replace_file(timing, b"".join(rows))


def _frames(line: bytes) -> float:
    try:
        return json.loads(line)["frames"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


class _TensorBoard:
    def __init__(self, folder: Path, purge: int | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"TensorBoard logging needs the tensorboard package ({error})",
                "pip install jepa-agents[tensorboard], or logger.tensorboard=false",
            ) from error
        self.writer = SummaryWriter(str(folder), purge_step=purge)

    def log(self, frames: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, frames)

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, dir: Path, options: Mapping[str, Any], id: str | None) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "logger.wandb=true needs the wandb package", "pip install jepa-agents[wandb]"
            ) from error
        mode = os.environ.get("WANDB_MODE")
        if mode is None and (reason := _offline_reason()):
            mode = "offline"
            print(f"wandb: {reason}, logging offline under {dir}/wandb (upload later with `wandb sync`)")
        record = dir / "run.json"
        seed = record.read_bytes() if record.exists() else str(dir.resolve()).encode()
        self.id = (
            id or durable.digest(seed)[:16]
        )  # of the run, not drawn: a restart before any checkpoint finds it again
        os.environ.setdefault("WANDB_SILENT", "true")
        settings = wandb.Settings(console="off", save_code=False, disable_git=True, init_timeout=30)
        common = dict(dir=str(dir), id=self.id, resume="allow", settings=settings, mode=mode)
        self.run = wandb.init(**common, **options)

    def log(self, frames: int, metrics: Mapping[str, float]) -> None:
        self.run.log({"frames": frames, **metrics}, step=frames)

    def close(self) -> None:
        self.run.finish()


def _offline_reason() -> str | None:
    import netrc
    import socket
    from urllib.parse import urlsplit

    server = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host = server.hostname or "api.wandb.ai"
    if not os.environ.get("WANDB_API_KEY"):
        try:
            known = netrc.netrc().authenticators(host)
        except (OSError, netrc.NetrcParseError):
            known = None
        if known is None:
            return "no API key"
    try:
        socket.create_connection(
            (host, server.port or (80 if server.scheme == "http" else 443)), timeout=3
        ).close()
    except OSError:
        return f"{host} cannot be reached"
    return None
