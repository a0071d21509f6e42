"""A replay ring of arrivals, one column per environment, and the writer that fills it.

Every row has an integer `key`. Along a column it grows by 1 per row and by 2 where an episode starts, so two
rows p and q of one column belong to the same episode and lie k decisions apart exactly when
key[q] == key[p] + k. That one rule covers episode ends, restarts of a worker, the write head and any number
of laps.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data.replay_buffers.storages import Storage
from torchrl.data.replay_buffers.writers import Writer

EMPTY = -(2**62)  # a key no arithmetic on real keys reaches
FLAGS = ("terminated", "truncated", "is_first")


class Ring(Storage):
    """Hold `columns` rings of `rows` arrivals each in flat tensors [columns * rows, ...]."""

    def __init__(
        self,
        fields: dict[str, tuple[tuple[int, ...], str]],
        columns: int,
        rows: int,
        window: int,
        device: torch.device,
        folder: Path | None,
    ) -> None:
        super().__init__(columns * rows)
        self.columns, self.rows, self.window = columns, rows, window
        self.device = device
        self.fields = {
            name: _allocate(columns * rows, *field, self.device, folder, name)
            for name, field in fields.items()
        }
        self.key = torch.full((columns * rows,), EMPTY, dtype=torch.int64, device=self.device)
        self.startable = torch.zeros(columns * rows, dtype=torch.bool, device=self.device)
        self.written = torch.zeros(
            columns, dtype=torch.int64
        )  # rows ever written, on the CPU: no sync to read them
        self.clock = torch.zeros(columns, dtype=torch.int64)  # the next row's key, if it starts no episode
        self._offsets = torch.arange(window, device=self.device)

    def __len__(self) -> int:
        return int(self.written.clamp(max=self.rows).sum())

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk."""
        return 16 + sum(field[0].nbytes for field in self.fields.values())

    @property
    def reach(self) -> int:
        """Rows of a column that may hold data."""
        return min(self.rows, int(self.written.max()))

    def before(self, index: Tensor) -> Tensor:
        """The row written before each row of the same column: M -> M."""
        column = index // self.rows
        return column * self.rows + (index - column * self.rows - 1) % self.rows

    def put(self, index: Tensor, values: dict[str, Tensor]) -> None:
        """Store values M ... in distinct rows: M."""
        index = index.to(self.device, non_blocking=True)
        for name, value in values.items():
            target = self.fields[name]
            target.index_copy_(0, index, value.to(target.device, target.dtype, non_blocking=True))

    def mark(self, index: Tensor, key: Tensor) -> None:
        """Give rows their keys and work out which rows now have, or lost, their successor: M, M."""
        index, key = index.to(self.device), key.to(self.device)
        self.key.index_copy_(0, index, key)
        self.startable.index_fill_(0, index, False)
        before = self.before(index)
        follows = self.key.index_select(0, before) + 1 == key
        self.startable.index_copy_(0, before, follows)

    def windows(self, start: Tensor) -> dict[str, Tensor]:
        """Gather the windows that begin at rows B, padded with their last valid row: B -> B T ..."""
        column = start // self.rows * self.rows
        index = (start - column).unsqueeze(1) + self._offsets
        index = torch.where(index < self.rows, index, index - self.rows) + column.unsqueeze(1)
        key = self.key.index_select(0, index.flatten()).view_as(index)
        # Keys only grow along a column and skip one at a boundary: after the first mismatch none can match.
        valid = key == key[:, :1] + self._offsets
        last = valid.sum(1, keepdim=True) - 1
        index = index.gather(1, self._offsets.minimum(last))
        flat, shape = index.flatten(), index.shape
        batch = {
            name: field.index_select(0, flat).view(*shape, *field.shape[1:])
            for name, field in self.fields.items()
        }
        return {**batch, "valid": valid, "index": index}

    def since(self, written: Tensor) -> Tensor:
        """The stored rows that came after a former `written`, by column, oldest first -> M."""
        first = torch.maximum(written, self.written - self.rows).tolist()
        ordinals = [torch.arange(*span) for span in zip(first, self.written.tolist(), strict=True)]
        return torch.cat([column * self.rows + o % self.rows for column, o in enumerate(ordinals)])

    def dump(self, rows: Tensor) -> dict[str, Tensor]:
        """Copy rows M to the CPU, with all that `fill` needs."""
        there = rows.to(self.device)
        content = {f"field.{name}": field.index_select(0, there).cpu() for name, field in self.fields.items()}
        return {**content, "rows": rows, "keys": self.key.index_select(0, there).cpu()}

    def fill(self, content: dict[str, Tensor]) -> None:
        """Put rows from `dump` where they were."""
        self.put(content["rows"], {name: content[f"field.{name}"] for name in self.fields})
        self.key.index_copy_(0, content["rows"].to(self.device), content["keys"].to(self.device))

    def resume(self, written: Tensor, clock: Tensor) -> None:
        """Take up the cursors of an earlier ring whose rows have been filled in."""
        if written.shape != self.written.shape or clock.shape != self.clock.shape:
            raise ValueError(f"cursors of {written.numel()} columns for {self.columns}")
        self.written, self.clock = written, clock
        key = self.key.view(self.columns, self.rows)
        self.startable.copy_((key.roll(-1, 1) == key + 1).flatten())

    def layout(self) -> dict[str, Any]:
        """What another ring must agree on to take our rows."""
        fields = {
            name: [list(f.shape[1:]), str(f.dtype).removeprefix("torch.")] for name, f in self.fields.items()
        }
        return {"columns": self.columns, "rows": self.rows, "fields": fields}

    def get(self, index: Any) -> TensorDict:
        """Return stored rows: M -> batch M."""
        index = torch.as_tensor(index, device=self.device)
        return TensorDict({name: field[index] for name, field in self.fields.items()}, batch_size=index.shape)

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        """Refuse: only the writer knows where the next row of an episode belongs."""
        raise NotImplementedError("rows enter this ring through Replay.extend, which keeps episodes together")

    def state_dict(self) -> dict[str, Any]:
        """The live tensors, uncopied."""
        return {
            **self.fields,
            "key": self.key,
            "startable": self.startable,
            "written": self.written,
            "clock": self.clock,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy tensors of the same shapes into place."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state_dict[name])

    def _empty(self) -> None:
        self.key.fill_(EMPTY)
        self.startable.zero_()
        self.written.zero_()
        self.clock.zero_()


class ArrivalWriter(Writer):
    """Turn transitions into arrivals: a row per decision, and one for each episode's first observation."""

    _storage: Ring

    def __init__(self, observations: tuple[str, ...]) -> None:
        super().__init__()
        self.observations = observations
        self._write_count = 0

    def add(self, data: TensorDictBase) -> Tensor:
        """Write one transition of every environment: batch N."""
        return self.extend(data)

    def extend(self, data: TensorDictBase) -> Tensor:
        """Write transitions, batch N or N T -> the rows written, M."""
        if data.ndim == 1:
            data = data.unsqueeze(1)
        if data.shape[0] != self._storage.columns:
            raise ValueError(
                f"got transitions of {data.shape[0]} environments for {self._storage.columns} columns"
            )
        # A decision writes at most two rows, and the rows of one call must not collide.
        fits = self._storage.rows // 2
        if data.shape[1] <= fits:
            return self._write(data)
        return torch.cat([self._write(piece) for piece in data.split(fits, dim=1)])

    def _write(self, data: TensorDictBase) -> Tensor:
        ring = self._storage
        starts = data.get("is_init").reshape(data.shape).to("cpu")
        kept = self._kept(data)
        begun, added = starts.cumsum(1), kept.cumsum(1)
        order = begun + added - 1  # rank of each arrival among the rows this call adds to its column
        base = torch.arange(ring.columns).unsqueeze(1) * ring.rows
        index = base + (ring.written.unsqueeze(1) + order) % ring.rows
        key = ring.clock.unsqueeze(1) + order + begun
        whole = bool(kept.all())
        rows, keys = (index.flatten(), key.flatten()) if whole else (index[kept], key[kept])
        ring.put(rows, self._arrivals(data, None if whole else kept))
        if starts.any():
            rank = (order - kept.long())[starts] + ring.written.unsqueeze(1).expand_as(order)[starts]
            first = base.expand_as(order)[starts] + rank % ring.rows
            ring.put(first, self._first(data, starts))
            rows, keys = torch.cat([first, rows]), torch.cat([(key - kept.long())[starts], keys])
        ring.mark(rows, keys)
        ring.written += order[:, -1] + 1
        ring.clock = key[:, -1] + 1
        self._write_count += int(kept.sum())
        return rows

    def _kept(self, data: TensorDictBase) -> Tensor:
        # A worker that died reports a decision of 0 frames: its action led nowhere, so it is no transition.
        frames = data.get(("next", "frames"), None)
        if frames is None:
            return torch.ones(data.shape, dtype=torch.bool)
        return (frames.reshape(data.shape) > 0).to("cpu")

    def _arrivals(self, data: TensorDictBase, kept: Tensor | None) -> dict[str, Tensor]:
        after = data.get("next")
        rows = {name: after.get(name).flatten(0, 1) for name in self.observations}
        rows["prev_action"] = data.get("action").flatten(0, 1)
        for name in ("reward", "terminated", "truncated"):
            rows[name] = after.get(name).reshape(-1)
        rows["is_first"] = torch.zeros_like(rows["terminated"])
        if kept is None:
            return rows
        picks = kept.flatten()
        return {name: value[picks.to(value.device)] for name, value in rows.items()}

    def _first(self, data: TensorDictBase, starts: Tensor) -> dict[str, Tensor]:
        ring = self._storage
        rows = {name: (value := data.get(name))[starts.to(value.device)] for name in self.observations}
        count = int(starts.sum())
        for name in ("prev_action", "reward", *FLAGS):
            field = ring.fields[name]
            rows[name] = torch.zeros(count, *field.shape[1:], dtype=field.dtype, device=field.device)
        rows["is_first"].fill_(True)
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The number of decisions written."""
        return {"decisions": self._write_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of decisions written."""
        self._write_count = int(state_dict["decisions"])

    def _empty(self, empty_write_count: bool = True) -> None:
        if empty_write_count:
            self._write_count = 0

    def dumps(self, path: Any) -> None:
        """Refuse: see Replay.flush."""
        raise NotImplementedError("use Replay.flush, which is crash-safe")

    def loads(self, path: Any) -> None:
        """Refuse: see Replay.restore."""
        raise NotImplementedError("use Replay.restore, which verifies what it reads")


def _allocate(
    rows: int, shape: tuple[int, ...], dtype: str, device: torch.device, folder: Path | None, name: str
) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(rows, *shape, dtype=getattr(torch, dtype), device=device)
    if folder is None:  # numpy asks the system for zero pages, so memory is taken only as rows arrive
        return torch.from_numpy(np.zeros((rows, *shape), dtype))
    folder.mkdir(parents=True, exist_ok=True)
    return torch.from_numpy(
        np.memmap(folder / f"{name.replace('/', '_')}.ring", dtype, "w+", shape=(rows, *shape))
    )
