"""The replay buffer: TorchRL's interface over our own ring, forecast before it is built."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from agents import chunks, durable
from agents.capturing import capture
from agents.cli import UserError
from agents.durable import CorruptError
from agents.segments import ArrivalWriter, Ring
from agents.starts import FadingStarts, PrioritizedStarts, UniformStarts

Fields = dict[str, tuple[tuple[int, ...], str]]

SCHEMA = 1
_BOOKKEEPING = 8 + 1 + 4  # key, startable, weight
_RESERVED = {"prev_action", "reward", "terminated", "truncated", "is_first", "valid", "index", "weight"}


class Replay(ReplayBuffer):
    """A TorchRL replay buffer whose samples are windows of arrivals, batch B T."""

    def __init__(
        self,
        ring: Ring,
        writer: ArrivalWriter,
        sampler: UniformStarts,
        batch: int,
        *,
        captured: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(storage=ring, sampler=sampler, writer=writer, batch_size=batch, collate_fn=_as_is)
        self.ring, self.draw = ring, sampler
        # The ring never moves in memory, so that a recording can read it.
        self._gather = capture(self.gather, ring.device, say, "drawing batches", wanted=captured)
        if isinstance(sampler, PrioritizedStarts):
            self._grade = capture(sampler.grade, ring.device, say, "setting priorities", wanted=captured)
        self._saved = ring.written.clone()  # rows of each column that are on disk
        self._chunks: list[dict[str, Any]] = []

    def _sample(self, batch_size: int) -> tuple[TensorDict, dict[str, Any]]:
        with self._replay_lock, self._write_lock:
            if not self.ring.reach:
                raise RuntimeError("the replay is empty: collect before the first update")
            rows = self._gather(*self.draw.propose(self.ring, batch_size))
            index = rows["index"]
            return TensorDict(rows, index.shape, device=self.ring.device), {"index": index[:, 0]}

    def gather(self, *drawn: Tensor) -> dict[str, Tensor]:
        """Gather windows with what the sampler drew, and how much they are preferred -> B T ..."""
        start = self.draw.choose(self.ring, *drawn)
        rows = self.ring.windows(start)
        return {**rows, "weight": self.draw.weigh(start)[:, None].expand_as(rows["valid"])}

    def update_priority(self, index: Tensor, priority: Tensor) -> None:
        """Set the priorities of sampled windows: `batch["index"]` B T or its first column B, B."""
        if not isinstance(self.draw, PrioritizedStarts):
            return
        start = (index if index.ndim == 1 else index[:, 0]).to(self.ring.device)
        with self._replay_lock, self._write_lock:
            self._grade(start, priority.detach().to(self.ring.device, torch.float32).reshape(-1))

    @property
    def total(self) -> int:
        """Rows ever written."""
        return int(self.ring.written.sum())

    def state_tensors(self) -> dict[str, Tensor]:
        """Tensors a checkpoint must hold beside the record of `flush`; empty for uniform sampling."""
        if isinstance(self.draw, PrioritizedStarts):
            return {"weight": self.draw.weight.cpu().clone(), "highest": self.draw.highest.cpu().clone()}
        return {}

    def flush(self, dir: Path) -> dict[str, Any]:
        """Append the rows written since the last flush to `dir`; return the record `restore` needs."""
        folder, ring = Path(dir), self.ring
        with self._replay_lock, self._write_lock:
            base, rows = int(self._saved.sum()), ring.since(self._saved)
            with durable.disk_errors(folder, len(rows) * ring.row_bytes):
                folder.mkdir(parents=True, exist_ok=True)
                chunks.clean(folder, base)
                for offset, piece in chunks.pieces(rows, ring.row_bytes):
                    entry = chunks.append(folder, base + offset, ring.dump(piece))
                    self._chunks.append({**entry, "ends": chunks.ends(piece, ring.written, ring.rows)})
            self._saved = ring.written.clone()
            oldest = (ring.written - ring.rows).tolist()
            self._chunks = [
                c for c in self._chunks if any(e > o for e, o in zip(c["ends"], oldest, strict=True))
            ]
            return {
                "schema": SCHEMA,
                "layout": ring.layout(),
                "chunks": list(self._chunks),
                "cursor": self.total,
                "written": ring.written.tolist(),
                "clock": ring.clock.tolist(),
                "decisions": self.write_count,
                "generator": self.draw.generator.get_state().numpy().tobytes().hex(),
            }

    def restore(self, dir: Path, record: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
        """Rebuild rows, cursors, generator and priorities exactly; CorruptError if anything differs."""
        self._check(record)
        try:
            with self._replay_lock, self._write_lock:
                self._restore(Path(dir), record, tensors or {})
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CorruptError(
                f"the replay record is not one of ours ({error!r})", "use an older checkpoint"
            ) from error

    def _restore(self, folder: Path, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        ring = self.ring
        self.empty()
        like = ring.dump(torch.zeros(0, dtype=torch.int64))
        for entry in record["chunks"]:
            ring.fill(chunks.read(folder, entry, like, ring.max_size))
        ring.resume(torch.tensor(record["written"]), torch.tensor(record["clock"]))
        self._writer.load_state_dict({"decisions": record["decisions"]})
        generator = torch.frombuffer(bytearray.fromhex(record["generator"]), dtype=torch.uint8)
        self.draw.load_state_dict({"generator": generator, **tensors})
        self._saved, self._chunks = ring.written.clone(), list(record["chunks"])

    def _check(self, record: dict[str, Any]) -> None:
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise CorruptError(
                f"the replay record is not one this version reads (schema {SCHEMA})", "start anew"
            )
        ours, theirs = self.ring.layout(), record.get("layout") or {}
        if odd := [
            f"{key}: saved {theirs.get(key)}, now {ours[key]}" for key in ours if ours[key] != theirs.get(key)
        ]:
            raise UserError(
                f"the saved replay does not fit this configuration ({'; '.join(odd)})",
                "resume with the same environment, env.num and replay.capacity, or use run.fresh=true",
            )


def make_replay(
    observation: Fields,
    action_size: int,
    *,
    capacity: int,
    num_envs: int,
    window: int,
    batch: int,
    storage: str = "ram",
    device: str | torch.device = "cpu",
    sampler: str = "uniform",
    alpha: float = 0.4,
    fade: float = 1.0,
    dir: Path | None = None,
    seed: int = 0,
    expected: int | None = None,
    captured: bool = False,
    say: Callable[[str], None] = print,
) -> Replay:
    """Build a replay of `capacity` rows once it is sure to fit; observation maps names to (shape, dtype).

    Memory is taken as rows arrive, so a run that will write only `expected` rows needs room for those alone.
    """
    if taken := _RESERVED & set(observation):
        raise UserError(
            f"an observation cannot be called {sorted(taken)[0]!r}", "rename it in the environment"
        )
    rows = capacity // num_envs
    if rows < max(window, 2) + 1:
        raise UserError(
            f"replay.capacity={capacity} leaves {rows} rows for each of {num_envs} environments, too few "
            f"for a window of {window}",
            f"set replay.capacity to at least {(max(window, 2) + 1) * num_envs}",
        )
    if storage == "memmap" and dir is None:
        raise ValueError("memmap storage needs a directory")
    place = torch.device(device) if storage == "device" else torch.device("cpu")
    needed = capacity if expected is None or storage != "ram" else min(capacity, expected)
    check_room(observation, action_size, needed, storage=storage, device=place, dir=dir)
    fields = _fields(observation, action_size)
    ring = Ring(
        fields, num_envs, rows, window, place, Path(dir) / "ring" if storage == "memmap" and dir else None
    )
    generator = torch.Generator(place).manual_seed(seed)
    draw: UniformStarts
    if sampler == "prioritized" and fade == 1:
        draw = PrioritizedStarts(generator, ring, alpha)
    elif sampler == "prioritized":
        draw = FadingStarts(generator, ring, alpha, fade)
    elif sampler == "uniform":
        draw = UniformStarts(generator)
    else:
        raise UserError(f"unknown replay.sampler={sampler!r}", "use uniform or prioritized")
    return Replay(ring, ArrivalWriter(tuple(observation)), draw, batch, captured=captured, say=say)


def forecast_bytes(observation: Fields, action_size: int, capacity: int) -> int:
    """Bytes a replay of `capacity` rows takes once it is full."""
    return capacity * _row_bytes(observation, action_size)


def check_room(
    observation: Fields,
    action_size: int,
    capacity: int,
    *,
    storage: str = "ram",
    device: torch.device | None = None,
    dir: Path | None = None,
) -> None:
    """Refuse a replay that would take over 80 % of what is free, naming the capacity that fits."""
    row = _row_bytes(observation, action_size)
    places: list[tuple[str, int, int]] = []
    if storage not in ("ram", "memmap", "device"):
        raise UserError(f"unknown replay.storage={storage!r}", "use ram, memmap or device")
    if storage == "device" and device is not None and device.type == "cuda":
        places.append(("device memory", row, torch.cuda.mem_get_info(device)[0]))
    elif storage != "memmap":
        places.append(("memory", row, durable.available_memory()))
    if dir is not None:  # the saved chunks, and for a memmap the ring itself
        saved = sum(path.stat().st_size for path in chunks.listed(Path(dir)))
        copies = 2 if storage == "memmap" else 1
        places.append((f"disk at {dir}", copies * row, durable.free_bytes(Path(dir)) + saved))
    for name, each, free in places:
        if capacity * each > 0.8 * free:
            raise UserError(
                f"a replay of {capacity:,} rows needs {capacity * each / 2**30:.1f} GiB of {name}, "
                f"{free / 2**30:.1f} GiB are free (at most 80 % may be used)",
                f"set replay.capacity={int(0.8 * free / each)} or less",
            )


def _fields(observation: Fields, action_size: int) -> Fields:
    own: Fields = {"prev_action": ((action_size,), "float32"), "reward": ((), "float32")}
    return {**observation, **own, **{name: ((), "bool") for name in ("terminated", "truncated", "is_first")}}


def _row_bytes(observation: Fields, action_size: int) -> int:
    fields = _fields(observation, action_size).values()
    return _BOOKKEEPING + sum(
        torch.Size(shape).numel() * getattr(torch, dtype).itemsize for shape, dtype in fields
    )


def _as_is(data: TensorDictBase) -> TensorDictBase:
    return data
